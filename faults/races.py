"""The family of races: equal and contrary requests at once, through both services, workers and changes of routing.

Where the order decides, a call is held at the wire until everybody else is there; the rest is left to chance, with as
many clients at once as the promise is made for.
"""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from faults import courses
from faults.bench import Bench
from faults.clients import PAYS_AT_ONCE, PHONES, Asked, Clients, Told
from faults.courses import applied
from faults.proxy import Call
from faults.rig import Rig
from tests.support.shops import SHOPS, bin_with_checksum, device_token_of
from tests.support.waiting import until

_HELD_S: Final = 5
_SHOP: Final = 121038
_WAITS: Final = "77015219017"
"""Nobody pays this phone's payments: they stay open."""
_LATE_SUCCESS: Final = "77015219018"
"""Its payments read Error at first, and Processed later."""


@dataclass(slots=True)
class Hold:
    """Holds a call at the wire, before the stand-in has it or before its reply goes back, until it is let go."""

    after: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, call: Call) -> None:
        reply = await call.apply() if self.after else None
        self.came.set()
        async with asyncio.timeout(_HELD_S):
            await self.go.wait()
        await call.say((reply or await call.apply()).whole)


@dataclass(slots=True)
class Race:
    """One race in one rig: who runs, and what went wrong."""

    rig: Rig
    clients: Clients
    crowd: int
    """How many run at once."""
    wrong: list[str] = field(default_factory=list)
    may_be_unknown: bool = False

    async def at_once(self, wishes: Iterable[Asked]) -> list[Told]:
        """Everybody asks at once, half of them through each service, and insists; the last words of each."""
        services = self.rig.services
        asking = (self.clients.insist(asked, services[n % len(services)]) for n, asked in enumerate(wishes))
        return await asyncio.gather(*asking)

    def times(self, asked: Asked) -> list[Asked]:
        """The same wish of the whole crowd."""
        return [asked] * self.crowd

    def expect(self, fact: object, sentence: str) -> None:
        """Write down what should have been so and was not."""
        if not fact:
            self.wrong.append(f"races: {sentence}")

    def expect_one(self, last_words: list[Told]) -> None:
        """All were told of one payment or refund, and it was applied once."""
        name = "refund_id" if last_words[0].asked.op == "refund" else "id"
        statuses = Counter(told.status for told in last_words)
        self.expect(statuses.keys() == {200}, f"everybody should have been told 200: {statuses}")
        ids = {told.body.get(name) for told in last_words}
        self.expect(len(ids) == 1, f"{len(ids)} were made where one was asked for")

    def applied(self, external_id: str, op: str = "refund") -> int:
        """How often a refund of a payment was applied."""
        return sum(
            entry["applied"] and entry["op"] == op and entry["external_id"] == external_id
            for entry in self.rig.entries()
        )

    async def put_route(self, organization_bin: str, device_token: str, shop_id: int = _SHOP) -> None:
        """Change the routing of a shop, as an operator does."""
        body = {"organization_bin": organization_bin, "device_token": device_token}
        service = self.clients.random.choice(self.rig.services)
        answer = await self.rig.http.put(
            f"{service.url}/admin/configs/{shop_id}", json=body, headers={"Authorization": f"Bearer {self.rig.key}"}
        )
        answer.raise_for_status()

    @contextlib.asynccontextmanager
    async def another_route(self) -> AsyncIterator[tuple[str, str]]:
        """A BIN and a device token that the shop may move to; in the end it has its old ones again."""
        organization_bin = _some_bin(self.clients)
        device_token = str(uuid.uuid4())
        self.rig.register(organization_bin, device_token)
        try:
            yield organization_bin, device_token
        finally:
            await self.put_route(SHOPS[_SHOP], device_token_of(_SHOP))


def _some_bin(clients: Clients) -> str:
    while True:
        with contextlib.suppress(ValueError):
            return bin_with_checksum(f"{clients.random.randrange(10**10, 10**11)}")


# --- equal requests


async def same_key(race: Race) -> None:
    """One Idempotency-Key, the whole crowd: one payment."""
    race.expect_one(await race.at_once(race.times(race.clients.payment())))


