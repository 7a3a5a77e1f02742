"""Shop -> Route, and every change of it: checked, versioned, recorded, announced to all processes.

A change takes the row's lock and writes a version to the history with who and why, and the database notifies every
process. There is no default route anywhere: a shop without routing is an error.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from payment_service.access.service import Caller
from payment_service.errors import (
    BinOfSeveralShops,
    DeviceTokenUnreadable,
    InvalidInput,
    RouteChangeNeedsTwo,
    ShopAlreadyConfigured,
    ShopInactive,
    ShopNotConfigured,
    TokenOfAnotherBin,
)
from payment_service.identifiers import checked_bin, checked_device_token, masked
from payment_service.postgres.cache import Cache
from payment_service.postgres.database import Database, is_duplicate
from payment_service.postgres.visibility import ALL_SHOPS, of_shops
from payment_service.providers.registry import DEFAULT, NAMES
from payment_service.routing.models import DeviceToken, PaymentConfig, PaymentConfigHistory, RouteChange
from payment_service.routing.rule import needs_two
from payment_service.routing.tokens import DeviceTokens, Token, Unreadable, may_be_same
from payment_service.routing.versions import ROUTING_FIELDS, announce, put, record_change, version_of, write_version


@dataclass(frozen=True, slots=True)
class Route:
    """Where the money of a shop goes."""

    shop_id: int
    version: int
    provider: str
    organization_bin: str
    device_token_id: int | None
    device_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShopConfig:
    """A shop's routing as it stands, with its device token in the clear, where it can be read."""

    row: PaymentConfig
    device_token: Token | None = field(repr=False)

    def usable_token(self) -> str | None:
        """The device token with which the shop takes payments today; none for a shop that has none.

        Raises:
            ShopInactive: when the shop is switched off.
            DeviceTokenUnreadable: when it has one that no key opens. Without it the route would be another one.
        """
        if not self.row.is_active:
            raise ShopInactive(self.row.shop_id)
        if isinstance(self.device_token, Unreadable):
            raise DeviceTokenUnreadable(self.row.shop_id)
        return self.device_token

    @property
    def route(self) -> Route:
        """Where the money of the shop goes today; raises as ``usable_token``."""
        row = self.row
        return Route(
            row.shop_id, row.version, row.provider, row.organization_bin, row.device_token_id, self.usable_token()
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One version of a shop's routing, with the version before it; none for the first."""

    after: PaymentConfigHistory
    before: PaymentConfigHistory | None


TWO_PERSON_FIELDS = ("organization_bin", "provider", "device_token")
"""The fields that two people change, where that is the rule: the device token too, since Kaspi does not document that a
payment under one BIN with the token of another is refused."""


def checked_fields(fields: Mapping[str, Any], providers: Collection[str] = NAMES) -> dict[str, Any]:
    """Check the fields of a shop's routing as they come from outside.

    Raises:
        InvalidInput: naming the first field that is wrong.
    """
    checked = dict(fields)
    try:
        if "organization_bin" in checked:
            checked["organization_bin"] = checked_bin(checked["organization_bin"])
    except ValueError as error:
        raise InvalidInput("organization_bin", str(error)) from error
    if checked.get("provider", DEFAULT) not in providers:
        raise InvalidInput("provider", f"is one of {', '.join(providers)}")
    try:
        if checked.get("device_token") is not None:
            checked["device_token"] = checked_device_token(checked["device_token"])
    except ValueError as error:
        raise InvalidInput("device_token", str(error)) from error
    return checked


@dataclass(slots=True)
class Routing:
    """The routing of all shops."""

    database: Database
    tokens: DeviceTokens
    providers: Collection[str] = NAMES
    cache: Cache[int, ShopConfig] = field(default_factory=lambda: Cache("routing_changed", name_of=int))

    # --- reading

    async def config_of(self, caller: Caller, shop_id: int) -> ShopConfig:
        """A shop's routing, from memory when it is known to be fresh.

        Raises:
            ShopNotConfigured: when there is none that the caller may see.
        """
        caller.require_shop(shop_id)
        return await self.cache.get_or_read(shop_id, self._read)

    async def route_of(self, caller: Caller, shop_id: int) -> Route:
        """Where the money of a shop goes today.

        Raises:
            ShopNotConfigured: when there is no routing that the caller may use.
            ShopInactive, DeviceTokenUnreadable: when nothing may be sent by it.
        """
        return (await self.config_of(caller, shop_id)).route

    async def _read(self, shop_id: int) -> ShopConfig:
        async with self.database.reading() as session:
            row = await session.scalar(_configs().where(PaymentConfig.shop_id == shop_id))
        if row is None:
            raise ShopNotConfigured(shop_id)
        return self.opened(row)

    async def configs(
        self,
        caller: Caller,
        *,
        organization_bin: str | None = None,
        active_only: bool = False,
    ) -> list[ShopConfig]:
        """The routing of all shops of the caller, by shop_id."""
        query = _configs().where(of_shops(PaymentConfig.shop_id, caller.shops)).order_by(PaymentConfig.shop_id)
        if organization_bin is not None:
            query = query.where(PaymentConfig.organization_bin == organization_bin)
        if active_only:
            query = query.where(PaymentConfig.is_active)
        async with self.database.reading() as session:
            return [self.opened(row) for row in await session.scalars(query)]

    async def unreadable_tokens(self) -> tuple[list[int], int]:
        """The shops whose device token no key opens, and how many shops have one."""
        query = select(PaymentConfig.shop_id, DeviceToken).join(PaymentConfig.token)
        async with self.database.reading() as session:
            tokens = {shop_id: self.tokens.open(token) for shop_id, token in await session.execute(query)}
        return [shop_id for shop_id, token in tokens.items() if isinstance(token, Unreadable)], len(tokens)

    async def config_of_bin(self, caller: Caller, organization_bin: str) -> ShopConfig:
        """The routing of the one active shop of the caller that has this BIN.

        Raises:
            ShopNotConfigured: when no shop has it.
            ShopInactive: when only shops that are switched off have it.
            BinOfSeveralShops: when several active shops have it.
        """
        found = await self.configs(caller, organization_bin=organization_bin)
        active = [config for config in found if config.row.is_active]
        if not found:
            raise ShopNotConfigured("with this BIN")
        if not active:
            raise ShopInactive(*(config.row.shop_id for config in found))
        if len(active) > 1:
            raise BinOfSeveralShops(organization_bin, [config.row.shop_id for config in active])
        return active[0]

    async def require_all(self, shop_ids: Collection[int]) -> None:
        """Refuse shops without routing: access to a future shop would be access to whichever seller it gets.

        Raises:
            ShopNotConfigured: for the first of them.
        """
        async with self.database.reading() as session:
            known = set(await session.scalars(select(PaymentConfig.shop_id)))
        for shop_id in shop_ids:
            if shop_id not in known:
                raise ShopNotConfigured(shop_id)

    async def history(self, caller: Caller, shop_id: int) -> list[Change]:
        """Every change of a shop's routing, newest first.

        Raises:
            ShopNotConfigured: when the shop never had any that the caller may see.
        """
        caller.require_shop(shop_id)
        query = (
            select(PaymentConfigHistory)
            .where(PaymentConfigHistory.shop_id == shop_id)
            .order_by(PaymentConfigHistory.version.desc())
        )
        async with self.database.reading() as session:
            versions = list(await session.scalars(query))
        if not versions:
            raise ShopNotConfigured(shop_id)
        return [Change(after, before) for after, before in zip(versions, [*versions[1:], None], strict=True)]

    # --- changing

    async def create(self, caller: Caller, shop_id: int, fields: Mapping[str, Any], *, reason: str = "") -> ShopConfig:
        """Add a shop.

        Raises:
            ShopNotConfigured: when the shop is not one of the caller's.
            ShopAlreadyConfigured: when it has one, active or not.
            InvalidInput, TokenOfAnotherBin: for a field that is wrong.
        """
        caller.require_shop(shop_id)
        checked = checked_fields(fields, self.providers)
        try:
            async with self.database.transaction() as session:
                await one_at_a_time(session)
                config = await self.insert(session, shop_id, checked, reason=reason)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            raise ShopAlreadyConfigured(shop_id) from error
        self.cache.forget(shop_id)
        return config

    async def update(
        self,
        caller: Caller,
        shop_id: int,
        fields: Mapping[str, Any],
        *,
        seen: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> ShopConfig:
        """Change only the given fields; ``device_token: None`` removes the token, its masked text leaves it.

        ``seen`` are values that the caller read of columns that are not set by hand, such as the version.

        Raises:
            ShopNotConfigured: when there is no routing that the caller may change.
            InvalidInput, TokenOfAnotherBin: for a field that is wrong, and for one of ``seen`` that has changed.
        """
        caller.require_shop(shop_id)
        async with self.database.transaction() as session:
            if not fields.keys().isdisjoint(TWO_PERSON_FIELDS):
                await one_at_a_time(session)
            of_shop = PaymentConfig.shop_id == shop_id
            if await session.scalar(select(PaymentConfig.id).where(of_shop).with_for_update()) is None:
                raise ShopNotConfigured(shop_id)
            # Read after the lock, not with it: after a wait for the lock the row would be new and its token missing.
            row = (await session.scalars(_configs().where(of_shop))).one()
            for name, value in (seen or {}).items():
                if getattr(row, name) != value:
                    raise InvalidInput(name, "has changed: read the configuration again, and change that")
            if row.device_token is not None and fields.get("device_token") in self._masks(row):
                fields = {name: value for name, value in fields.items() if name != "device_token"}
            checked = checked_fields(fields, self.providers)
            await _check_bin(session, caller, row, checked.get("organization_bin", row.organization_bin))
            config = await self.change(session, row, checked, reason=reason)
        self.cache.forget(shop_id)
        return config

    async def needs_two(self) -> bool:
        """Whether a change of where money goes needs a second administrator."""
        async with self.database.reading() as session:
            return await needs_two(session)

    async def insert(
        self, session: AsyncSession, shop_id: int, checked: Mapping[str, Any], *, reason: str
    ) -> ShopConfig:
        """Write a new routing and its first version, in the caller's transaction."""
        row = PaymentConfig(shop_id=shop_id, version=1, is_active=True, provider=DEFAULT)
        for name in ("name", "city", "description"):
            setattr(row, name, "")
        device_token = checked.get("device_token")
        put(row, checked)
        await self.check_token(session, shop_id, row.organization_bin, device_token)
        await self._set_token(session, row, device_token)
        session.add_all((row, version_of(row, reason)))
        await session.flush()
        announce(session, row, reason)
        await record_change(session, "config-create", row, reason)
        return ShopConfig(row, device_token)

    async def change(
        self, session: AsyncSession, row: PaymentConfig, checked: Mapping[str, Any], *, reason: str
    ) -> ShopConfig:
        """Write a change and its version, in the caller's transaction; nothing when nothing differs.

        Raises:
            TokenOfAnotherBin: for a device token that is used with another BIN.
            RouteChangeNeedsTwo: for a change of where money goes, when that is the rule.
        """
        if self.goes_elsewhere(row, checked) and await needs_two(session):
            raise RouteChangeNeedsTwo(row.shop_id)
        current = self.opened(row).device_token
        wanted = checked.get("device_token", current)
        differs = wanted != current or any(
            getattr(row, name) != checked[name] for name in ROUTING_FIELDS if name in checked
        )
        if differs:
            await self.check_token(session, row.shop_id, checked.get("organization_bin", row.organization_bin), wanted)
            # The token first: writing it flushes the session, and the row must not be written before its version.
            if wanted != current:
                await self._set_token(session, row, wanted)
            put(row, checked)
            await write_version(session, row, reason)
        return ShopConfig(row, wanted)

    async def apply(self, session: AsyncSession, row: PaymentConfig, proposed: RouteChange) -> None:
        """Apply a change that two people agreed on, in the caller's transaction."""
        token = await self.tokens.of(session, proposed.device_token_id)
        await self.check_token(session, row.shop_id, proposed.organization_bin, token)
        put(row, {name: getattr(proposed, name) for name in ROUTING_FIELDS})
        row.device_token_id, row.device_token = proposed.device_token_id, proposed.device_token
        await write_version(session, row, proposed.reason)

    def goes_elsewhere(self, row: PaymentConfig, checked: Mapping[str, Any]) -> bool:
        """Whether a change sends the money of a shop to another account or by another provider."""
        today = {**{name: getattr(row, name) for name in ROUTING_FIELDS}, "device_token": self.opened(row).device_token}
        return any(checked[name] != today[name] for name in TWO_PERSON_FIELDS if name in checked)

    async def lock_all(self, session: AsyncSession) -> dict[int, PaymentConfig]:
        """All routing, locked against any other change until the caller's transaction ends."""
        await one_at_a_time(session)
        await session.execute(text("LOCK TABLE payment_config IN SHARE ROW EXCLUSIVE MODE"))
        return {row.shop_id: row for row in await session.scalars(_configs())}

    async def check_token(
        self, session: AsyncSession, shop_id: int, organization_bin: str, device_token: Token | None
    ) -> None:
        """Refuse a device token that is used with another BIN today, at any shop: it was registered for that one.

        So a shop that gets another BIN gets that BIN's token with it, or has none: Kaspi might not refuse the BIN of
        one seller with the token of another.

        Raises:
            TokenOfAnotherBin: for such a token.
        """
        if device_token is None:
            return
        others = _configs().where(
            PaymentConfig.organization_bin != organization_bin, PaymentConfig.device_token_id.is_not(None)
        )
        for other in await session.scalars(others):
            token = self.opened(other).device_token
            if token is not None and may_be_same(token, device_token):
                raise TokenOfAnotherBin(shop_id)

    async def earlier_bins(self, session: AsyncSession, device_token: str, organization_bin: str) -> list[str]:
        """The other BINs that a device token stood with before, at any shop: it may have been registered for one.

        Not a refusal: a BIN that was mistyped is set right in two steps, and the token stood with the wrong one.
        """
        stood = (
            select(PaymentConfigHistory.organization_bin, DeviceToken)
            .join(DeviceToken, DeviceToken.id == PaymentConfigHistory.device_token_id)
            .where(PaymentConfigHistory.organization_bin != organization_bin)
        )
        found = await session.execute(stood)
        return sorted({of_bin for of_bin, token in found if may_be_same(self.tokens.open(token), device_token)})

    # --- steps

    def _masks(self, row: PaymentConfig) -> set[str | None]:
        """The masked texts that may have been shown for a row's token: earlier versions showed more of a short one."""
        token = self.opened(row).device_token
        return {row.device_token} | ({masked(token)} if isinstance(token, str) else set())

    async def _set_token(self, session: AsyncSession, row: PaymentConfig, device_token: str | None) -> None:
        token = None if device_token is None else await self.tokens.add(session, row.shop_id, device_token)
        row.token = token
        row.device_token_id, row.device_token = (token.id, token.masked) if token else (None, None)

    def opened(self, row: PaymentConfig) -> ShopConfig:
        """A row with its device token in the clear, where it can be read."""
        return ShopConfig(row, self.tokens.open(row.token) if row.token else None)


async def _check_bin(session: AsyncSession, caller: Caller, row: PaymentConfig, organization_bin: str) -> None:
    """Refuse an earlier BIN of the shop from a caller of some shops: it would show an earlier seller's payments."""
    if caller.shops is ALL_SHOPS or organization_bin == row.organization_bin:
        return
    had = select(PaymentConfigHistory.version).where(
        PaymentConfigHistory.shop_id == row.shop_id, PaymentConfigHistory.organization_bin == organization_bin
    )
    if await session.scalar(had.limit(1)) is not None:
        raise InvalidInput("organization_bin", "was this shop's before: only a key of all shops sets it again")


async def one_at_a_time(session: AsyncSession) -> None:
    """Serialise changes of routing, before any row is locked: each one compares all tokens."""
    await session.execute(text("SELECT one_at_a_time('routing')"))


def _configs() -> Any:
    return select(PaymentConfig).options(joinedload(PaymentConfig.token))
