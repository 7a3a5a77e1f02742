"""The family of the largest: whatever callers may send at its longest, and whatever the other side may answer.

Every field is filled to its limit with characters of four bytes; replies hold what no column of ours does: texts that
are too long, NULs, halves of characters, dates out of all time. After the effect nothing of it may be refused: the
outcome is written down, the events leave, and webhooks and chats are told.
"""

import asyncio
import itertools
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from faults import checker, courses, people
from faults.bench import Bench
from faults.clients import PAYS_AT_ONCE, Asked, Clients, Op, Told
from faults.courses import applied, remade, says
from faults.hearers import BOT_TOKEN, Hearers, hearers
from faults.proxy import Course
from faults.rig import Rig
from faults.wishes import WAITS
from tests.support.proxy import http
from tests.support.shops import SHOPS
from tests.support.waiting import until

ROSE: Final = "\N{ROSE}"
"""Four bytes in UTF-8, two units in UTF-16, two bytes of \\u escapes each in JSON."""
_MOST: Final = 9_999_999_999
"""Tiyn: as much as an amount may be."""
_METADATA_BYTES: Final = 8192
_FITS_IN_A_REPLY: Final = 60_000
_TOLD_WITHIN_S: Final = 60

_SETTINGS: Final = {
    "KASPI_DEADLINE_S": "3",
    "SENDING_LEASE_S": "5",
    "LATE_EFFECT_S": "0",
    "WEBHOOKS_STAY_HERE": "true",
    "TELEGRAM_BOT_TOKEN": BOT_TOKEN,
    "CONSOLE_URL": "https://pay.example.kz",
}
LARGEST: Final = "largest values"
TOO_LARGE: Final = "metadata beyond its limit"


def largest_metadata(limit: int = _METADATA_BYTES) -> tuple[tuple[str, str], ...]:
    """Twenty keys, and as many roses as there is room for in so many bytes of JSON."""

    def of(roses: int) -> dict[str, str]:
        return {f"{number:02d}{ROSE * 5}": ROSE * min(roses, 500) for number in range(20)}

    def length(roses: int) -> int:
        return len(json.dumps(of(roses), ensure_ascii=False).encode())

    fitting = next(roses for roses in itertools.count(1) if roses > 500 or length(roses + 1) > limit)
    return tuple(of(fitting).items())


def largest(clients: Clients, op: Op, **more: Any) -> Asked:
    """A payment whose every field is at its limit; what tells it from others comes first."""
    name = uuid.uuid4().hex[:12]
    asked = clients.payment(
        op,
        amount=_MOST,
        word=name + ROSE * (200 - len(name)),
        order_id=name + ROSE * (64 - len(name)),
        key=name + "~" * (128 - len(name)),
        metadata=largest_metadata(),
    )
    return replace(asked, **more)


