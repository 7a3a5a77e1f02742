"""Sessions of people: signing in, the person of a token, proving who they are again, signing out.

Each use is looked up: a session that was ended anywhere ends at once in every process. Attempts to sign in are limited
by account, by address and in all, since each of them costs a hash of a password; those of an account are in the record.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Float, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.attempts import SignInLimits
from payment_service.access.models import Person, PersonSession
from payment_service.access.people import Right, act_as, caller_of, normal_email, rights_of
from payment_service.access.service import Caller, digest_of
from payment_service.audit import service as audit
from payment_service.errors import InvalidInput, NotAuthenticated
from payment_service.postgres.database import Database, now_of

SESSION_LASTS: Final = timedelta(hours=12)
PROVED_FOR_S: Final = 600
"""How long a proof of who they are counts."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person with a valid session."""

    person: Person
    digest: str
    proved_s: float
    """Seconds since the person last proved who they are: by the password, or to an OpenID provider."""

    @property
    def caller(self) -> Caller:
        """The person as a ``Caller``."""
        return caller_of(self.person)

    @property
    def has_proved(self) -> bool:
        """Whether the person proved who they are a short time ago."""
        # A proof in the future was written while the clock was ahead: it proves nothing.
        return 0 <= self.proved_s < PROVED_FOR_S

    def may(self, right: Right) -> bool:
        """Whether the person may do this, in the shops that they see."""
        return right in rights_of(self.person)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of all people."""

    database: Database
    limits: SignInLimits

    async def sign_in(self, email: str, password: str, *, address: str) -> str:
        """Begin a session; returns its token, of which only the digest is kept.

        Raises:
            NotAuthenticated: when there is no such account, or the password is another one: the two look alike.
            RateLimited: after too many attempts.
        """
        email = normal_email(email)
        await self.limits.take(address, email)
        async with self.database.reading() as session:
            person = await session.scalar(select(Person).where(Person.email == email, Person.disabled_at.is_(None)))
        password_hash = None if person is None else person.password_hash
        if not await _is_right(password_hash, password) or person is None:
            if person is not None:
                await self._record("sign-in-refused", person)
            raise NotAuthenticated("the e-mail address and the password of an account")
        act_as(person)
        async with self.database.transaction() as session:
            same = select(Person.id).where(
                Person.id == person.id,
                Person.password_hash == password_hash,
                Person.disabled_at.is_(None),
            )
            if await session.scalar(same.with_for_update(read=True)) is None:
                raise NotAuthenticated("the e-mail address and the password of an account")
            token = await _begun(session, person)
        await self.limits.give_back(address, email)
        return token

    async def of(self, token: str) -> SignedIn:
        """The person of a session; from here on audit entries name them.

        Raises:
            NotAuthenticated: when it is unknown, has ended or has expired.
        """
        digest = digest_of(token)
        proved_s = func.extract("epoch", func.now() - PersonSession.proved_at).cast(Float)
        query = (
            select(Person, proved_s)
            .join(PersonSession, PersonSession.person_id == Person.id)
            .where(
                PersonSession.digest == digest,
                PersonSession.ended_at.is_(None),
                PersonSession.expires_at > func.now(),
                Person.disabled_at.is_(None),
            )
        )
        async with self.database.reading() as session:
            row = (await session.execute(query)).one_or_none()
        if row is None:
            raise NotAuthenticated("a session that has not ended")
        act_as(row[0])
        return SignedIn(row[0], digest, row[1])

    async def prove(self, signed_in: SignedIn, password: str, *, address: str) -> None:
        """Give the password again.

        Raises:
            InvalidInput: when it is another one.
            RateLimited: after too many attempts.
            NotAuthenticated: when the session ended meanwhile.
        """
        person = signed_in.person
        await self.limits.take(address, person.email)
        if not await _is_right(person.password_hash, password):
            await self._record("password-refused", person)
            raise InvalidInput("password", "is another one")
        async with self.database.transaction() as session:
            row = await session.get(PersonSession, signed_in.digest, with_for_update=True)
            if row is None or row.ended_at is not None:
                raise NotAuthenticated("a session that has not ended")
            now = await now_of(session)
            row.proved_at = max(row.proved_at, now)  # it may have waited for a later proof
        await self.limits.give_back(address, person.email)

    # --- through an OpenID provider

    async def begin_of(self, email: str, *, nonce: str, proved_at: datetime) -> str | None:
        """Begin a session of the account with this verified address; returns its token, or none without an account.

        ``nonce`` is that of the attempt. ``proved_at`` is when the provider authenticated the person.

        Raises:
            NotAuthenticated: when the attempt began a session before.
        """
        token = None
        async with self.database.transaction() as session:
            # The lock lets two uses of one attempt wait for each other.
            person = await session.scalar(select(Person).where(Person.email == normal_email(email)).with_for_update())
            if person is None:
                return None
            act_as(person)
            begun = select(PersonSession.digest).where(PersonSession.openid_nonce == digest_of(nonce))
            is_used = await session.scalar(begun) is not None
            if is_used or person.disabled_at is not None:
                why = "used before" if is_used else "the account has ended"
                await audit.record_change(session, "sign-in-refused", person, reason=f"OpenID Connect: {why}")
            else:
                now = await now_of(session)
                token = await _begun(
                    session,
                    person,
                    how="OpenID Connect",
                    proved_at=min(proved_at, now),
                    openid_nonce=digest_of(nonce),
                )
        if is_used:
            raise NotAuthenticated("an attempt that began no session before")
        return token

    async def prove_of(self, digest: str, email: str, *, proved_at: datetime) -> bool:
        """Record that the provider authenticated the person of a session again; false for another person's address.

        Raises:
            NotAuthenticated: when the session ended meanwhile.
        """
        async with self.database.transaction() as session:
            row = await session.get(PersonSession, digest, with_for_update=True)
            if row is None or row.ended_at is not None:
                raise NotAuthenticated("a session that has not ended")
            person = await session.get_one(Person, row.person_id)
            act_as(person)
            if person.email != normal_email(email):
                await audit.record_change(session, "proof-refused", person, reason="OpenID Connect: another person")
                return False
            now = await now_of(session)
            row.proved_at = max(row.proved_at, min(proved_at, now))
        return True

    async def sign_out(self, signed_in: SignedIn) -> None:
        """End a session. Idempotent."""
        async with self.database.transaction() as session:
            row = await session.get(PersonSession, signed_in.digest, with_for_update=True)
            if row is not None and row.ended_at is None:
                row.ended_at = await now_of(session)
                await audit.record_change(session, "sign-out", signed_in.person)

    async def _record(self, operation_type: str, person: Person) -> None:
        async with self.database.transaction() as session:
            await audit.record_change(session, operation_type, person)


async def _begun(session: AsyncSession, person: Person, *, how: str | None = None, **more: Any) -> str:
    """Begin a session of an account, in the caller's transaction; returns its token."""
    token = secrets.token_urlsafe(32)
    expires_at = func.now() + SESSION_LASTS
    session.add(PersonSession(digest=digest_of(token), person_id=person.id, expires_at=expires_at, **more))
    await session.flush()
    await audit.record_change(session, "sign-in", person, reason=how)
    return token


async def _is_right(password_hash: str | None, password: str) -> bool:
    from payment_service.access import passwords  # noqa: PLC0415 - a program that starts does not pay for it

    return await passwords.is_right(password_hash, password)
