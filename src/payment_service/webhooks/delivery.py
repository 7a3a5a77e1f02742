"""Delivering events to endpoints: one try, the next one, the order of one object's events, switching endpoints off.

A delivery is due when ``next_try_at`` has come; ``trying_until`` is the lease of the worker that tries. Deliveries that
are due together are claimed together, a few of each endpoint, so that one which hangs does not keep the others waiting.
No transaction is open during a call, and its result is one statement. At least once: a try whose worker
died is made again.
"""

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never
from urllib.parse import unquote, urlsplit
from uuid import UUID

import asyncpg
from sqlalchemy import func, insert, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from standardwebhooks.webhooks import Webhook

from payment_service.access.service import Caller
from payment_service.characters import one_line
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.identifiers import MASK, new_id
from payment_service.observability.logs import begin, bind, get_logger
from payment_service.observability.metrics import DELIVERY_SECONDS, DELIVERY_TRIES
from payment_service.observability.tracing import record_span
from payment_service.outbound.client import DEADLINE_S, NotPosted, Posted, Reason
from payment_service.postgres.database import Database, retry_until_written
from payment_service.postgres.vault import VaultError
from payment_service.scheduling.due import Kind, wake
from payment_service.webhooks.endpoints import Endpoints, locked, wants
from payment_service.webhooks.models import EventDelivery, WebhookEndpoint
from payment_service.webhooks.plan import DeliveryPlan

