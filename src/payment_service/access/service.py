"""Who calls, and what they may do.

Keys are cached in memory. The database notifies each change of a key, which empties the cache: a revoked key ends
within the time of a NOTIFY. Without a LISTEN connection every key is looked up. Expiry is checked at each use.
"""

import asyncio
import hashlib
import math
import re
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import Float, Select, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.models import ApiKey, ApiKeyUse
from payment_service.audit import service as audit
from payment_service.errors import InvalidInput, NotAuthenticated, ScopeMissing, ShopNotConfigured
from payment_service.observability.logs import get_logger
from payment_service.postgres.cache import Cache
from payment_service.postgres.database import Database, constraint_of, now_of
from payment_service.postgres.visibility import ALL_SHOPS, Shops

RECORD_USES_EVERY_S: Final = 60
_KEY_MARK: Final = "ps_"
_PREFIX_LENGTH: Final = 10
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OURS: Final = frozenset({"anonymous", "console", "development", "service", "worker"})
"""Actors of the audit log that are no caller: a key with such a name could be taken for them."""
log = get_logger(__name__)


class Scope(StrEnum):
    """What a key may do."""

    CONFIG_READ = "config:read"
    PAYMENTS_READ = "payments:read"
    PAYMENTS_WRITE = "payments:write"
    REFUNDS_WRITE = "refunds:write"
    REPORTS_WRITE = "reports:write"
    ADMIN = "admin"
    SECRETS_READ = "secrets:read"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, what they may do, and which shops they may touch."""

    name: str
    scopes: frozenset[Scope]
    shops: Shops
    key_id: int | None = field(default=None, compare=False)
    """The API key that was presented; none for callers inside this process: the service itself, the command line."""

    def require(self, scope: Scope) -> None:
        """Refuse a caller without the scope.

        Raises:
            ScopeMissing: for such a caller.
        """
        if scope not in self.scopes:
            raise ScopeMissing(scope)

    def may_touch(self, shop_id: int | None) -> bool:
        """Whether the shop is one of the caller's. What belongs to no shop is only for callers of all shops."""
        return self.shops is ALL_SHOPS or shop_id in self.shops

    def has_all_rights_of(self, other: "Caller") -> bool:
        """Whether this caller may do everything that the other may, in every shop of the other."""
        return other.scopes <= self.scopes and (
            self.shops is ALL_SHOPS or (other.shops is not ALL_SHOPS and other.shops <= self.shops)
        )

    def narrowed_to(self, shop_id: int) -> "Caller":
        """The same caller, limited to one shop; to none when that shop is not theirs."""
        return replace(self, shops=frozenset({shop_id} if self.may_touch(shop_id) else ()))

    def require_shop(self, shop_id: int) -> None:
        """Refuse a shop that is not the caller's: it looks exactly like one without routing.

        Raises:
            ShopNotConfigured: for such a shop.
        """
        if not self.may_touch(shop_id):
            raise ShopNotConfigured(shop_id)


FULL_ACCESS: Final = Caller("development", frozenset(Scope), ALL_SHOPS)
"""The caller of a development server that runs without authentication, and the person at the command line."""
SERVICE: Final = Caller("service", frozenset(Scope), ALL_SHOPS)
"""The service itself: when it starts, and when it looks for tasks."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only moment at which it can be seen whole."""

    row: ApiKey
    key: str = field(repr=False)


def _valid_keys() -> Select[ApiKey]:
    not_expired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return select(ApiKey).where(ApiKey.revoked_at.is_(None), not_expired)


@dataclass(frozen=True, slots=True)
class _CachedKey:
    """A key that was neither revoked nor expired when it was read."""

    caller: Caller
    ends_at: float
    """By the monotonic clock, which no change of the time of day moves."""


def _caller(row: ApiKey) -> Caller:
    scopes = frozenset(Scope(scope) for scope in row.scopes if scope in set(Scope))
    return Caller(row.name, scopes, ALL_SHOPS if row.shops is None else frozenset(row.shops), row.id)


