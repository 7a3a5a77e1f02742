"""The family of the wire: everything that can happen to a call between the service and the proxy of Kaspi.

One table says for each fault what the client of a money call may be told (docs/kaspi-api.md section 6), what may become
of the reading of a status, and whether the stand-in had the call. Each fault is played for each verb, many at once.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from faults import checker, courses
from faults.bench import Bench
from faults.books import gather
from faults.clients import Asked, Clients, Op, Told
from faults.courses import applied, remade, says
from faults.proxy import Course, FaultProxy
from faults.rig import PROMPT, Rig
from tests.support.proxy import Connection, http, raw_proxy
from tests.support.waiting import until

OPS: Final[tuple[Op, ...]] = ("create", "create-link", "refund", "status")
ANSWERS_WITHIN_S: Final = 9
GROWS_AT_MOST_KB: Final = 64 * 1024
"""While it is sent twenty bodies of 50 MB, or twenty bombs of half a gigabyte, at once."""
_AT_ONCE: Final = 40
"""More calls than this would be a test of load, which is none of this family's business."""
_TRIES: Final = 10
_PAUSE_S: Final = 0.3
_LEAVES_WITHIN_S: Final = 3
_WAITS: Final = "77015219017"
"""Nobody pays this phone's payments: they stay pending."""


class Heard(StrEnum):
    """What the client of a call is told, in one word."""

    SUCCESS = "success"
    """200; of a status, that it was read."""
    UNKNOWN = "unknown"
    """202: it may have been done or not."""
    NOT_SENT = "not_sent"
    """503: no byte left."""
    REFUSED = "refused"
    """502: the proxy refused the service."""
    UNREAD = "unread"
    """503: a status could not be read."""


DONE: Final = frozenset({Heard.SUCCESS})
UNSURE: Final = frozenset({Heard.UNKNOWN})
NEVER_LEFT: Final = frozenset({Heard.NOT_SENT})
SAID_NO: Final = frozenset({Heard.REFUSED})
UNREAD: Final = frozenset({Heard.UNREAD})

