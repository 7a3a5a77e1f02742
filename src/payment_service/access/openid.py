"""Signing in through an OpenID provider: an attempt begins, the browser goes there, and comes back with a code.

Only the verified e-mail address is taken from the provider: the account exists already, with its role and shops. The
state of an attempt is in an encrypted cookie of its browser, so any process can finish it; the database makes sure that
an attempt begins one session at most. A person proves who they are again before money moves in the same way: the
provider has to state when it last authenticated them.

Without the setting none of this is used, and Authlib is imported when somebody signs in with it.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from payment_service.access.sessions import Sessions
from payment_service.access.settings import OpenIdSettings
from payment_service.errors import NotAuthenticated
from payment_service.observability.logs import get_logger
from payment_service.postgres.vault import Vault, VaultError

if TYPE_CHECKING:
    from payment_service.access.openid_provider import Provider

ATTEMPT_LASTS_S: Final = 600
LEEWAY_S: Final = 60
"""How far the provider's clock may be from ours."""
_CONTEXT: Final = "openid/attempt"
log = get_logger(__name__)


class Refusal(StrEnum):
    """Why a sign-in is refused."""

    AWAY = "away"
    """The provider does not answer, or not as it should."""
    OVER = "over"
    """The attempt is unknown here: too old, of another browser, or used."""
    DENIED = "denied"
    """The provider refused."""
    NOT_PROVEN = "not_proven"
    """What the provider sent is not valid."""
    NOT_VERIFIED = "not_verified"
    """The provider does not say that the e-mail address is the person's."""
    NO_ACCOUNT = "no_account"
    """There is no account of that address that may sign in."""
    ANOTHER_PERSON = "another_person"
    """The address is that of another account than the session's."""
    NOT_ASKED_AGAIN = "not_asked_again"
    """The provider does not state that it authenticated the person just now."""


class OpenIdRefused(Exception):
    """The sign-in is refused, or the session was not proved.

    ``wanted`` is the page that the attempt began for; none when what the browser kept is not of this attempt.
    """

    def __init__(self, why: Refusal, wanted: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider stated about a person, verified."""

    email: str | None
    """None unless the provider states that it is verified."""
    authenticated_at: float | None
    """When the provider last authenticated them, in seconds since 1970; none when it does not say."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The state of an attempt while the browser is at the provider."""

    began_at: float
    wanted: str
    session: str | None
    """The digest of the session to prove; none to begin one."""
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))


@dataclass(frozen=True, slots=True)
class StartedAttempt:
    """An attempt that began."""

    url: str
    """Where the browser goes now."""
    sealed: str
    """The encrypted state, for the browser to keep and bring back."""


@dataclass(frozen=True, slots=True)
class CompletedAttempt:
    """An attempt that ended well."""

    wanted: str
    """The page that the person wanted."""
    token: str | None = field(repr=False)
    """Of the session that began; none when a session was proved."""


class OpenId:
    """Signing in through one provider."""

    def __init__(self, settings: OpenIdSettings, vault: Vault, sessions: Sessions) -> None:
        self.settings = settings
        self._vault = vault
        self._sessions = sessions
        self._made: Provider | None = None

    @property
    def host(self) -> str:
        """The provider's host, by which people know it."""
        return urlsplit(self.settings.issuer).hostname or ""

    async def begin(self, wanted: str, *, session: str | None = None) -> StartedAttempt:
        """Begin an attempt for a page. With the digest of a ``session``, the person proves it instead of beginning one.

        Raises:
            OpenIdRefused: when the provider cannot be reached.
        """
        attempt = _Attempt(time.time(), wanted, session)
        provider = await self._provider()
        url = await provider.authorization_url(
            state=attempt.state, nonce=attempt.nonce, verifier=attempt.verifier, ask_again=session is not None
        )
        return StartedAttempt(url, self._vault.encrypt(json.dumps(asdict(attempt)), _CONTEXT))

    async def finish(self, sealed: str, answer: Mapping[str, str], *, address: str) -> CompletedAttempt:
        """End an attempt with what the provider sent the browser back with.

        Raises:
            OpenIdRefused: when no session begins or is proved.
            RateLimited: after too many attempts.
        """
        await self._sessions.limits.take(address)
        attempt = self._opened(sealed, answer.get("state", ""))
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:  # RFC 9207
            _refuse(Refusal.NOT_PROVEN, attempt)
        if "error" in answer or not answer.get("code"):
            _refuse(Refusal.DENIED, attempt)
        provider = await self._provider()
        try:
            identity = await provider.identity(answer["code"], nonce=attempt.nonce, verifier=attempt.verifier)
        except OpenIdRefused as refused:
            _refuse(refused.why, attempt)
        if identity.email is None:
            _refuse(Refusal.NOT_VERIFIED, attempt)
        token = await (self._begin if attempt.session is None else self._prove)(identity.email, identity, attempt)
        await self._sessions.limits.give_back(address)
        return CompletedAttempt(attempt.wanted, token)

    # --- steps

    async def _begin(self, email: str, identity: Identity, attempt: _Attempt) -> str:
        at = identity.authenticated_at
        is_sane = at is not None and 0 <= at <= time.time() + LEEWAY_S
        # Without a valid time, the session has still to be proved before money moves.
        proved_at = datetime.fromtimestamp(at if at is not None and is_sane else 0, UTC)
        try:
            token = await self._sessions.begin_of(email, nonce=attempt.nonce, proved_at=proved_at)
        except NotAuthenticated:
            _refuse(Refusal.OVER, attempt)
        return token or _refuse(Refusal.NO_ACCOUNT, attempt)

    async def _prove(self, email: str, identity: Identity, attempt: _Attempt) -> None:
        at = identity.authenticated_at
        if at is None or not attempt.began_at - LEEWAY_S <= at <= time.time() + LEEWAY_S:
            _refuse(Refusal.NOT_ASKED_AGAIN, attempt)
        proved_at = datetime.fromtimestamp(at, UTC)
        try:
            is_theirs = await self._sessions.prove_of(attempt.session or "", email, proved_at=proved_at)
        except NotAuthenticated:
            _refuse(Refusal.OVER, attempt)
        if not is_theirs:
            _refuse(Refusal.ANOTHER_PERSON, attempt)

    def _opened(self, sealed: str, state: str) -> _Attempt:
        """The attempt that the browser kept, if the provider's answer belongs to it."""
        try:
            attempt = _Attempt(**json.loads(self._vault.decrypt(sealed, _CONTEXT)))
        except (VaultError, ValueError, TypeError):
            attempt = None
        if attempt is None or not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise OpenIdRefused(Refusal.OVER)
        if not 0 <= time.time() - attempt.began_at + LEEWAY_S <= ATTEMPT_LASTS_S + LEEWAY_S:
            raise OpenIdRefused(Refusal.OVER, attempt.wanted)
        return attempt

    async def _provider(self) -> "Provider":
        # In a thread: no payment waits for the import. Before the question, so that one provider is made, with a lock.
        module = await asyncio.to_thread(import_module, "payment_service.access.openid_provider")
        if self._made is None:
            self._made = module.Provider(self.settings)
        return self._made


def _refuse(why: Refusal, attempt: _Attempt) -> NoReturn:
    log.warning("sign-in through the OpenID provider refused", why=why)
    raise OpenIdRefused(why, attempt.wanted)