LEASE_S: Final = DEADLINE_S + 10
"""How long a worker holds the lease of one try, in seconds; longer than a call can take."""
GONE: Final = 410
_SHORTEST_SECRET: Final = 8
"""A shorter value is no secret, and may be in an answer by chance."""
CLAIM: Final = "SELECT * FROM claim_deliveries($1, $2, $3, $4, $5, NULL)"
RESULT: Final = """
WITH owned AS (
  SELECT id, tries, endpoint_id FROM event_delivery
  WHERE event_id = $10::uuid AND id = $1::uuid AND trying_until = $2::timestamptz FOR UPDATE
), tried AS (
  INSERT INTO delivery_try (event_id, delivery_id, number, succeeded, status, error, answer, duration_ms)
  SELECT $10::uuid, id, tries + 1, $3::boolean, $4::smallint, $5::text, $6::text, $7::integer FROM owned
  RETURNING number, created_at
), written AS (
  UPDATE event_delivery SET tries = number, trying_until = NULL,
    state = CASE WHEN $3 THEN 'delivered' WHEN $8::float8 IS NULL THEN 'dead' ELSE 'waiting' END,
    next_try_at = CASE WHEN NOT $3 THEN tried.created_at + make_interval(secs => $8) END,
    ended_at = CASE WHEN $3 OR $8 IS NULL THEN tried.created_at END
  FROM tried WHERE event_id = $10 AND id = $1
  RETURNING endpoint_id, state, tries, type, tried.created_at AS moment
), failing AS (
  -- Written only when it changes, and left to the next try while somebody changes the endpoint: no try waits for it.
  UPDATE webhook_endpoint SET failing_since = CASE WHEN NOT $3 THEN moment END
  FROM written WHERE id IN (
    SELECT id FROM webhook_endpoint
    WHERE id = (SELECT endpoint_id FROM owned) AND (failing_since IS NOT NULL) = $3 FOR NO KEY UPDATE SKIP LOCKED
  ) AND ($3 OR type <> 'test' AND $9::boolean)
)
SELECT state, written.tries, moment, is_active, off_reason, failing_since
FROM written JOIN webhook_endpoint ON webhook_endpoint.id = endpoint_id
"""
"""No row when the try was written before, or its lease ended and another worker has it."""
NEXT: Final = """
SELECT extract(epoch FROM min(next_try_at) - now())::float8
FROM webhook_endpoint CROSS JOIN LATERAL (
  SELECT next_try_at FROM event_delivery
  WHERE endpoint_id = webhook_endpoint.id AND state = 'waiting' AND next_try_at > now()
  ORDER BY next_try_at LIMIT 1
) AS next
WHERE is_active
"""
_BRING_FORWARD: Final = """
UPDATE event_delivery SET next_try_at = now(), trying_until = NULL
WHERE state = 'waiting' AND (
  -- Repeated without what depends on the row, so that an index skips what is due.
  next_try_at > now()
  AND next_try_at > now() + make_interval(secs => coalesce(($1::float8[])[tries], 0) + $2::float8)
  OR trying_until > now() + make_interval(secs => 2 * $2::float8))
RETURNING id
"""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimedTry:
    """One try, claimed until ``lease_end``."""

    delivery_id: UUID
    lease_end: datetime
    tries: int
    """How many were made before."""
    event: Event
    endpoint_id: UUID
    url: str | None = field(repr=False)
    """None when the endpoint no longer receives events of that shop."""
    secrets: Sequence[str] = field(repr=False)
    """Empty when the vault cannot decrypt them: that endpoint gets nothing, the others are not affected."""
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Delivers events."""

    database: Database
    endpoints: Endpoints
    plan: DeliveryPlan
    kind: Kind = Kind.DELIVERIES

    # --- consuming events

    async def consume(self, session: AsyncSession, events: Sequence[Event]) -> None:
        """Write a delivery of each event to each endpoint that wants it."""
        active = list(await session.scalars(select(WebhookEndpoint).where(WebhookEndpoint.is_active)))
        is_some = any(endpoint.shops is not None for endpoint in active)
        of_sellers = await outbox.of_sellers_today(session, events) if is_some else set[UUID]()
        rows = [
            {**_of_event(event), "endpoint_id": endpoint.id, "next_try_at": event.created_at}
            for endpoint in active
            for event in events
            if event.type != EventType.TEST and wants(endpoint, event, of_sellers)
        ]
        if rows:
            await session.execute(insert(EventDelivery), rows)
            wake(session, self.kind)

    async def test(self, caller: Caller, endpoint_id: UUID) -> EventDelivery:
        """Send an endpoint a test event, once, even if it is off.

        Raises:
            WebhookNotFound: when there is none that the caller may see.
        """
        await self.endpoints.get(caller, endpoint_id)
        async with self.database.transaction() as session:
            endpoint = await session.get_one(WebhookEndpoint, endpoint_id)
            event = self.endpoints.announce(session, endpoint, EventType.TEST)
            event.passed_on_at = func.now()
            await session.flush()
            delivery = delivery_of(event, endpoint_id)
            session.add(delivery)
            await session.flush()
            await session.refresh(delivery)
            wake(session, self.kind)
        return delivery

    # --- one try

    @property
    def slots(self) -> int:
        """How many tries one worker makes at once."""
        return self.plan.at_once_in_all

    async def claim(self, at_most: int) -> list[ClaimedTry]:
        """Claim due deliveries; of each endpoint, and in all workers, no more at once than the plan allows."""
        rows = await self.database.statements.fetch(
            CLAIM,
            at_most,
            self.plan.at_once,
            self.plan.at_once_in_all,
            float(LEASE_S),
            float(self.plan.order_wait_s),
        )
        return [self._claimed(row) for row in rows]

    async def due_in_s(self) -> float | None:
        """How long until the next try that is planned, in seconds."""
        row = await self.database.statements.fetchrow(NEXT)
        return None if row is None else row[0]

    async def perform(self, claimed: ClaimedTry) -> None:
        """Make a try and write its result."""
        begin(event_id=str(claimed.event.id), endpoint_id=str(claimed.endpoint_id))
        if (payment_id := outbox.payment_of(claimed.event)) is not None:
            bind(payment_id=payment_id)
        started = time.perf_counter()
        body = body_of(claimed.event)
        headers = {**claimed.headers, **signed(str(claimed.event.id), body, claimed.secrets, datetime.now(UTC))}
        answer: Posted | NotPosted
        if claimed.url is None:
            answer = NotPosted(Reason.URL_REFUSED, "The endpoint is not told of this shop any more.")
        elif not claimed.secrets:
            log.error("the secrets of an endpoint cannot be opened")
            answer = NotPosted(Reason.ERROR, "ENCRYPTION_KEYS do not open the endpoint's secret or headers.")
        else:
            answer = await self.endpoints.outbound.post(claimed.url, body=body.encode(), headers=headers)
        duration_ms = int((time.perf_counter() - started) * 1000)
        await retry_until_written(lambda: self._write(claimed, answer, duration_ms))

    def repeated(self, claimed: ClaimedTry) -> UUID:
        """The delivery: its receiver gets the event again."""
        return claimed.delivery_id

    async def bring_forward(self) -> int:
        """Make due now what is planned later than the plan allows, or leased for longer than any lease."""
        return len(await self.database.statements.fetch(_BRING_FORWARD, self.plan.longest_s, float(LEASE_S)))

    def _claimed(self, row: asyncpg.Record) -> ClaimedTry:
        event = Event(
            id=row["event_id"],
            type=row["type"],
            version=row["version"],
            data=json.loads(row["data"]),
            created_at=row["created_at"],
        )
        endpoint = WebhookEndpoint(
            id=row["endpoint_id"],
            secret_ciphertext=row["secret_ciphertext"],
            previous_secret_ciphertext=row["previous_secret_ciphertext"],
            previous_secret_until=row["previous_secret_until"],
            headers_ciphertext=row["headers_ciphertext"],
        )
        try:
            secrets = self.endpoints.secrets_of(endpoint, row["claimed_at"])
            headers = self.endpoints.headers_of(endpoint)
        except VaultError:
            secrets, headers = [], {}
        return ClaimedTry(
            row["id"],
            row["lease_end"],
            row["tries"],
            event,
            endpoint.id,
            row["url"],
            secrets,
            headers,
        )

    async def _write(self, claimed: ClaimedTry, answer: Posted | NotPosted, duration_ms: int) -> None:
        """Write the result of a try and when the next one is due; switch its endpoint on or off where that follows."""
        is_test, was_called = claimed.event.type == EventType.TEST, claimed.url is not None
        status, error, text = _result_of(answer, [*claimed.headers.values(), *_parts_of(claimed.url or "")])
        succeeded = status is not None and 200 <= status <= 299
        delay_s = None if succeeded or is_test or not was_called else self.plan.delay_s(claimed.tries + 1)
        written = await self.database.statements.fetchrow(
            RESULT,
            claimed.delivery_id,
            claimed.lease_end,
            succeeded,
            status,
            error,
            text,
            duration_ms,
            delay_s,
            was_called,
            claimed.event.id,
        )
        if written is None:
            return
        if succeeded:
            DELIVERY_SECONDS.observe((written["moment"] - claimed.event.created_at).total_seconds())
        DELIVERY_TRIES.labels(result=written["state"] if written["state"] != "waiting" else "failed").inc()
        log.info(
            "event delivered" if succeeded else "event not delivered",
            type=claimed.event.type,
            tries=written["tries"],
            state=written["state"],
            answer=status or error,
        )
        record_span(
            f"webhook {claimed.event.type}", duration_ms / 1000, kind="CLIENT", failed=not succeeded, status=status
        )
        if succeeded and is_test and written["off_reason"] not in {None, "person"}:
            await retry_until_written(lambda: self._switch_on(claimed.endpoint_id))
        elif was_called and not (succeeded or is_test) and written["is_active"]:
            since, moment = written["failing_since"], written["moment"]
            disable_after = timedelta(seconds=self.plan.disable_after_s)
            if status == GONE:
                await retry_until_written(lambda: self._switch_off(claimed.endpoint_id, "gone", moment))
            elif delay_s is None and since is not None and moment - since >= disable_after:
                await retry_until_written(lambda: self._switch_off(claimed.endpoint_id, "failing", moment))

    async def _switch_on(self, endpoint_id: UUID) -> None:
        """Switch on an endpoint that had been switched off automatically: a test event arrived."""
        async with self.database.transaction() as session:
            endpoint = await locked(session, endpoint_id)
            if endpoint is not None and endpoint.off_reason not in {None, "person"}:
                await self.endpoints.switch_on(session, endpoint)

    async def _switch_off(self, endpoint_id: UUID, reason: str, moment: datetime) -> None:
        async with self.database.transaction() as session:
            endpoint = await locked(session, endpoint_id)
            has_recovered = endpoint is None or (reason == "failing" and endpoint.failing_since is None)
            if endpoint is not None and endpoint.is_active and not has_recovered:
                await self.endpoints.switch_off(session, endpoint, reason, moment)


async def deliveries_waiting_since(session: AsyncSession) -> datetime | None:
    """Since when the oldest delivery waits for an endpoint that is on; none when none does."""
    of_endpoint = (
        select(EventDelivery.created_at)
        .where(EventDelivery.endpoint_id == WebhookEndpoint.id, EventDelivery.state == "waiting")
        .order_by(EventDelivery.created_at)
        .limit(1)
        .lateral()
    )
    query = select(func.min(of_endpoint.c.created_at)).select_from(WebhookEndpoint).join(of_endpoint, true())
    found: datetime | None = await session.scalar(query.where(WebhookEndpoint.is_active))
    return found


async def count_waiting_deliveries(session: AsyncSession) -> int:
    """How many deliveries wait for endpoints that are on."""
    waiting = (
        select(func.count())
        .select_from(EventDelivery)
        .join(WebhookEndpoint, EventDelivery.endpoint_id == WebhookEndpoint.id)
        .where(EventDelivery.state == "waiting", WebhookEndpoint.is_active)
    )
    return (await session.execute(waiting)).scalar_one()


def body_of(event: Event) -> str:
    """The body that is sent and signed: the same text at every try."""
    return json.dumps(outbox.body(event), ensure_ascii=False, separators=(",", ":"))


def signed(event_id: str, body: str, secrets: Sequence[str], moment: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, signed with every valid secret. ``moment`` is in UTC."""
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, moment, body) for secret in secrets),
    }