# --- what the other side says


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A reply that is right but for one field, which is given as JSON text."""

    ops: tuple[Op, ...]
    field: str
    value: str

    @property
    def course(self) -> Course:
        return remade(self._remake)

    def _remake(self, body: bytes) -> bytes:
        whole = json.loads(body)
        whole["data"][self.field] = "@"
        return http(200, json.dumps(whole).replace('"@"', self.value).encode(), "Content-Type: application/json")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


NUL: Final = '"a\\u0000b"'
HALF: Final = '"a\\ud83db"'
"""Half of a character beyond the first 65,536."""
_LONG: Final = _text("x" * _FITS_IN_A_REPLY)
_ROSES: Final = _text(ROSE * (_FITS_IN_A_REPLY // 4))
_NUMBER: Final = "9" * 4000
_DEEP: Final = "[" * 20_000 + "]" * 20_000
_DATES: Final = (
    '"0001-01-01T00:00:00+14:00"',
    '"9999-12-31T23:59:59-12:00"',
    '"9999-12-31T23:59:59.999999Z"',
    '"0001-01-01T00:00:00Z"',
    '"-infinity"',
    '"+12026-01-01T00:00:00Z"',
    "1e400",
    NUL,
    _LONG,
)
_TEXTS: Final = (_LONG, _ROSES, NUL, HALF, _NUMBER, _DEEP, "1e999999999")
_LINKS: Final = (
    _text("https://pay.kaspi.kz/" + "x" * _FITS_IN_A_REPLY),
    _text("https://pay.kaspi.kz/" + ROSE),
    *_TEXTS,
)
_AMOUNTS: Final = ("1e999999999", "1e-999999999", f"-{_NUMBER}", NUL, HALF, _DEEP)
_IDS: Final = (_NUMBER, "1e400", NUL, HALF, _LONG)
_FIELDS: Final[tuple[tuple[str, tuple[Op, ...], tuple[str, ...]], ...]] = (
    ("status", ("create", "create-link", "status"), (_text("S" * 50), _text("S" * 51), *_TEXTS)),
    ("externalId", ("create", "refund", "status"), _IDS),
    ("paymentId", ("create-link",), _IDS),
    ("paymentLink", ("create-link",), (_text("https://pay.kaspi.kz/" + "x" * 1900), *_LINKS)),
    ("expireDate", ("create-link",), _DATES),
    ("returnOperationId", ("refund",), (_text("r" * 50), _text("r" * 51), *_TEXTS)),
    ("refundedAmount", ("refund",), _AMOUNTS),
    ("nobodyKnowsThis", ("create", "create-link", "refund", "status"), (_LONG, HALF, _DEEP, "1e999999999")),
)
REFUSALS: Final = {
    "refusal, a long sentence": (990000028, _ROSES),
    "refusal, a NUL": (990000028, NUL),
    "refusal, half a character": (990000028, HALF),
    "refusal, a number": (990000028, _NUMBER),
    "refusal, no end of code": (_NUMBER, _text("no")),
}
REPLIES: Final = {name: [Odd(ops=ops, field=name, value=value) for value in values] for name, ops, values in _FIELDS}
CASES: Final = [LARGEST, *REPLIES, *REFUSALS, TOO_LARGE]


def _refusal(code: object, sentence: str) -> Course:
    body = f'{{"status": false, "data": {{"errors": {{"{code}": {sentence}}}}}}}'
    return says(http(200, body.encode(), "Content-Type: application/json"))


# --- playing


@dataclass(slots=True)
class _Stage:
    rig: Rig
    clients: Clients
    heard: Hearers

    async def listen(self) -> None:
        """One webhook is told everything, a chat of each shop everything of that shop; all are described at length."""
        headers = {"Authorization": f"Bearer {self.rig.key}"}
        url = self.rig.services[0].url
        hook = {"url": f"{self.heard.url}/{'x' * 1900}", "description": ROSE * 500}
        made = (await self.rig.http.post(f"{url}/admin/webhooks", json=hook, headers=headers)).raise_for_status()
        self.rig.secrets |= {made.json()["secret"], BOT_TOKEN}
        events = [f"payment.{word}" for word in ("pending", "paid", "failed", "cancelled", "unknown")]
        events += [f"refund.{word}" for word in ("succeeded", "failed", "unknown")]
        chat = {"channel": "telegram", "events": events, "language": "kk", "description": ROSE * 200}
        for shop_id in SHOPS:
            of_shop = {**chat, "address": str(shop_id), "shop_id": shop_id}
            (await self.rig.http.post(f"{url}/admin/notify", json=of_shop, headers=headers)).raise_for_status()

    async def all_are_told(self) -> list[str]:
        """Whether every event has left, and every webhook and chat took what it was told."""
        queries = {
            "events that have not left": "SELECT count(*) FROM event WHERE passed_on_at IS NULL",
            "deliveries that were not taken": "SELECT count(*) FROM event_delivery WHERE state <> 'delivered'",
            "messages that were not taken": "SELECT count(*) FROM notify_message WHERE state <> 'sent'",
        }
        left: dict[str, int] = {}

        async def none() -> bool:
            left.update({what: await self.rig.pool.fetchval(query) for what, query in queries.items()})
            return not any(left.values())

        try:
            await until(none, "everybody is told", within_s=_TOLD_WITHIN_S, every_s=0.2)
        except TimeoutError:
            return [f"tells_everybody: {number} {what}" for what, number in left.items() if number]
        due = await self.rig.pool.fetchval("SELECT count(*) FROM event_delivery")
        return ["tells_everybody: nothing was told"] if due and not self.heard.events else []


async def run(bench: Bench) -> None:
    """Everything once for the slice, else a twentieth of ``bench.runs`` times: there is little chance in it."""
    async with (
        hearers() as heard,
        bench.another_rig({**_SETTINGS, "TELEGRAM_API_URL": heard.url}, services=1, workers=1) as rig,
    ):
        stage = _Stage(rig, Clients(rig, bench.random), heard)
        await stage.listen()
        for case in bench.cases(CASES):
            stage.clients.random = bench.random
            for _ in range(1 if bench.short else max(bench.runs // 20, 1)):
                await _play(bench, stage, case)


async def _play(bench: Bench, stage: _Stage, case: str) -> None:
    clients = stage.clients
    if case == LARGEST:
        wrong = await _largest(stage)
    elif case == TOO_LARGE:
        wrong = await _too_large(clients)
    elif case in REPLIES:
        played = (_odd(clients, op, odd.course) for odd in REPLIES[case] for op in odd.ops)
        wrong = list(itertools.chain(*await asyncio.gather(*played)))
    else:
        course = _refusal(*REFUSALS[case])
        ops: tuple[Op, ...] = ("create", "create-link", "refund")
        wrong = list(itertools.chain(*await asyncio.gather(*(_odd(clients, op, course) for op in ops))))
    told = clients.taken()
    found = await bench.check(told, may_be_unknown=case != LARGEST, rig=stage.rig, case=case)
    wrong += await stage.all_are_told()
    bench.tell(wrong, case)
    slowest_s = max(one.seconds for one in told)
    bench.count(case, "all", len(told), told, wrong + found, bench.books.unknown, slowest_s, rig=stage.rig)


async def _largest(stage: _Stage) -> list[str]:
    """A payment by phone, by link, paid, paid back in parts, unknown, and settled by a person with much to say."""
    clients, rig = stage.clients, stage.rig
    paid = await clients.ask(largest(clients, "create", phone=PAYS_AT_ONCE))
    link = await clients.ask(largest(clients, "create-link"))
    wrong = _allowed([paid, link], {200})
    if paid.status == 200:
        await until(lambda: _is_paid(clients, paid), "the largest payment is paid", within_s=15)
        key = f"{uuid.uuid4().hex}{'~' * 96}"
        refunds = [clients.refund_of(paid, 500), clients.refund_of(paid, _MOST - 500, key=key)]
        wrong += _allowed([await clients.ask(refund) for refund in refunds], {200})
        wrong += _allowed([await clients.ask(largest(clients, "create", phone=WAITS))], {200})
    lost = [largest(clients, "create", phone=WAITS), largest(clients, "create-link")]
    again = await clients.ask(largest(clients, "create", phone=PAYS_AT_ONCE))
    if again.status == 200:
        await until(lambda: _is_paid(clients, again), "the next one is paid", within_s=15)
        lost.append(clients.refund_of(again, _MOST))
    for asked in lost:
        rig.proxy.plan(asked.op, asked.external_id or asked.word or "", applied(courses.reset))
    wrong += _allowed(await asyncio.gather(*(clients.ask(asked) for asked in lost)), {202})
    return wrong + await people.settle_all(rig, ROSE * 500)


async def _is_paid(clients: Clients, made: Told) -> bool:
    told = await clients.ask(Asked(op="status", external_id=made.body["external_id"]))
    return told.body.get("state") == "paid"


async def _too_large(clients: Clients) -> list[str]:
    """More metadata than fits: refused before anything is sent, or taken whole, and never in between."""
    too_much = [largest_metadata(limit) for limit in (_METADATA_BYTES + 80, 100_000)]
    asked = [largest(clients, "create", phone=PAYS_AT_ONCE, metadata=metadata) for metadata in too_much]
    asked += [largest(clients, "create-link", metadata=metadata) for metadata in too_much]
    return _allowed([await clients.ask(one) for one in asked], {200, 422})


async def _odd(clients: Clients, op: Op, course: Course) -> list[str]:
    """One call whose reply is odd."""
    proxy = clients.rig.proxy
    if op == "refund":
        asked = clients.refund_of(await clients.paid(), 5_000)
    elif op == "status":
        made = await clients.insist(clients.payment(phone=WAITS))
        asked = Asked(op="status", external_id=made.body["external_id"])
    else:
        asked = clients.payment(op)
    proxy.plan(asked.op, asked.external_id or asked.word or "", course, times=None if op == "status" else 1)
    told = await clients.ask(asked)
    if op == "status":
        proxy.forget("status", asked.external_id or "")
    return _allowed([told], {200, 503} if op == "status" else {200, 202, 422})


def _allowed(every: Sequence[Told], allowed: set[int]) -> list[str]:
    return [
        f"answers: {checker.who(told)[:40]} was told {told.status} {told.body.get('code')}"
        for told in every
        if told.status not in allowed
    ]
