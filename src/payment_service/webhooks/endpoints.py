"""Webhook endpoints: which events and shops each receives, their secrets and headers.

Secrets and headers are encrypted at rest. A secret is shown once, when it is made; the values of headers never again.
"""

import base64
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.quota import MAX_OF_SOME_SHOPS, check_quota
from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import InvalidInput, WebhookNotFound
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EventType, checked_types
from payment_service.identifiers import MASK, new_id
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import alarm
from payment_service.outbound.client import Outbound, check_headers
from payment_service.postgres.database import Database, is_duplicate, now_of
from payment_service.postgres.vault import Vault, VaultError
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.scheduling.due import Kind, wake
from payment_service.webhooks.models import EventDelivery, WebhookEndpoint

SECRET_MARK: Final = "whsec_"  # noqa: S105 - the mark that Standard Webhooks puts before secrets
MAX_HEADERS: Final = 10
_SIGNING_HEADERS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type")
_MAX_KEPT: Final = 3
"""How many earlier secrets sign beside the newest one."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """An endpoint with a secret that was just made: the only moment at which it can be seen."""

    endpoint: WebhookEndpoint
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of webhooks. One that is limited to shops belongs to callers who may touch each of those."""

    database: Database
    vault: Vault
    outbound: Outbound

    # --- reading

    async def all(self, caller: Caller) -> list[WebhookEndpoint]:
        """Every endpoint that the caller may see, oldest first, those that are off too."""
        async with self.database.reading() as session:
            found = await session.scalars(select(WebhookEndpoint).order_by(WebhookEndpoint.id))
            return [endpoint for endpoint in found if may_see(endpoint, caller)]

    async def get(self, caller: Caller, endpoint_id: UUID) -> WebhookEndpoint:
        """One endpoint.

        Raises:
            WebhookNotFound: when there is none that the caller may see.
        """
        async with self.database.reading() as session:
            return _visible(await session.get(WebhookEndpoint, endpoint_id), endpoint_id, caller)

    def shown(self, endpoint: WebhookEndpoint) -> dict[str, Any]:
        """An endpoint as answers and events show it: without secrets, headers masked, and what cannot be decrypted."""
        shown = ("id", "url", "description", "events", "shops", "is_active", "off_reason", "off_since")
        more = ("failing_since", "previous_secret_until", "version", "created_at", "updated_at")
        unreadable = self.unreadable(endpoint)
        headers = {} if "headers" in unreadable else dict.fromkeys(self.headers_of(endpoint), MASK)
        of_row = {name: getattr(endpoint, name) for name in (*shown, *more)}
        return {**of_row, "headers": headers, "unreadable": unreadable}

    def unreadable(self, endpoint: WebhookEndpoint) -> list[str]:
        """Which of ``secret`` and ``headers`` ENCRYPTION_KEYS do not open; until both open nothing is delivered."""
        found = []
        for name, opens in (
            ("secret", lambda: self.secrets_of(endpoint, datetime.now(UTC))),
            ("headers", lambda: self.headers_of(endpoint)),
        ):
            try:
                opens()
            except VaultError:
                found.append(name)
        return found

    def headers_of(self, endpoint: WebhookEndpoint) -> dict[str, str]:
        """The custom headers, in the clear.

        Raises:
            VaultError: when ENCRYPTION_KEYS do not open them.
        """
        if endpoint.headers_ciphertext is None:
            return {}
        opened = self.vault.open(endpoint.headers_ciphertext, _context(endpoint, "headers"))
        headers: dict[str, str] = json.loads(opened)
        return headers

    def secrets_of(self, endpoint: WebhookEndpoint, now: datetime) -> list[str]:
        """The secrets to sign with at that moment: the newest, and the previous ones as long as they are valid.

        Raises:
            VaultError: when ENCRYPTION_KEYS do not open one of them.
        """
        found = [self.vault.open(endpoint.secret_ciphertext, _context(endpoint, "secret"))]
        previous, until = endpoint.previous_secret_ciphertext, endpoint.previous_secret_until
        if previous is not None and until is not None and until > now:
            found += self.vault.open(previous, _context(endpoint, "previous_secret")).split()
        return found

    # --- changing

    async def add(self, caller: Caller, fields: Mapping[str, Any], *, once: UUID | None = None) -> NewSecret:
        """Add an endpoint: ``url``, and if wanted ``description, events, shops, headers``. Its secret is made here.

        ``once`` is the id of the new endpoint, for a request that may be sent twice.

        Raises:
            InvalidInput: for a field that is wrong; for ``once`` when there is an endpoint with that id, whose secret
                is not shown again.
        """
        secret = _new_secret()
        endpoint = WebhookEndpoint(id=once or new_id())
        endpoint.secret_ciphertext = self.vault.encrypt(secret, _context(endpoint, "secret"))
        if fields.get("shops") is None and caller.shops is not ALL_SHOPS:
            fields = {**fields, "shops": sorted(caller.shops)}
        await self._check_url(fields["url"])
        try:
            async with self.database.transaction() as session:
                self._put(endpoint, fields)
                session.add(endpoint)
                await _record(session, "webhook-create", endpoint)
                await _check_quota(session, caller)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            raise InvalidInput("once", "stands for an endpoint that was added before") from error
        log.info("webhook endpoint added", endpoint_id=str(endpoint.id))
        return NewSecret(endpoint, secret)

    async def change(
        self, caller: Caller, endpoint_id: UUID, fields: Mapping[str, Any], *, reason: str | None = None
    ) -> WebhookEndpoint:
        """Change only the given fields; ``is_active`` switches it on and off. ``reason`` is kept in the audit log.

        Raises:
            WebhookNotFound: when there is none that the caller may see.
            InvalidInput: for a field that is wrong.
        """
        if fields.get("shops", ...) is None and caller.shops is not ALL_SHOPS:
            raise InvalidInput("shops", "are those that the key may touch: name them")
        if "url" in fields:
            await self._check_url(fields["url"])
        async with self.database.transaction() as session:
            endpoint = _visible(await locked(session, endpoint_id), endpoint_id, caller)
            self._put(endpoint, fields)
            match fields.get("is_active"):
                case True:
                    await self.switch_on(session, endpoint)
                    await _check_quota(session, caller)
                case False if endpoint.is_active:
                    endpoint.is_active, endpoint.off_reason, endpoint.off_since = False, "person", func.now()
            await _record(session, "webhook-change", endpoint, reason=reason)
            await session.refresh(endpoint)
        log.info("webhook endpoint changed", endpoint_id=str(endpoint.id), fields=sorted(fields))
        return endpoint

    async def rotate_secret(self, caller: Caller, endpoint_id: UUID, *, keep_old_s: int) -> NewSecret:
        """Give an endpoint a new secret. For ``keep_old_s`` seconds everything is signed with the old one too.

        So it is with those before it that are still valid: the site may never have got the one of the last rotation.

        Raises:
            WebhookNotFound: when there is none that the caller may see.
            InvalidInput: when the old one is to be kept and ENCRYPTION_KEYS do not open it.
        """
        secret = _new_secret()
        async with self.database.transaction() as session:
            endpoint = _visible(await locked(session, endpoint_id), endpoint_id, caller)
            now = await now_of(session)
            try:
                kept = self.secrets_of(endpoint, now)[:_MAX_KEPT] if keep_old_s else []
            except VaultError as error:
                raise InvalidInput("keep_old_s", "must be 0: ENCRYPTION_KEYS do not open the old secret") from error
            until = now + timedelta(seconds=keep_old_s)
            if len(kept) > 1 and endpoint.previous_secret_until is not None:
                until = max(until, endpoint.previous_secret_until)
            endpoint.previous_secret_ciphertext = (
                self.vault.encrypt(" ".join(kept), _context(endpoint, "previous_secret")) if kept else None
            )
            endpoint.previous_secret_until = until if kept else None
            endpoint.secret_ciphertext = self.vault.encrypt(secret, _context(endpoint, "secret"))
            await _record(session, "webhook-secret", endpoint)
            await session.refresh(endpoint)
        log.info("webhook secret rotated", endpoint_id=str(endpoint.id))
        return NewSecret(endpoint, secret)

    async def switch_on(self, session: AsyncSession, endpoint: WebhookEndpoint) -> None:
        """Deliver to it again, what waits at once. If it was switched off automatically, announce that it recovered."""
        if endpoint.is_active:
            return
        recovered = endpoint.off_reason != "person"
        endpoint.is_active, endpoint.off_reason, endpoint.off_since, endpoint.failing_since = True, None, None, None
        await _record(session, "webhook-on", endpoint)
        await session.refresh(endpoint)
        waiting = EventDelivery.endpoint_id == endpoint.id, EventDelivery.state == "waiting"
        await session.execute(update(EventDelivery).where(*waiting).values(next_try_at=func.now()))
        wake(session, Kind.DELIVERIES)
        if recovered:
            self.announce(session, endpoint, EventType.ENDPOINT_RECOVERED)

    async def switch_off(self, session: AsyncSession, endpoint: WebhookEndpoint, reason: str, moment: Any) -> None:
        """Deliver nothing to it any more, and announce it: it is ``gone`` or ``failing``."""
        endpoint.is_active, endpoint.off_reason, endpoint.off_since = False, reason, moment
        await _record(session, "webhook-off", endpoint)
        await session.refresh(endpoint)
        self.announce(session, endpoint, EventType.ENDPOINT_DISABLED)
        alarm(log, "endpoint_switched_off", endpoint_id=str(endpoint.id), reason=reason)

    def announce(self, session: AsyncSession, endpoint: WebhookEndpoint, kind: EventType) -> Event:
        """Write an event about the endpoint itself, in the caller's transaction. Of its URL it names the host only."""
        return outbox.write(
            session,
            kind,
            endpoint.id,
            version=1 if kind is EventType.TEST else endpoint.version,
            shop_id=_only_shop(endpoint),
            data={
                **self.shown(endpoint),
                "url": f"{urlsplit(endpoint.url)._replace(path='/', query='').geturl()}{MASK}",
            },
        )

    async def rotate(self, session: AsyncSession) -> None:
        """Encrypt every secret anew with the newest key of the vault, in the caller's transaction."""
        endpoints = list(await session.scalars(select(WebhookEndpoint).with_for_update()))
        for endpoint in endpoints:
            for purpose in ("secret", "previous_secret", "headers"):
                ciphertext = getattr(endpoint, f"{purpose}_ciphertext")
                if ciphertext is not None:
                    rotated = self.vault.rotate(ciphertext, _context(endpoint, purpose))
                    setattr(endpoint, f"{purpose}_ciphertext", rotated)
            await _record(session, "secrets-rotate", endpoint)

    # --- steps

    async def _check_url(self, url: str) -> None:
        try:
            await self.outbound.check_host(url)
        except ValueError as error:
            raise InvalidInput("url", _phrase(error)) from error

    def _put(self, endpoint: WebhookEndpoint, fields: Mapping[str, Any]) -> None:
        for name in ("url", "description"):
            if name in fields:
                setattr(endpoint, name, fields[name])
        if "url" in fields:
            endpoint.failing_since = None  # a new URL starts with no failures
        if "events" in fields:
            types = fields["events"]
            endpoint.events = None if types is None else [*checked_types(types, otherwise=", or null for all")]
        if "shops" in fields:
            endpoint.shops = sorted(set(fields["shops"])) if fields["shops"] is not None else None
            if endpoint.shops == []:
                raise InvalidInput("shops", "are one or more, or null for all")
        if "headers" in fields:
            headers = _checked_headers(fields["headers"], self._kept_headers(endpoint, fields["headers"]))
            endpoint.headers_ciphertext = (
                self.vault.encrypt(json.dumps(headers), _context(endpoint, "headers")) if headers else None
            )

    def _kept_headers(self, endpoint: WebhookEndpoint, given: Mapping[str, str]) -> Mapping[str, str]:
        """The headers whose values may stay: needed only where the mask is sent back in the place of a value."""
        if MASK not in given.values():
            return {}
        try:
            return self.headers_of(endpoint)
        except VaultError as error:
            raise InvalidInput("headers", "cannot be opened by ENCRYPTION_KEYS: give the value of each") from error