def delivery_of(event: Event, endpoint_id: UUID, *, replay_of: UUID | None = None) -> EventDelivery:
    """A new delivery, due at once."""
    return EventDelivery(**_of_event(event), endpoint_id=endpoint_id, replay_of=replay_of, next_try_at=func.now())


def _of_event(event: Event) -> dict[str, Any]:
    return {
        "id": new_id(),
        "event_id": event.id,
        "type": event.type,
        "subject_id": event.subject_id,
        "version": event.version,
        "shop_id": event.shop_id,
    }


def _parts_of(url: str) -> list[str]:
    """The parts of a URL after its host, as written and percent-decoded: any may be a secret."""
    address = urlsplit(url)
    parts = re.split(r"[/?&=]", f"{address.path}?{address.query}")
    return [*parts, *map(unquote, parts)]


def _result_of(answer: Posted | NotPosted, secrets: Iterable[str]) -> tuple[int | None, str | None, str | None]:
    """The result of a call: the status, or why there is none, and how the answer begins.

    Secrets are masked, the values of the endpoint's headers and what follows the host in its URL: a receiver may echo
    its request.
    """
    match answer:
        case Posted(status, body):
            text = one_line(body.decode(errors="replace"))
            for part in (part for value in secrets for part in value.split() if len(part) >= _SHORTEST_SECRET):
                text = text.replace(part, MASK)
            return status, None, text[:500]
        case NotPosted(_, detail):
            return None, detail[:200], None
        case _:
            assert_never(answer)
