"""People who sign in to the console: who they are, their role and shops, and the link that sets a password.

An account is made by an administrator and is never removed: its e-mail address names the person in the record. A
change of role, shops or password ends every session of the account, by a trigger.
"""

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.models import Person, PersonLink, PersonSession
from payment_service.access.service import Caller, Scope, digest_of
from payment_service.audit import service as audit
from payment_service.characters import one_line
from payment_service.errors import InvalidInput, NotAuthenticated
from payment_service.money import Money
from payment_service.observability.context import origin
from payment_service.postgres.database import Database, is_duplicate, now_of
from payment_service.postgres.visibility import ALL_SHOPS, Shops

LINK_LASTS: Final = timedelta(days=1)
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_LONGEST_EMAIL: Final = 64
_LONGEST_NAME: Final = 100


class Role(StrEnum):
    """What a person does here."""

    FLORIST = "florist"
    OPERATOR = "operator"
    ACCOUNTANT = "accountant"
    ADMIN = "admin"


class Right(StrEnum):
    """What a person may do in the console."""

    READ = "read"
    REFUND = "refund"
    SETTLE = "settle"
    ROUTE = "route"
    TEST = "test"
    RECORD = "record"
    CHANGES = "changes"
    HEALTH = "health"
    DELIVER = "deliver"
    """See webhooks and messages, and send webhooks again."""
    ADMINISTER = "administer"
    """Keys, accounts, and which webhooks there are."""


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.FLORIST: frozenset({Right.READ, Right.REFUND}),
    Role.OPERATOR: frozenset(
        {Right.READ, Right.REFUND, Right.SETTLE, Right.TEST, Right.RECORD, Right.HEALTH, Right.DELIVER}
    ),
    Role.ACCOUNTANT: frozenset({Right.READ, Right.RECORD}),
    Role.ADMIN: frozenset(Right),
}
_SCOPES: Final[Mapping[Right, frozenset[Scope]]] = {
    Right.READ: frozenset({Scope.PAYMENTS_READ}),
    Right.REFUND: frozenset({Scope.REFUNDS_WRITE}),
    Right.TEST: frozenset({Scope.PAYMENTS_WRITE}),
}
"""For the other rights the API asks for ``admin``, which is far more, or has nothing of the kind."""


def rights_of(person: Person) -> frozenset[Right]:
    """What the person may do; nothing for a role that this version does not know."""
    return RIGHTS[Role(person.role)] if person.role in set(Role) else frozenset()


def caller_of(person: Person) -> Caller:
    """The person as a ``Caller``. Without a list of shops a florist sees none, the other roles all."""
    scopes = frozenset[Scope]().union(*(_SCOPES.get(right, frozenset()) for right in rights_of(person)))
    is_for_all = person.shops is None and person.role != Role.FLORIST
    return Caller(person.email, scopes, ALL_SHOPS if is_for_all else frozenset(person.shops or ()))


def act_as(person: Person) -> None:
    """From here on audit entries name this person as the actor."""
    origin.set(replace(origin.get(), actor=person.email))