async def same_key_link(race: Race) -> None:
    """One Idempotency-Key, the whole crowd: one link."""
    race.expect_one(await race.at_once(race.times(race.clients.payment("create-link"))))


async def same_key_refund(race: Race) -> None:
    """One Idempotency-Key, the whole crowd: one refund."""
    refund = race.clients.refund_of(await race.clients.paid(), 700)
    race.expect_one(await race.at_once(race.times(refund)))


async def no_key(race: Race) -> None:
    """Clients without keys who ask for the same mean one payment."""
    race.expect_one(await race.at_once(race.times(race.clients.payment(key=None))))


async def no_key_refund(race: Race) -> None:
    """Clients without keys who ask for the same mean one refund."""
    refund = race.clients.refund_of(await race.clients.paid(), 700, key=None)
    race.expect_one(await race.at_once(race.times(refund)))


async def same_order(race: Race) -> None:
    """One order, each client with a key of its own: one payment."""
    one = race.clients.payment(order_id=f"order-{uuid.uuid4().hex}", phone=_WAITS)
    race.expect_one(await race.at_once(replace(one, key=f"key-{uuid.uuid4().hex}") for _ in range(race.crowd)))


async def same_order_other_amounts(race: Race) -> None:
    """One order, and each client wants another amount: one gets its payment, the others are told that it is open."""
    one = race.clients.payment(order_id=f"order-{uuid.uuid4().hex}")
    wishes = [
        race.clients.payment(order_id=one.order_id, shop_id=one.shop_id, amount=(n + 1) * 100)
        for n in range(race.crowd)
    ]
    services = race.rig.services
    told = await asyncio.gather(*(race.clients.ask(w, services[n % len(services)]) for n, w in enumerate(wishes)))
    made = [one for one in told if one.status == 200]
    codes = {one.body.get("code") for one in told if one.status != 200}
    race.expect(len(made) <= 1, f"{len(made)} payments of one order were made")
    allowed = {"order_already_open", "still_running", "database_unavailable"}
    race.expect(codes <= allowed, f"the others were told {codes}")


