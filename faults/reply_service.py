"""Odd replies through the whole service: what its client is told, and what its rows say, must follow from the reply.

The app, its rooms and its database are the real ones; the proxy is one that says what it is told to.
"""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

import httpx

from faults.reply_client import TENGE, OddProxy, Tried, odd_proxy, secrets_in
from faults.reply_maker import BY_HAND, ReplyMaker, success
from faults.reply_oracle import Asked, Operation, Sent, Verdict, verdict_on
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.api.middleware import Drain
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.programs.serve import create_app
from payment_service.services import build
from payment_service.settings import Settings
from tests.support.logs import production_logs
from tests.support.shops import ENCRYPTION_KEY
from tests.support.verbs import ACCESS_TOKEN, BIN, DEVICE_TOKEN, PHONE

SHOP: Final = 121038
_ANSWERS: Final = {"accepted": 200, "unknown": 202, "rejected": 422, "refused": 502}
_PAYMENTS: Final = {"accepted": "pending", "unknown": "unknown", "rejected": "failed", "refused": "failed"}
_REFUNDS: Final = {**_PAYMENTS, "accepted": "succeeded"}
_READ: Final = {"paid": "paid", "cancelled": "cancelled", "failed": "pending", "waiting": "pending"}
"""A failed status is believed at the second reading only."""


Reply: TypeAlias = Callable[[Asked], Sent]
"""Makes a reply to what is asked."""