def _context(endpoint: WebhookEndpoint, purpose: str) -> str:
    return f"{WebhookEndpoint.__tablename__}/{endpoint.id}/{purpose}"


def _only_shop(endpoint: WebhookEndpoint) -> int | None:
    return endpoint.shops[0] if endpoint.shops and len(endpoint.shops) == 1 else None


async def _record(
    session: AsyncSession, operation_type: str, endpoint: WebhookEndpoint, *, reason: str | None = None
) -> None:
    await audit.record_change(session, operation_type, endpoint, shop_id=_only_shop(endpoint), reason=reason)


async def _check_quota(session: AsyncSession, caller: Caller) -> None:
    """Every event is matched against each endpoint, and one that hangs occupies calls."""

    async def active() -> int:
        found = await session.scalars(select(WebhookEndpoint).where(WebhookEndpoint.is_active))
        return sum(may_see(endpoint, caller) for endpoint in found)

    refusal = InvalidInput("shops", f"have {MAX_OF_SOME_SHOPS} endpoints that are on already: switch one off")
    await check_quota(session, caller, "webhooks", active, refusal)


async def locked(session: AsyncSession, endpoint_id: UUID) -> WebhookEndpoint | None:
    """An endpoint under its row lock; deliveries to it may still be added."""
    of_id = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)
    return await session.scalar(of_id.with_for_update(key_share=True).execution_options(populate_existing=True))