async def key_of_another_wish(race: Race) -> None:
    """One key, half of the crowd for one payment and half for another: one payment, and the others are told 422."""
    one = race.clients.payment()
    other = race.clients.payment("create-link", key=one.key)
    last_words = await race.at_once([one, other] * (race.crowd // 2))
    made = {told.body["id"] for told in last_words if told.status == 200}
    refused = {told.body.get("code") for told in last_words if told.status != 200}
    race.expect(len(made) == 1, f"{len(made)} payments were made with one key")
    race.expect(refused == {"idempotency_key_reused"}, f"the others were told {refused}")


# --- refunds


async def parts_beyond_the_whole(race: Race) -> None:
    """Parallel partial refunds that come to one and a half payments: as many go through as there is money for.

    No two of one sum: of those the second would wait until the end of the first is known. Whole tenge: by the tiyn the
    stand-in chooses its course.
    """
    parts = [300 + 100 * part for part in range(race.crowd)]
    whole = sum(parts) * 2 // 300 * 100
    paid = await race.clients.paid(amount=whole)
    last_words = await race.at_once(race.clients.refund_of(paid, part) for part in parts)
    told = {status: [told.asked.amount or 0 for told in last_words if told.status == status] for status in (200, 422)}
    left = whole - sum(told[200])
    race.expect(len(told[200]) + len(told[422]) == race.crowd, f"parts were told {last_words}")
    race.expect(0 <= left < min(told[422], default=0), f"{left} was left, and {told[422]} did not go through")
    race.expect(race.applied(paid.body["external_id"]) == len(told[200]), "not as many parts were applied as were told")


async def equal_parts_of_other_keys(race: Race) -> None:
    """A page that is loaded anew asks for the same refund under another key: it waits for the end of the first one."""
    paid = await race.clients.paid(amount=10_000)
    wishes = [race.clients.refund_of(paid, 1_000) for _ in range(race.crowd)]
    last_words = await race.at_once(wishes)
    told = Counter(told.body.get("code", "made") for told in last_words)
    race.expect(told.keys() <= {"made", "refund_already_open", "refund_exceeds_remainder"}, f"they were told {told}")
    race.expect(race.applied(paid.body["external_id"]) == told["made"], "not as many were applied as were told")


async def refund_while_one_is_unknown(race: Race) -> None:
    """A refund of unknown end keeps its amount: whoever asks for more than the rest, then or later, gets none."""
    race.may_be_unknown = True
    paid = await race.clients.paid(amount=10_000)
    external_id = paid.body["external_id"]
    hold = Hold()

    async def held_and_lost(call: Call) -> None:
        hold.came.set()
        await hold.go.wait()
        await applied(courses.close)(call)

    race.rig.proxy.plan("refund", f"{external_id} 60.00", held_and_lost)
    first = asyncio.create_task(race.clients.ask(race.clients.refund_of(paid, 6_000)))
    async with asyncio.timeout(_HELD_S):
        await hold.came.wait()
    meanwhile = await race.at_once(race.clients.refund_of(paid, 10_000) for _ in range(race.crowd // 2))
    hold.go.set()
    race.expect((await first).status == 202, f"the first refund should be unknown: {first.result()}")
    afterwards = await race.at_once(race.clients.refund_of(paid, 5_000) for _ in range(race.crowd // 2))
    codes = Counter(told.body.get("code") for told in meanwhile + afterwards)
    race.expect(
        codes.keys() == {"refund_exceeds_remainder"}, f"too much was asked for, and the clients were told {codes}"
    )
    race.expect(race.applied(external_id) == 1, "not one refund was applied")


async def refund_while_being_paid(race: Race) -> None:
    """Refunds of all of a payment that its customer pays just now: one goes through once it is paid."""
    made = await race.clients.insist(race.clients.payment(phone=PHONES[0], amount=10_000))
    wishes = [race.clients.refund_of(made, 10_000) for _ in range(race.crowd)]
    last: dict[Asked, Told] = {}

    async def one_is_through() -> bool:
        for told in await asyncio.gather(*(race.clients.ask(asked) for asked in wishes)):
            last[told.asked] = told
        return any(told.status == 200 for told in last.values())

    await until(one_is_through, "a refund of what was paid meanwhile", within_s=15)
    codes = {told.body.get("code") for told in last.values() if told.status != 200}
    allowed = {"payment_not_paid", "refund_exceeds_remainder", "database_unavailable", "provider_unavailable"}
    race.expect(codes <= allowed, f"the others were told {codes}")
    race.expect(race.applied(made.body["external_id"]) == 1, "not one refund was applied")


# --- changes of routing


async def route_changed_before_the_call(race: Race) -> None:
    """The route changes while a written payment is on its way: it arrives where it was written down for."""
    await _route_changed_while_held(race, Hold())


async def route_changed_before_the_reply(race: Race) -> None:
    """The route changes while the reply is on its way: nothing of the payment changes."""
    await _route_changed_while_held(race, Hold(after=True))


async def _route_changed_while_held(race: Race, hold: Hold) -> None:
    asked = race.clients.payment(shop_id=_SHOP, phone=PAYS_AT_ONCE)
    race.rig.proxy.plan("create", asked.word or "", hold)
    first = asyncio.create_task(race.clients.insist(asked))
    async with asyncio.timeout(_HELD_S):
        await hold.came.wait()
    async with race.another_route() as (organization_bin, device_token):
        await race.put_route(organization_bin, device_token)
        hold.go.set()
        made = await first
        later = await race.clients.insist(race.clients.payment(shop_id=_SHOP))
        # Its refund takes the way that the payment took.
        await race.clients.ask(Asked(op="status", external_id=made.body["external_id"]))
        refund = await race.clients.insist(race.clients.refund_of(made, 100))
    race.expect(made.body["organization_bin"] == SHOPS[_SHOP], f"the held payment went elsewhere: {made}")
    race.expect(refund.status == 200, f"its refund was told {refund}")
    race.expect(refund.body.get("organization_bin") == SHOPS[_SHOP], f"its refund went elsewhere: {refund}")
    race.expect(later.body["organization_bin"] == organization_bin, f"a later payment took the old route: {later}")


async def route_changed_all_the_time(race: Race) -> None:
    """Payments and changes of routing at once: each payment is on one whole route, and none is on a route of before."""
    async with race.another_route() as there:
        back = (SHOPS[_SHOP], device_token_of(_SHOP))
        settled: list[str] = [SHOPS[_SHOP]]
        """Whose account the shop is on, as far as an operator was told; empty while a change is under way."""

        async def change() -> None:
            for route in (there, back) * 4:
                settled.clear()
                await race.put_route(*route)
                settled.append(route[0])
                await asyncio.sleep(0.02)

        async def pay() -> None:
            before = list(settled)
            told = await race.clients.insist(race.clients.payment(shop_id=_SHOP))
            # Nobody changed anything between the question and the answer: then there is only one right account.
            if before and before == settled and told.status == 200 and told.body["organization_bin"] != before[0]:
                race.expect(fact=False, sentence=f"a payment took a route of before: {told}")

        await asyncio.gather(change(), *(pay() for _ in range(race.crowd)))


# --- one payment, many eyes


async def workers_and_readers(race: Race) -> None:
    """Two workers, many readers and hints follow one payment to its end: one line for each move."""
    await _followed_by_all(race, PHONES[0], "paid")


async def workers_and_readers_of_a_late_success(race: Race) -> None:
    """The same when the provider first says that it failed, and later that it was paid."""
    await _followed_by_all(race, _LATE_SUCCESS, "paid")


async def _followed_by_all(race: Race, phone: str, end: str) -> None:
    made = await race.clients.insist(race.clients.payment(phone=phone))
    external_id = made.body["external_id"]
    hint = {"shop_id": made.asked.shop_id, "external_id": external_id, "status": "Processed"}
    headers = {"Authorization": f"Bearer {race.rig.key}"}

    async def ended() -> bool:
        services = race.rig.services
        asking: list[Awaitable[Any]] = [
            race.clients.ask(Asked(op="status", external_id=external_id), services[n % len(services)])
            for n in range(max(race.crowd // 5, 2))
        ]
        asking += [race.rig.http.patch(f"{s.url}/api/payment/status", json=hint, headers=headers) for s in services]
        told = await asyncio.gather(*asking)
        return any(isinstance(one, Told) and one.body.get("state") == end for one in told)

    await until(ended, f"payment {external_id} is {end}", within_s=20, every_s=0.1)


_RACES: Final[dict[str, Callable[[Race], Awaitable[None]]]] = {
    race.__name__: race
    for race in (
        same_key,
        same_key_link,
        same_key_refund,
        no_key,
        no_key_refund,
        same_order,
        same_order_other_amounts,
        key_of_another_wish,
        parts_beyond_the_whole,
        equal_parts_of_other_keys,
        refund_while_one_is_unknown,
        refund_while_being_paid,
        route_changed_before_the_call,
        route_changed_before_the_reply,
        route_changed_all_the_time,
        workers_and_readers,
        workers_and_readers_of_a_late_success,
    )
}
CASES: Final = list(_RACES)
SLICE: Final = [case for case in CASES if case != workers_and_readers_of_a_late_success.__name__]
"""What ``make test`` runs: a late success takes its time."""
AT_ONCE: Final = 50
AT_ONCE_IN_SHORT: Final = 16


async def run(bench: Bench) -> None:
    """Every race, a quarter of ``bench.runs`` times: each is a crowd of its own."""
    runs = max(bench.runs // 4, 1)
    for case in bench.cases(SLICE if bench.short and bench.only is None else CASES):
        found: list[str] = []
        told: list[Told] = []
        unknown = 0
        for _ in range(runs):
            race = Race(bench.rig, bench.clients, AT_ONCE_IN_SHORT if bench.short else AT_ONCE)
            await _RACES[case](race)
            bench.tell(race.wrong, case)
            answers = bench.clients.taken()
            found += race.wrong
            found += await bench.check(answers, may_be_unknown=race.may_be_unknown, case=case)
            told += answers
            unknown += bench.books.unknown
        slowest_s = max(one.seconds for one in told)
        bench.count(case, f"{len(told)} requests", runs, told, found, unknown, slowest_s)