@dataclass(slots=True)
class ServiceWithOddProxy:
    """The whole service in this process, in front of a proxy that says odd things."""

    client: httpx.AsyncClient
    proxy: OddProxy
    planned: dict[Operation, Sent] = field(default_factory=dict)
    """The reply to the next call of an operation; the others are answered honestly."""
    taken: set[str] = field(default_factory=set)
    """Ids of the provider's that payments have."""
    last_id: int = 12_800_000_000
    tried: Tried = field(default_factory=Tried)
    _orders: "itertools.count[int]" = field(default_factory=itertools.count)

    def answer(self, head: bytes) -> Sent:
        """The proxy's reply to a request."""
        parts = urlsplit(head.split(b" ", 2)[1].decode())
        operation = Operation(parts.path.strip("/"))
        if operation in self.planned:
            return self.planned.pop(operation)
        external_id = parse_qs(parts.query).get("externalId", [str(self.last_id)])[0]
        return Sent(success(Asked(operation, external_id, TENGE)))

    async def try_one(self, operation: Operation, make: Reply) -> None:
        """Let the proxy give a reply that is made for the call, and look at answer and rows."""
        started = time.perf_counter()
        self.last_id += 1
        asked = Asked(operation, str(self.last_id), TENGE)
        sent = make(asked)
        verdict = verdict_on(asked, sent)
        if operation in {Operation.CREATE, Operation.LINK}:
            wrong = await self._try_payment(operation, sent, verdict)
        else:
            wrong = await self._try_on_payment(operation, asked, sent, verdict)
        self.tried.slowest_s = max(self.tried.slowest_s, time.perf_counter() - started)
        self.tried.verdicts[verdict.word] += 1
        self.tried.violations += [f"{operation}: {one}, and the reply says {verdict}: {sent!r}"[:1500] for one in wrong]

    async def _try_payment(self, operation: Operation, sent: Sent, verdict: Verdict) -> list[str]:
        word = "unknown" if verdict.about in self.taken else verdict.word
        answer = await self._create(operation, sent)
        body = answer.json()
        row = await self._row(body)
        self.taken |= {row["external_id"]} - {None}
        wrong = self._compared(answer, word, row["state"], _PAYMENTS[word])
        if word == "accepted" and not body["external_id"] == row["external_id"] == verdict.about:
            wrong.append(f"told {body['external_id']} and kept {row['external_id']}")
        if word == "rejected" and not body["provider_code"] == row["error_code"] == verdict.about:
            wrong.append(f"told {body['provider_code']} and kept {row['error_code']}")
        return wrong

    async def _try_on_payment(self, operation: Operation, asked: Asked, sent: Sent, verdict: Verdict) -> list[str]:
        made = (await self._create(Operation.CREATE)).json()
        self.taken.add(asked.external_id)
        if operation is Operation.STATUS:
            self.planned[Operation.STATUS] = sent
            answer = await self.client.get(f"/payments/kaspi/status/{asked.external_id}")
            state = _READ[verdict.about or ""] if verdict.word == "read" else "pending"
            return self._compared(answer, "accepted", (await self._row(made))["state"], state)
        paid = await self.client.get(f"/payments/kaspi/status/{asked.external_id}")
        assert paid.json()["state"] == "paid", paid.text
        self.planned[Operation.REFUND] = sent
        body = {"shop_id": SHOP, "external_id": asked.external_id, "amount": str(asked.tenge)}
        answer = await self.client.post("/payments/kaspi/refund", json=body)
        row = await self._row(made)
        wrong = self._compared(answer, verdict.word, row["refunds"][0]["state"], _REFUNDS[verdict.word])
        if (row["refunded_amount"] != 0) != (verdict.word == "accepted"):
            wrong.append(f"refunded {row['refunded_amount']}")
        return wrong

    async def _create(self, operation: Operation, sent: Sent | None = None) -> httpx.Response:
        if sent is not None:
            self.planned[operation] = sent
        body: dict[str, Any] = {"shop_id": SHOP, "amount": str(TENGE), "order_id": f"order {next(self._orders)}"}
        phone = {"phone": PHONE} if operation is Operation.CREATE else {}
        return await self.client.post(f"/payments/kaspi/{operation}", json=body | phone)

    async def _row(self, told: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = (await self.client.get(f"/payments/{told['id']}")).raise_for_status().json()
        return row

    def _compared(self, answer: httpx.Response, word: str, state: str, expected: str) -> list[str]:
        wrong = []
        if answer.status_code != _ANSWERS[word]:
            wrong.append(f"answered {answer.status_code} {answer.text[:300]}")
        if state != expected:
            wrong.append(f"the row is {state}")
        if secrets := secrets_in([answer.text]):
            wrong.append(f"tells a secret: {secrets}")
        return wrong


@contextlib.asynccontextmanager
async def odd_service(database_url: str) -> AsyncIterator[ServiceWithOddProxy]:
    """The service over a database with its schema, until the block ends."""
    async with odd_proxy() as proxy:
        settings = Settings(
            _env_file=None,
            database_url=database_url,
            database_pool_size=5,
            production_api_url=proxy.url,
            kaspi_access_token=ACCESS_TOKEN,
            kaspi_breaker_failures=0,
            encryption_keys=ENCRYPTION_KEY,
            duplicate_window_s=0,
            rate_limits=False,
        )
        services = build(settings)
        await services.routing.create(FULL_ACCESS, SHOP, {"organization_bin": BIN, "device_token": DEVICE_TOKEN})
        key = (await services.access.create("replies", list(Scope), shops=ALL_SHOPS)).key
        app = create_app(services, Drain())
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", headers=headers
        ) as client:
            service = ServiceWithOddProxy(client, proxy)
            proxy.answer = service.answer
            yield service
            await services.inflight.drain(10)
        await services.close()


async def try_service(database_url: str, operations: Iterator[tuple[Operation, Reply]]) -> Tried:
    """Put these replies through the whole service, one after the other."""
    with production_logs(level="INFO") as lines:
        async with odd_service(database_url) as service:
            for operation, reply in operations:
                await service.try_one(operation, reply)
        if secrets := secrets_in(lines.getvalue().splitlines()):
            service.tried.violations.append(f"a log tells a secret: {secrets[0][:500]}")
    return service.tried


def all_by_hand() -> Iterator[tuple[Operation, Reply]]:
    """Each reply made by hand, for each operation."""
    return ((operation, one.sent) for operation in Operation for one in BY_HAND)


def some_by_chance(maker: ReplyMaker, of_each: int) -> Iterator[tuple[Operation, Reply]]:
    """So many made by chance for each operation."""
    return ((operation, maker.reply) for operation in Operation for _ in range(of_each))
