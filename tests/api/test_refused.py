"""Callers that are refused are told of: by address and key, at once, and not for each request."""

import json
from collections.abc import Callable

import pytest

from payment_service.access.service import Scope
from payment_service.api.refused import AGAIN_AFTER_S, RefusedCallers
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.conftest import ClientMaker
from tests.support.alarms import alarms
from tests.support.clock import Clock

ROUTE = "/payments/kaspi/create"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refused(clock: Clock) -> RefusedCallers:
    return RefusedCallers(clock)


def test_caller_is_told_of_once_in_a_while(refused: RefusedCallers, clock: Clock) -> None:
    before = alarms("refused_callers")
    for _ in range(5):
        refused.observe("10.0.0.1", "site", ROUTE, 401)
    assert alarms("refused_callers") == before + 1
    clock.now += AGAIN_AFTER_S
    refused.observe("10.0.0.1", "site", ROUTE, 404)
    assert alarms("refused_callers") == before + 2


def test_each_address_and_each_key_is_a_caller(refused: RefusedCallers) -> None:
    before = alarms("refused_callers")
    for address, actor in (("10.0.0.1", "a"), ("10.0.0.2", "a"), ("10.0.0.1", "b")):
        refused.observe(address, actor, ROUTE, 401)
    assert alarms("refused_callers") == before + 3


@pytest.mark.parametrize(
    ("route", "status"),
    [(ROUTE, 200), (ROUTE, 202), (ROUTE, 503), (ROUTE, None), ("unknown", 404), ("/admin/logs", 401)],
)
def test_other_answers_are_no_refusal(refused: RefusedCallers, route: str, status: int | None) -> None:
    before = alarms("refused_callers")
    refused.observe("10.0.0.1", "a", route, status)
    assert alarms("refused_callers") == before


def test_flood_of_addresses_does_not_grow_the_memory(refused: RefusedCallers) -> None:
    for number in range(3000):
        refused.observe(str(number), "anonymous", ROUTE, 401)
    assert len(refused._callers) == 1000


async def test_log_names_address_and_key_and_no_secret(
    services: Services, make_client: ClientMaker, log_text: Callable[[], str]
) -> None:
    made = await services.access.create("refused-here", list(Scope), shops=ALL_SHOPS)
    answer = await make_client(made.key).get("/api/payment/config", params={"shop_id": 404})
    assert answer.status_code == 404
    [told] = [line for line in map(json.loads, log_text().splitlines()) if line["event"] == "refused_callers"]
    assert (told["route"], told["status"], told["actor"]) == ("/api/payment/config", 404, "refused-here")
    assert told["level"] == "error"
    assert told["address"]
    assert made.key not in log_text()
