"""Signing in through an OpenID provider: an attempt begins, the browser goes there, and comes back with a code.

The provider says whose e-mail address it is, and nothing else is taken from it: the account exists already, and its
role and shops are ours. What an attempt has to remember goes into a sealed cookie of its browser, so any process can
end it; an attempt begins one session at most, which the database sees to. The same way a person is asked again for who
they are before money moves: the provider has to say when it last did that.

Without the setting nothing of this is used, and Authlib is imported when somebody signs in with it.
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
    """The provider does not answer, or not with what it should."""
    OVER = "over"
    """The attempt is unknown here: too old, of another browser, or used."""
    DENIED = "denied"
    """The provider says no."""
    NOT_PROVEN = "not_proven"
    """What the provider sent does not hold."""
    NOT_VERIFIED = "not_verified"
    """The provider does not say that the e-mail address is the person's."""
    NO_ACCOUNT = "no_account"
    """There is no account of that address that may sign in."""
    ANOTHER_PERSON = "another_person"
    """It is the address of another account than that of the session."""
    NOT_ASKED_AGAIN = "not_asked_again"
    """The provider does not say that it asked the person just now."""


class OpenIdRefused(Exception):
    """The sign-in is refused, or the session was not proved. ``wanted`` is the page that the attempt began for."""

    def __init__(self, why: Refusal, wanted: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider said about a person, verified."""

    email: str | None
    """None unless the provider says that the address is theirs."""
    authenticated_at: float | None
    """When the provider last asked for who they are, in seconds since 1970; none when it does not say."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What is remembered while the browser is at the provider."""

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
    """What the browser has to keep and bring back."""


@dataclass(frozen=True, slots=True)
class CompletedAttempt:
    """An attempt that ended well."""

    wanted: str
    """The page that it began for."""
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
        """What people know the provider by."""
        return urlsplit(self.settings.issuer).hostname or ""

    async def begin(self, wanted: str, *, session: str | None = None) -> StartedAttempt:
        """Begin an attempt for a page. With the digest of a ``session`` the person is asked again, and it is proved.

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
            OpenIdRefused: when it does not come to a session.
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
        # A session that was begun without saying when has still to be proved before money moves.
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
        """The attempt that the browser kept, if it is the one that the provider answers."""
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
        if self._made is None:
            # In a thread: no payment waits for the import.
            module = await asyncio.to_thread(import_module, "payment_service.access.openid_provider")
            self._made = module.Provider(self.settings)
        return self._made


def _refuse(why: Refusal, attempt: _Attempt) -> NoReturn:
    log.warning("sign-in through the OpenID provider refused", why=why)
    raise OpenIdRefused(why, attempt.wanted)