@dataclass(frozen=True, slots=True)
class People:
    """The accounts."""

    database: Database

    async def add(self, email: str, name: str, role: str, shops: Shops, *, refund_limit: Money | None = None) -> Person:
        """Make an account, which cannot be used before a link has set its password.

        ``refund_limit`` is what the person may pay back of one payment; none is no limit.

        Raises:
            InvalidInput: for an address that is none or has an account, no name, an unknown role, or shops that do not
                go with the role.
        """
        email, name = normal_email(email), one_line(name)
        if not _EMAIL.fullmatch(email) or len(email) > _LONGEST_EMAIL or email != email.lower():
            raise InvalidInput("email", f"is an address of up to {_LONGEST_EMAIL} characters")
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise InvalidInput("name", f"has 1 to {_LONGEST_NAME} characters")
        person = Person(
            email=email,
            name=name,
            role=_checked_role(role, shops),
            shops=_listed(shops),
            refund_limit=refund_limit and refund_limit.tiyn,
        )
        try:
            async with self.database.transaction() as session:
                session.add(person)
                await session.flush()
                await audit.record_change(session, "person-create", person)
        except IntegrityError as error:
            if is_duplicate(error):
                raise InvalidInput("email", "has an account already") from error
            raise
        return person

    async def all(self) -> list[Person]:
        """Every account, the disabled ones too, oldest first."""
        async with self.database.reading() as session:
            return list(await session.scalars(select(Person).order_by(Person.id)))

    async def change(
        self,
        person_id: int,
        *,
        role: str | None = None,
        shops: Shops | None = None,
        refund_limit: Money | None = None,
    ) -> Person | None:
        """Give an account another role, other shops or another limit; none when there is no such account.

        Its sessions end. What is left out stays; a limit stays a limit.

        Raises:
            InvalidInput: for an unknown role, or shops that do not go with the role.
        """
        async with self.database.transaction() as session:
            person = await _locked(session, person_id)
            if person is not None:
                shops = (ALL_SHOPS if person.shops is None else frozenset(person.shops)) if shops is None else shops
                person.role = _checked_role(role or person.role, shops)
                person.shops = _listed(shops)
                person.refund_limit = person.refund_limit if refund_limit is None else refund_limit.tiyn
                await audit.record_change(session, "person-change", person)
            return person

    async def disable(self, person_id: int) -> Person | None:
        """End an account for good, with its sessions; none when there is no such account. Idempotent."""
        async with self.database.transaction() as session:
            person = await _locked(session, person_id)
            if person is not None and person.disabled_at is None:
                person.disabled_at = await now_of(session)
                await audit.record_change(session, "person-disable", person)
            return person

    async def sign_out(self, person_id: int) -> Person | None:
        """End every session of an account; none when there is no such account."""
        async with self.database.transaction() as session:
            person = await _locked(session, person_id)
            if person is not None:
                held = select(PersonSession).where(
                    PersonSession.person_id == person_id, PersonSession.ended_at.is_(None)
                )
                now = await now_of(session)
                for row in await session.scalars(held):
                    row.ended_at = now
                await audit.record_change(session, "person-sign-out", person)
            return person

    async def link(self, person_id: int) -> str | None:
        """Make a link's token, which sets the password once within a day; none when there is no account to use it.

        Earlier links of the account stop working. The token is shown once: only its digest is kept.
        """
        token = secrets.token_urlsafe(32)
        async with self.database.transaction() as session:
            person = await _locked(session, person_id)
            if person is None or person.disabled_at is not None:
                return None
            session.add(PersonLink(digest=digest_of(token), person_id=person.id, expires_at=func.now() + LINK_LASTS))
            await session.flush()
            await audit.record_change(session, "person-link", person)
        return token

    async def record_sending(self, person_id: int, end: str) -> None:
        """Record whether the account's link could be sent. ``end`` holds nothing of the link."""
        async with self.database.transaction() as session:
            person = await session.get_one(Person, person_id)
            await audit.record_change(session, "person-link-send", person, reason=end)

    async def of_link(self, token: str) -> Person | None:
        """The person of a link; none when it does not work any more."""
        async with self.database.reading() as session:
            found: Person | None = await session.scalar(
                select(Person)
                .join(PersonLink, PersonLink.person_id == Person.id)
                .where(
                    PersonLink.digest == digest_of(token),
                    PersonLink.used_at.is_(None),
                    PersonLink.expires_at > func.now(),
                    Person.disabled_at.is_(None),
                )
            )
        return found

    async def set_password(self, token: str, password: str) -> Person:
        """Set the password that a link allows to set. The link is used up, and every session of the account ends.

        Raises:
            NotAuthenticated: when the link does not work any more.
            InvalidInput: for a password that is too easy to guess.
        """
        person = await self.of_link(token)
        if person is None:
            raise NotAuthenticated("a link that is not used up and not older than a day")
        from payment_service.access import passwords  # noqa: PLC0415 - a program that starts does not pay for it

        password_hash = await passwords.hash_of(passwords.checked_password(password, email=person.email))
        act_as(person)
        async with self.database.transaction() as session:
            link = await session.get(PersonLink, digest_of(token), with_for_update=True)
            now = await now_of(session)
            person = await _locked(session, person.id)
            if link is None or link.used_at is not None or person is None or person.disabled_at is not None:
                raise NotAuthenticated("a link that is not used up and not older than a day")
            person.password_hash, person.password_set_at = password_hash, now
            await audit.record_change(session, "password-set", person)
        return person


def normal_email(text: str) -> str:
    """An e-mail address as accounts have it.

    A sign that only becomes an ASCII letter by it stays as it is, such as that of kelvin: it would be the address of
    somebody else.
    """
    return "".join(small if (small := sign.lower()).isascii() == sign.isascii() else sign for sign in text.strip())


def _checked_role(role: str, shops: Shops) -> Role:
    if role not in set(Role):
        raise InvalidInput("role", f"is one of {', '.join(Role)}")
    if role == Role.FLORIST and shops is ALL_SHOPS:
        raise InvalidInput("shops", "are named one by one for a florist")
    if role == Role.ADMIN and shops is not ALL_SHOPS:
        raise InvalidInput("shops", "are all of them for an administrator")
    return Role(role)


def _listed(shops: Shops) -> list[int] | None:
    return None if shops is ALL_SHOPS else sorted(_positive(shops))


def _positive(shops: Collection[int]) -> Collection[int]:
    if any(not 0 < shop < 2**31 for shop in shops):
        raise InvalidInput("shops", "are positive numbers")
    return shops


async def _locked(session: AsyncSession, person_id: int) -> Person | None:
    found: Person | None = await session.get(Person, person_id, with_for_update=True)
    return found