Door = Callable[[FaultProxy, float], AbstractAsyncContextManager[None]]
"""A state of the whole door while the calls are made; it is told the service's deadline, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One fault, and what may come of it."""

    name: str
    happens: bool
    """Whether the stand-in has the call."""
    make: Callable[[], Course] | None = None
    door: Door | None = None
    told: frozenset[Heard] = UNSURE
    """What the client of a money call may be told."""
    refunds: frozenset[Heard] | None = None
    """The same for refunds, where it differs."""
    reading: frozenset[Heard] = UNREAD
    """What may become of a status."""
    ops: tuple[Op, ...] = OPS
    warm: bool = False
    """Each client makes one call before, through the same course, and it goes well."""
    in_pairs: bool = False
    slow: bool = False
    """Only the service's own deadline ends it."""
    greedy: bool = False
    """It tries to fill the service's memory."""

    def may_be_told(self, op: Op) -> frozenset[Heard]:
        """What the client of an operation may be told."""
        if op == "status":
            return self.reading
        return self.refunds if op == "refund" and self.refunds is not None else self.told

    @property
    def may_be_unknown(self) -> bool:
        """Whether it may leave a payment or a refund unknown."""
        return any(Heard.UNKNOWN in self.may_be_told(op) for op in self.ops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """A fault under which no service can keep the promise; it shows that the checker sees what goes wrong."""

    kind: Kind
    law: str
    """The law that the checker finds broken."""
    reason: str


def kinds(elsewhere: str = "", seed: int = 0) -> dict[str, Kind]:
    """Every fault, by name. ``elsewhere`` is the address of the host that redirects point to."""
    made = [
        *_without_connection(),
        *_without_reply(),
        *_broken_replies(seed),
        *_other_replies(elsewhere),
        *_too_much(),
        *_in_time(),
        *_harmless(),
        *_between_calls(),
    ]
    return {kind.name: kind for kind in made}


def beyond() -> dict[str, Beyond]:
    """What is left out of the goal, with the reason."""
    crossed = Kind(
        name="swapped_creates",
        make=courses.Swap,
        ops=("create", "create-link"),
        told=DONE,
        happens=True,
        in_pairs=True,
    )
    resent = Kind(name="resent", make=lambda: courses.resend, ops=OPS[:3], told=DONE, happens=True)
    made = [
        Beyond(
            kind=crossed,
            law="external_id_is_its_own",
            reason="The reply to a create says nothing of the payment but its id: two whole replies that changed "
            "places on their way look like two right ones.",
        ),
        Beyond(
            kind=resent,
            law="applied_once",
            reason="Kaspi takes no idempotency key: a GET that a middlebox sends twice is done twice, and the service "
            "sees one reply. The proxy's owner must set proxy_next_upstream off.",
        ),
    ]
    return {one.kind.name: one for one in made}


def _always(
    name: str,
    course: Course,
    *,
    happens: bool = True,
    told: frozenset[Heard] = UNSURE,
    refunds: frozenset[Heard] | None = None,
    reading: frozenset[Heard] = UNREAD,
    warm: bool = False,
    slow: bool = False,
    greedy: bool = False,
) -> Kind:
    return Kind(
        name=name,
        make=lambda: course,
        happens=happens,
        told=told,
        refunds=refunds,
        reading=reading,
        warm=warm,
        slow=slow,
        greedy=greedy,
    )


def _both(name: str, course: Course, *, slow: bool = False) -> list[Kind]:
    """A fault that leaves open whether the stand-in had the call, with and without."""
    return [
        _always(f"{name}_unapplied", course, happens=False, slow=slow),
        _always(f"{name}_applied", applied(course), slow=slow),
    ]


def _without_connection() -> list[Kind]:
    return [
        Kind(name="refused", door=lambda proxy, _: proxy.shut(), told=NEVER_LEFT, happens=False),
        Kind(
            name="syn_into_the_void",
            door=lambda proxy, _: proxy.swallow_all(),
            told=NEVER_LEFT,
            happens=False,
            slow=True,
        ),
        # Whether a byte leaves before the reset comes is a race.
        Kind(name="reset_on_accept", door=lambda proxy, _: proxy.refuse_all(), told=UNSURE | NEVER_LEFT, happens=False),
        Kind(
            name="accepted_late", door=lambda proxy, _: proxy.keep_waiting(0.4), told=DONE, reading=DONE, happens=True
        ),
        Kind(name="accepted_too_late", door=lambda proxy, s: proxy.keep_waiting(s + 0.5), happens=True, slow=True),
    ]


def _without_reply() -> list[Kind]:
    return [*_both("closed", courses.close), *_both("reset", courses.reset), *_both("hangs", courses.hang, slow=True)]


def _broken_replies(seed: int) -> list[Kind]:
    made = [
        courses.half_status_line,
        courses.half_headers,
        courses.half_promised,
        courses.half_unpromised,
        courses.half_chunk,
        courses.chunk_without_end,
        courses.two_documents,
        courses.bad_json,
        courses.two_lengths,
        courses.too_short_a_length,
        courses.answers_twice,
        courses.huge_header,
        courses.zipped,
    ]
    return [
        *(_always(make.__name__, remade(make)) for make in made),
        *_both("garbage", courses.garbage(seed)),
        *_both("tls_alert", says(b"\x15\x03\x03\x00\x02\x02\x46")),
        *_both("html", says(http(200, b"<html><body>Log in</body></html>", "Content-Type: text/html"))),
        *_both("empty_unpromised", says(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")),
        # For a refund nothing at all is how the proxy says yes (docs/kaspi-api.md section 2), so it must be true here.
        _always("empty", applied(says(http(200, b""))), refunds=DONE, happens=True),
    ]


def _other_replies(elsewhere: str) -> list[Kind]:
    page = b"<html><body>nginx</body></html>"
    redirects = [
        _always(f"http_{status}_elsewhere", courses.redirects(status, elsewhere), happens=False)
        for status in (301, 302, 303, 307, 308)
    ]
    refusals = [
        _always(f"http_{status}", says(http(status, page)), told=SAID_NO, reading=SAID_NO, happens=False)
        for status in (401, 403, 404, 405, 429)
    ]
    unsure = [
        kind
        for status in (408, 409, 425, 500, 502, 503, 504)
        for kind in _both(f"http_{status}", says(http(status, page, "Retry-After: 0")))
    ]
    return [
        *redirects,
        _always("http_307_to_itself_applied", courses.redirects_to_itself, happens=True),
        *refusals,
        *unsure,
    ]


def _too_much() -> list[Kind]:
    return [
        _always("huge_body", courses.huge_body, greedy=True),
        _always("endless_body", applied(courses.endless_body), greedy=True),
        Kind(name="gzip_bomb", make=lambda: applied(says(courses.bomb())), happens=True, greedy=True),
    ]


def _in_time() -> list[Kind]:
    return [
        _always("drips", courses.drips, slow=True),
        _always("stops_halfway", courses.stops_halfway, slow=True),
        _always("applied_late", courses.apply_late, slow=True),
        _always("noise_without_end", courses.noise_without_end, slow=True),
    ]


def _harmless() -> list[Kind]:
    """What looks odd and is a whole reply all the same. Money calls never share a connection, so none dies there."""
    on_kept_connections = (courses.dies_after, courses.dies_under_the_next, courses.answers_again)
    return [
        _always("after_noise", remade(courses.after_noise), told=DONE, reading=DONE),
        *(
            _always(course.__name__, course, told=DONE, reading=DONE | UNREAD, warm=True)
            for course in on_kept_connections
        ),
    ]


def _between_calls() -> list[Kind]:
    return [
        # Of a payment that does not exist there is only one thing to say, so a reading cannot be crossed.
        Kind(name="cached", make=courses.Cache, reading=DONE, happens=False, warm=True),
        Kind(
            name="swapped",
            make=courses.Swap,
            ops=("refund", "status"),
            told=UNSURE | DONE,
            reading=DONE | UNREAD,
            happens=True,
            in_pairs=True,
        ),
    ]


REAL_DEADLINE: Final = "real_deadline"
CASES: Final = [*kinds(), REAL_DEADLINE, *beyond()]


# --- playing


@dataclass(slots=True)
class _Play:
    """One fault, played for one operation by many clients at once."""

    kind: Kind
    op: Op
    asked: list[Asked]
    told: list[Told] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    met: int = 0
    """How many calls met the fault."""

    @property
    def slowest_s(self) -> float:
        return max(told.seconds for told in self.told)


def heard_by(told: Told) -> Heard | None:
    """What the client of a call was told; none for what nobody may be told here."""
    match told.status, told.body.get("code"):
        case 200, _:
            return Heard.SUCCESS
        case 202, _:
            return Heard.UNKNOWN
        case 404, "payment_not_found" if told.asked.op == "status":
            return Heard.SUCCESS  # that is what there is to read of a payment that does not exist
        case 502, "provider_refused":
            return Heard.REFUSED
        case 503, "not_sent":
            return Heard.NOT_SENT
        case 503, "provider_unavailable" if told.asked.op == "status":
            return Heard.UNREAD
    return None


@dataclass(slots=True)
class _Stage:
    """Where faults are played: a rig, its clients, and payments that stay pending."""

    rig: Rig
    clients: Clients
    waiting: list[Told] = field(default_factory=list)
    _next_waiting: int = 0
    _crowd: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def play(self, every: Iterable[Kind], runs: int) -> list[_Play]:
        """Play faults for every operation, all at once; those of the door one after the other."""
        every = list(every)
        by_name = [kind for kind in every if kind.door is None]
        plays = await self._play_at_once(by_name, runs, contextlib.nullcontext()) if by_name else []
        deadline_s = float({**PROMPT, **self.rig.settings}["KASPI_DEADLINE_S"])
        for kind in every:
            if kind.door is not None:
                plays += await self._play_at_once([kind], runs, kind.door(self.rig.proxy, deadline_s))
        return plays

    async def _play_at_once(self, every: list[Kind], runs: int, door: AbstractAsyncContextManager[None]) -> list[_Play]:
        self._next_waiting = 0
        plays = [await self._prepare(kind, op, runs) for kind in every for op in kind.ops]
        before = len(self.rig.entries())
        async with door:
            await asyncio.gather(*(self._play(play) for play in plays))
        for play in plays:
            await self._compare(play, before)
        return plays

    # --- what is asked for

    async def _prepare(self, kind: Kind, op: Op, runs: int) -> _Play:
        """What ``runs`` clients want, up to the moment when they ask for it."""
        runs += runs % 2 if kind.in_pairs else 0
        if op != "status":
            return _Play(kind, op, await asyncio.gather(*(self._ask_for(op) for _ in range(runs))))
        return _Play(kind, op, [await self._payment_to_read(ours=bool(number % 2)) for number in range(runs)])

    async def _payment_to_read(self, *, ours: bool) -> Asked:
        """A payment of ours that stays pending, of which no other fault is played just now; or nobody's payment."""
        if not ours:
            return Asked(op="status", external_id=f"9{self.clients.random.randrange(10**10):010d}")
        if self._next_waiting == len(self.waiting):
            self.waiting.append(await self.clients.insist(self.clients.payment(phone=_WAITS)))
        self._next_waiting += 1
        return Asked(op="status", external_id=self.waiting[self._next_waiting - 1].body["external_id"])

    async def _ask_for(self, op: Op) -> Asked:
        if op != "refund":
            return self.clients.payment(op)
        return self.clients.refund_of(await self.clients.paid(), self.clients.random.randrange(1, 50) * 100)

    # --- asking for it

    async def _play(self, play: _Play) -> None:
        kind = play.kind
        shared = kind.make() if kind.make else None
        own = [kind.make() if kind.make and kind.warm else shared for _ in play.asked]
        played = (self._ask_in_turn(play, asked, course) for asked, course in zip(play.asked, own, strict=True))
        play.told += await asyncio.gather(*played)

    async def _ask_in_turn(self, play: _Play, asked: Asked, course: Course | None) -> Told:
        async with self._crowd:
            return await self._ask(play, asked, course)

    async def _ask(self, play: _Play, asked: Asked, course: Course | None) -> Told:
        kind = play.kind
        if kind.warm:
            first = await self._through(play, _another(asked), course)
            # Readings share connections, so the one that dies of a neighbour's fault may be this one's.
            if heard_by(first) not in {Heard.SUCCESS, *({Heard.UNREAD} if play.op == "status" else ())}:
                play.wrong.append(f"told: {play.op} before {kind.name} was told {first}")
        told = await self._through(play, asked, course)
        # A payment of ours that could not be read is answered from the record.
        from_record = asked.op == "status" and told.status == 200
        if heard_by(told) not in kind.may_be_told(play.op) and not from_record:
            play.wrong.append(f"told: {play.op} under {kind.name} was told {told}")
        if from_record and told.body["state"] != "pending":
            play.wrong.append(
                f"told: nobody paid {asked.external_id}, and under {kind.name} it was {told.body['state']}"
            )
        if told.seconds > ANSWERS_WITHIN_S:
            play.wrong.append(f"in time: {play.op} under {kind.name} took {told.seconds:.1f} s")
        return told

    async def _through(self, play: _Play, asked: Asked, course: Course | None) -> Told:
        """Ask, while the fault is planned for this call."""
        amount = f" {(asked.amount or 0) / 100:.2f}" if asked.op == "refund" else ""
        name = asked.word or f"{asked.external_id}{amount}"
        proxy = self.rig.proxy
        if course is not None:
            # Workers read the same payments, and are to meet the same fault.
            proxy.plan(asked.op, name, course, times=None if asked.op == "status" else 1)
        told = await self.clients.ask(asked)
        for _ in range(_TRIES):
            if told.body.get("code") != "database_unavailable":
                break
            await asyncio.sleep(_PAUSE_S)
            told = await self.clients.ask(asked)  # too much for this machine just now, and nothing was sent
        if course is not None:

            async def met() -> bool:
                return proxy.played[asked.op, name] > 0

            # A client may be answered, on a busy machine, before the call has left.
            with contextlib.suppress(TimeoutError):
                await until(met, "the call met its fault", within_s=_LEAVES_WITHIN_S)
            proxy.forget(asked.op, name)
            play.met += proxy.played.pop((asked.op, name), 0)
        return told

    async def _compare(self, play: _Play, before: int) -> None:
        """Whether the stand-in had each call as often as it should; what is still on its way is waited for."""
        if play.kind.make is not None and play.met < len(play.asked):
            play.wrong.append(f"played: {play.kind.name} befell {play.met} calls of {len(play.asked)} to {play.op}")
        times = int(play.kind.happens)
        wanted = Counter[object]()
        for asked in play.asked:
            if asked.op == "refund":
                wanted[asked.external_id, asked.amount] += times + play.kind.warm
            elif asked.op != "status":
                wanted[asked.word] += times

        def missing() -> list[object]:
            had = Counter(_wish_of(entry) for entry in self.rig.entries()[before:] if entry["applied"])
            return [what for what, number in wanted.items() if had[what] != number]

        async def right() -> bool:
            return not missing()

        try:
            await until(right, "the stand-in had every call", within_s=5 if times else 0)
        except TimeoutError:
            play.wrong.append(f"applied: {play.op} under {play.kind.name} not {times} times for {missing()}")


def _another(asked: Asked) -> Asked:
    """The same wish, as a request of its own."""
    if asked.op == "status":
        return asked
    return replace(asked, key=f"{asked.key}-first", word=asked.word and f"{asked.word} first")


def _wish_of(entry: dict[str, Any]) -> object:
    if entry["op"] == "refund":
        return entry["external_id"], entry["amount"]
    return entry["message"].rpartition(" #")[0]


async def run(bench: Bench) -> None:
    """Every fault for every operation, ``bench.runs`` times each, all at once."""
    async with raw_proxy(_hang_up) as elsewhere:
        every = kinds(elsewhere.url, bench.seed)
        stage = _Stage(bench.rig, bench.clients)
        if bench.short and bench.only is None:
            # Each fault once, for one operation after the other.
            brief = [replace(kind, ops=(kind.ops[n % len(kind.ops)],)) for n, kind in enumerate(every.values())]
            await _check(bench, stage, await stage.play(brief, 1), case="")
        else:
            for name in bench.cases(list(every)):
                await _play_one(bench, stage, every[name])
            for name in bench.cases([REAL_DEADLINE]):
                await _play_slow(bench, [kind for kind in every.values() if kind.slow], name)
        if elsewhere.connections:
            bench.tell([f"redirects: another host was called {elsewhere.connections} times"], "")
    exceptions = beyond()
    for name in [] if bench.short else bench.cases(list(exceptions)):
        await _show(bench, exceptions[name])


async def _hang_up(_connection: Connection) -> None:
    """What listens where nobody may call."""


async def _play_one(bench: Bench, stage: _Stage, kind: Kind) -> None:
    before = _memory_kb(stage.rig)
    plays = await stage.play([kind], bench.runs)
    grown = max(now - then for now, then in zip(_memory_kb(stage.rig), before, strict=True))
    if kind.greedy and grown > GROWS_AT_MOST_KB:
        plays[0].wrong.append(f"memory: {kind.name} made a service grow by {grown // 1024} MB")
    await _check(bench, stage, plays, case=kind.name)


def _memory_kb(rig: Rig) -> list[int]:
    """The most that each service ever held, as Linux counts it."""
    statuses = (Path(f"/proc/{service.pid}/status").read_text() for service in rig.services)
    return [int(status.partition("VmHWM:")[2].split()[0]) for status in statuses]


async def _play_slow(bench: Bench, slow: list[Kind], case: str) -> None:
    """What only the deadline ends, with the deadline of production."""
    settings = {"KASPI_DEADLINE_S": "8", "SENDING_LEASE_S": "10"}
    async with await bench.new_rig(case, settings) as rig:
        stage = _Stage(rig, Clients(rig, bench.random))
        await _check(bench, stage, await stage.play(slow, max(bench.runs // 4, 1)), case=case)
        await bench.check_all(rig)


async def _show(bench: Bench, exception: Beyond) -> None:
    """Play what is left out of the goal, in a rig of its own, and see that the checker finds it."""
    name = exception.kind.name
    async with await bench.new_rig(name) as rig:
        stage = _Stage(rig, Clients(rig, bench.random))
        plays = await stage.play([exception.kind], bench.runs)
        await rig.settle()
        found = checker.violations(await gather(rig, stage.clients.taken()), may_be_unknown=True)
        if not any(violation.startswith(exception.law) for violation in found):
            bench.tell([f"{exception.law}: the checker did not see what {name} does"], name)
        for play in plays:
            bench.count(f"{name} (left out)", play.op, len(play.told), play.told, (), 0, play.slowest_s, rig=rig)


async def _check(bench: Bench, stage: _Stage, plays: list[_Play], *, case: str) -> None:
    """Compare the records, and add a row for each fault and operation."""
    may_be_unknown = any(play.kind.may_be_unknown for play in plays)
    found = await bench.check(stage.clients.taken(), may_be_unknown=may_be_unknown, rig=stage.rig, case=case)
    for play in plays:
        bench.tell(play.wrong, case)
        name = play.kind.name if case in {"", play.kind.name} else f"{play.kind.name}, {case}"
        wrong = [*play.wrong, *(found if play is plays[0] else ())]
        unknown = sum(told.status == 202 for told in play.told)
        bench.count(name, play.op, len(play.told), play.told, wrong, unknown, play.slowest_s, rig=stage.rig)
