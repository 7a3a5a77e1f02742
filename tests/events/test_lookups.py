"""Names that never resolve keep nobody else waiting, however many they are."""

import asyncio
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from payment_service.outbound.addresses import PRODUCTION, IPAddress
from payment_service.outbound.client import NotPosted, Outbound, Reason
from payment_service.outbound.lookups import LookUps

GOOD = [ip_address("8.8.8.8")]


class Resolver:
    """Finds every name but those that begin with ``stuck``, until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[IPAddress]:
        self.asked.append(host)
        if host.startswith("stuck"):
            self.go.wait()
        if host.startswith("none"):
            raise OSError("no such name")
        return GOOD


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.go.set()


async def test_names_that_never_resolve_leave_the_others_alone(resolver: Resolver) -> None:
    look_up = LookUps(resolver, within_s=30)
    stuck = [asyncio.ensure_future(look_up(f"stuck-{number}.example.kz")) for number in range(40)]
    while len(resolver.asked) < 40:  # noqa: ASYNC110 - threads ask
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(look_up("shop.example.kz"), 5) == GOOD
    resolver.go.set()
    assert await asyncio.gather(*stuck) == [GOOD] * 40


async def test_look_up_has_a_deadline_and_a_stuck_name_is_not_asked_for_again(resolver: Resolver) -> None:
    look_up = LookUps(resolver, within_s=0.05)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await look_up("stuck.example.kz")
    assert resolver.asked == ["stuck.example.kz"]
    resolver.go.set()
    while look_up._under_way:  # noqa: ASYNC110 - a thread ends
        await asyncio.sleep(0.01)
    assert await look_up("stuck.example.kz") == GOOD


async def test_calls_of_one_endpoint_share_one_look_up(resolver: Resolver) -> None:
    look_up = LookUps(resolver)
    assert await asyncio.gather(*(look_up("shop.example.kz") for _ in range(20))) == [GOOD] * 20
    assert resolver.asked == ["shop.example.kz"]
    await look_up("shop.example.kz")
    assert len(resolver.asked) == 2


async def test_one_that_gives_up_does_not_end_it_for_the_others(resolver: Resolver) -> None:
    look_up = LookUps(resolver, within_s=30)
    first, second = (asyncio.ensure_future(look_up("stuck.example.kz")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    resolver.go.set()
    assert await second == GOOD


async def test_threads_are_bounded(resolver: Resolver) -> None:
    look_up = LookUps(resolver, within_s=0.01, at_once=3)
    for number in range(3):
        with pytest.raises(TimeoutError):
            await look_up(f"stuck-{number}.example.kz")
    with pytest.raises(OSError, match="too many"):
        await look_up("shop.example.kz")


async def test_name_that_is_not_there_is_told_so(resolver: Resolver) -> None:
    with pytest.raises(OSError, match="no such name"):
        await LookUps(resolver)("none.example.kz")


async def test_call_of_a_name_that_never_resolves_ends_in_time(resolver: Resolver) -> None:
    outbound = Outbound(PRODUCTION, resolve=LookUps(resolver, within_s=0.05))
    answer = await outbound.post("https://stuck.example.kz/", body=b"", headers={})
    assert isinstance(answer, NotPosted)
    assert answer.reason is Reason.TIMEOUT
    with pytest.raises(ValueError, match="in time"):
        await outbound.check_host("https://stuck.example.kz/")
