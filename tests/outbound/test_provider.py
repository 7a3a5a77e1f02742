"""The provider's client on the transport and on others of httpx's kind: the table of outcomes holds on each."""

import asyncio
from typing import Final

import httpx
import pytest

from payment_service.outbound.transport import Transport
from payment_service.providers.interface import NotSent, StatusRead
from payment_service.providers.kaspi.client import KaspiClient
from tests.outbound.calling import each_in_turn, met, waiting
from tests.providers.test_outcomes import TABLE, Does, Row, Says
from tests.support.proxy import Course, answers, http, raw_proxy
from tests.support.verbs import CREATE, ID, SECRETS, VERBS, Verb, client_of

STATUS: Final = b'{"status": true, "data": {"externalId": %s, "status": "Wait"}}' % ID.encode()


def course_of(row: Row, verb: Verb) -> Course:
    """What the proxy does in a row that is about a reply."""
    match row.how:
        case Says() as says:
            return answers(http(says.status, says.reply(verb).body))
        case Does() as does:
            return does.of(verb)
        case _:
            raise ValueError(row.what)


def rows() -> list[object]:
    """A row of each kind, for one verb after the other; all rows for all verbs are thorough."""
    found: list[object] = []
    seen: set[str] = set()
    for number, row in enumerate(row for row in TABLE if isinstance(row.how, Says | Does)):
        kind = row.what.partition(",")[0].partition(":")[0]
        for verb in row.verbs:
            is_first = kind not in seen and verb is row.verbs[number % len(row.verbs)]
            marks = () if is_first else (pytest.mark.thorough,)
            found.append(pytest.param(row, verb, marks=marks, id=f"{verb}: {ascii(row.what)[1:-1][:60]}"))
        seen.add(kind)
    return found


async def test_connections_are_opened_ahead_of_money_calls_and_kept_after_readings() -> None:
    async with raw_proxy(answers(http(200, STATUS))) as server:
        kaspi = client_of(server.url, connections_ahead=1)
        for _ in range(3):
            assert isinstance(await kaspi.read_status(ID), StatusRead)
        assert server.connections == 1
        await CREATE.call(kaspi)
        await met(server, 3)
        await kaspi.close()


@pytest.mark.parametrize(("row", "verb"), rows())
async def test_outcome_on_a_connection_opened_ahead_is_as_the_table_says(row: Row, verb: Verb) -> None:
    fine = answers(http(200, verb.success()))
    is_late = isinstance(row.how, Does) and row.how.late
    async with raw_proxy(each_in_turn(fine, course_of(row, verb), fine)) as server:
        kaspi = client_of(server.url, connections_ahead=1, deadline_s=0.5 if is_late else 10)
        trusting(kaspi)
        assert await verb.call(kaspi) == verb.accepted
        await waiting(kaspi._money.transport)
        await met(server, 2)
        await asyncio.sleep(0.01)  # what it does unasked has arrived
        outcome = await verb.call(kaspi)
        await kaspi.close()
        # A reset is seen in time here, and the call takes another connection.
        is_seen = row.what == "reset before the request was read"
        assert outcome == (verb.accepted if is_seen else row.expected(verb))
        assert len(server.requests) == 2
        assert [secret for secret in SECRETS if secret in repr(outcome)] == []


SOME: Final = ("200, true", "200, true, in chunks", "HTTP 502", "closed without a byte", "read timeout")


@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("row", [row for row in TABLE if row.what in SOME], ids=lambda row: row.what)
async def test_outcome_over_the_transport_of_httpx_is_as_the_table_says(row: Row, verb: Verb) -> None:
    async with raw_proxy(course_of(row, verb)) as server:
        kaspi = await over(httpx.AsyncHTTPTransport(trust_env=False), server.url)
        assert await verb.call(kaspi) == row.expected(verb)
        assert [request.path for request in server.requests] == [f"/{verb.operation}/"]
    assert await verb.call(kaspi) == NotSent("connect_failed")
    await kaspi.close()


@pytest.mark.parametrize("verb", VERBS, ids=str)
async def test_transport_that_is_mocked_answers_as_any(verb: Verb) -> None:
    kaspi = await over(httpx.MockTransport(lambda _: httpx.Response(200, content=verb.success())), "http://mock")
    assert await verb.call(kaspi) == verb.accepted
    await kaspi.close()


def trusting(kaspi: KaspiClient) -> None:
    """Let the client have tried the proxy."""
    assert isinstance(kaspi._money.transport, Transport)
    kaspi._money.transport._leaves_idle_open = True


async def over(transport: httpx.AsyncBaseTransport, url: str) -> KaspiClient:
    """A client over another transport."""
    kaspi = client_of(url, deadline_s=0.5)
    await kaspi._money.transport.aclose()
    kaspi._money.transport = transport
    return kaspi