def digest_of(key: str) -> str:
    """What is kept of a key, a session's token or a link: its SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Access:
    """The keys of the service."""

    database: Database
    cache: Cache[str, _CachedKey] = field(default_factory=lambda: Cache("api_key_changed"))
    """By digest. Unknown keys are not cached, so that it holds no more than there are keys."""
    _used: set[int] = field(default_factory=set, repr=False)
    """Keys whose use is not recorded yet."""

    async def caller_with(self, key: str) -> Caller:
        """The caller that a key stands for.

        Raises:
            NotAuthenticated: when the key is unknown, revoked or expired.
        """
        cached = await self.cache.get_or_read(digest_of(key), self._read)
        if cached.ends_at <= time.monotonic():
            raise NotAuthenticated
        if cached.caller.key_id is not None:
            self._used.add(cached.caller.key_id)
        return cached.caller

    async def record_uses(self) -> None:
        """Record which keys were used since the last call; if that fails, the next call does."""
        used = sorted(self._used)
        if not used:
            return
        noted = insert(ApiKeyUse).values([{"key_id": key_id} for key_id in used])
        now = noted.on_conflict_do_update(index_elements=[ApiKeyUse.key_id], set_={"used_at": func.now()})
        async with self.database.transaction() as session:
            await session.execute(now)
        self._used.difference_update(used)

    async def record_uses_repeatedly(self) -> None:
        """Record uses every ``RECORD_USES_EVERY_S`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(RECORD_USES_EVERY_S)
            try:
                await self.record_uses()
            except Exception as error:  # noqa: BLE001 - the database may be away; the next turn writes them
                log.warning("uses of keys are not recorded yet", error=type(error).__name__)

    async def last_used(self) -> dict[int, datetime]:
        """When each key was last used, as far as recorded; a key that never was is left out."""
        async with self.database.reading() as session:
            return {use.key_id: use.used_at for use in await session.scalars(select(ApiKeyUse))}

    async def _read(self, digest: str) -> _CachedKey:
        asked_at = time.monotonic()
        left_s = func.extract("epoch", ApiKey.expires_at - func.now()).cast(Float)
        async with self.database.reading() as session:
            query = _valid_keys().add_columns(left_s).where(ApiKey.digest == digest)
            found = (await session.execute(query)).one_or_none()
        if found is None:
            raise NotAuthenticated
        row, lasts_s = found
        return _CachedKey(_caller(row), math.inf if lasts_s is None else asked_at + lasts_s)

    async def valid_callers(self, key_ids: Collection[int]) -> dict[int, Caller]:
        """What each of these keys stands for now; revoked and expired ones are left out."""
        async with self.database.reading() as session:
            return {row.id: _caller(row) for row in await session.scalars(_valid_keys().where(ApiKey.id.in_(key_ids)))}

    async def require_valid(self, caller: Caller) -> None:
        """Refuse a caller whose key has lost rights since the request began. A caller without a key has none to lose.

        Raises:
            NotAuthenticated: for such a caller.
        """
        if caller.key_id is None:
            return
        now = (await self.valid_callers([caller.key_id])).get(caller.key_id)
        if now is None or not now.has_all_rights_of(caller):
            raise NotAuthenticated

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        shops: Shops,
        expires_at: datetime | None = None,
        once: UUID | None = None,
    ) -> NewKey:
        """Make a key. ``once`` is the id of a request that may be sent twice.

        Raises:
            InvalidInput: for a scope that does not exist, no scope, or no name; for a name that stands for other shops;
                for ``once`` when a key was made for that request before. That key is not shown again.
        """
        if not _NAME.fullmatch(name) or name in _OURS:
            raise InvalidInput(
                "name", f"is 1 to 64 letters, digits, dots and dashes, and none of {', '.join(sorted(_OURS))}"
            )
        unknown = [scope for scope in scopes if scope not in set(Scope)]
        if unknown or not scopes:
            raise InvalidInput("scopes", f"are one or more of {', '.join(Scope)}")
        key = _KEY_MARK + secrets.token_urlsafe(32)
        row = ApiKey(
            name=name,
            prefix=key[:_PREFIX_LENGTH],
            digest=digest_of(key),
            scopes=sorted(set(scopes)),
            shops=None if shops is ALL_SHOPS else sorted(shops),
            expires_at=expires_at,
            once=once,
        )
        try:
            async with self.database.transaction() as session:
                await _check_name(session, row)
                session.add(row)
                await session.flush()
                await audit.record_change(session, "key-create", row)
        except IntegrityError as error:
            if constraint_of(error) != "api_key_once":
                raise
            raise InvalidInput("once", "stands for a key that was made before") from error
        return NewKey(row, key)

    async def all(self) -> list[ApiKey]:
        """Every key, the revoked ones too, oldest first. For operators of the service, not for callers."""
        async with self.database.reading() as session:
            return list(await session.scalars(select(ApiKey).order_by(ApiKey.id)))

    async def revoke(self, key_id: int) -> ApiKey | None:
        """Revoke a key for ever; none when there is no such key. Idempotent."""
        async with self.database.transaction() as session:
            row = await session.get(ApiKey, key_id, with_for_update=True)
            if row is not None and row.revoked_at is None:
                row.revoked_at = await now_of(session)
                await audit.record_change(session, "key-revoke", row)
        self.cache.forget_all()
        return row


async def _check_name(session: AsyncSession, row: ApiKey) -> None:
    """Refuse a name that is used for other shops: Idempotency-Keys belong to a name, and would collide.

    A key that replaces another has the same shops, or some more or fewer.
    """
    for shops in await session.scalars(select(ApiKey.shops).where(ApiKey.name == row.name)):
        if shops is None or row.shops is None:
            continue
        one, other = set(shops), set(row.shops)
        if not (one <= other or other <= one):
            raise InvalidInput("name", "stands for other shops already: give each client a name of its own")