def wants(endpoint: WebhookEndpoint, event: Event, of_sellers: Collection[UUID]) -> bool:
    """Whether an endpoint receives an event. ``of_sellers``: the events of present sellers, by id."""
    if event.type == EventType.TEST:
        return event.subject_id == str(endpoint.id)
    of_type = endpoint.events is None or event.type in endpoint.events
    return of_type and (endpoint.shops is None or (event.shop_id in endpoint.shops and event.id in of_sellers))


def host_of(endpoint: WebhookEndpoint) -> str:
    """The host of the URL; the rest of it may hold secrets."""
    return urlsplit(endpoint.url).hostname or ""


def may_see(endpoint: WebhookEndpoint, caller: Caller) -> bool:
    """Whether the caller may touch every shop whose events the endpoint receives."""
    if endpoint.shops is None:
        return caller.shops is ALL_SHOPS
    return all(caller.may_touch(shop_id) for shop_id in endpoint.shops)


def _visible(endpoint: WebhookEndpoint | None, endpoint_id: UUID, caller: Caller) -> WebhookEndpoint:
    if endpoint is None or not may_see(endpoint, caller):
        raise WebhookNotFound(endpoint_id)
    return endpoint


def _new_secret() -> str:
    return SECRET_MARK + base64.b64encode(secrets.token_bytes(32)).decode()


def _checked_headers(headers: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """The headers to keep; the masked value that was shown leaves the header as it is."""
    named = {name.lower(): value for name, value in current.items()}
    chosen = {name: named.get(name.lower(), value) if value == MASK else value for name, value in headers.items()}
    if len({name.lower() for name in chosen}) != len(chosen) or len(chosen) > MAX_HEADERS:
        raise InvalidInput("headers", f"are at most {MAX_HEADERS}, each name once")
    if ours := [name for name in chosen if name.lower() in _SIGNING_HEADERS]:
        raise InvalidInput("headers", f"must not hold {ours[0]}, which this service sets")
    try:
        check_headers(chosen)
    except ValueError as error:
        raise InvalidInput("headers", _phrase(error)) from error
    return chosen


def _phrase(error: ValueError) -> str:
    """A sentence as part of another one."""
    sentence = str(error).removesuffix(".")
    return sentence[:1].lower() + sentence[1:]
