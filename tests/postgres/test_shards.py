"""Whether payments of a shop could live on a machine of their own: which rows the money path reaches, and by what.

PostgreSQL itself says it: ``auto_explain`` shows the plan of every statement that the service runs, with those inside
functions, triggers and foreign keys. A row is reached within its shop, or by the id of a payment or refund of that
shop; everything else stands in ``BEYOND``, with the reason why it stays global or what would have to change. What that
costs: docs/scaling.md.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.money import Money
from payment_service.postgres.database import Database
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.asking import SHOP, TESTS, ask, paid, refunded
from tests.support.replies import accepted, status_reply

OF_A_SHOP = ("payment_log", "payment", "refund", "event")
"""The tables that would be divided: nearly all rows, and all that grow with payments."""

BY_ITS_ID = {"id", "payment_id", "refund_id"}
"""Columns that name a payment, or a refund of one, and so its shop: a caller that knows the id knows the machine."""

BEYOND = {
    "external_id": "global: the provider gives ids to all shops, and a reply that names another shop's payment must be "
    "noticed",
    "fingerprint": "of one shop, which is a part of it: the statement would name shop_id too",
    "next_check_at": "of a machine: the worker's readings that are due, by time",
}
"""Columns by which the money path reaches rows without their shop or their id."""

EXPLAINED = """
    LOAD 'auto_explain';
    SET auto_explain.log_min_duration = 0;
    SET auto_explain.log_nested_statements = on;
    SET auto_explain.log_format = json;
    SET auto_explain.log_level = notice;
"""


class Explained(Database):
    """Its connections say how each statement reached its rows."""

    plans: list[dict[str, Any]]

    async def _connect(self, more: Mapping[str, str] = MappingProxyType({})) -> asyncpg.Connection:
        connection = await super()._connect(more)
        await connection.execute(EXPLAINED)
        connection.add_log_listener(self._hear)
        return connection

    def _hear(self, _connection: object, said: Any) -> None:
        if found := re.search(r"plan:\s*(\{.*\})", said.message, re.DOTALL):
            self.plans.append(json.loads(found[1]))


@pytest.fixture
async def explained(settings: Settings, shops: dict[int, str], database_url: str) -> AsyncIterator[Services]:
    database = Explained(database_url, pool_size=4)
    database.plans = []
    services = build(settings, database)
    yield services
    await services.inflight.drain(10)
    await services.close()


_JOINED_BY = ("Hash Cond", "Merge Cond", "Join Filter")


def scans(plan: dict[str, Any], joined_by: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """Of each table of a plan that is read: its name, and the columns that its rows are asked by."""
    node = plan.get("Plan", plan)
    if "Scan" in node["Node Type"] and "Relation Name" in node:
        # Which of the conditions an index serves hangs on how full the tables are: what the statement names counts.
        condition = " ".join(node.get(key, "") for key in ("Index Cond", "Recheck Cond", "Filter"))
        # A month of a divided table is that table.
        table = re.sub(rf"^({'|'.join(OF_A_SHOP)})_\d.*", r"\1", node["Relation Name"])
        columns = re.findall(r"\(+(\w+)\)?(?:::\w+)* (?:=|<=|>=|<|>|IS NOT NULL)", condition)
        # A table of few rows is read whole and joined, not row by row.
        yield table, frozenset(columns + re.findall(rf"\b{node['Alias']}\.(\w+)", joined_by))
    for each in node.get("Plans", ()):
        yield from scans(each, joined_by + "".join(node.get(key, "") for key in _JOINED_BY))


async def test_money_path_reaches_rows_within_a_shop_or_by_the_id_of_its_payment(
    explained: Services, wire: respx.MockRouter
) -> None:
    database = explained.database
    assert isinstance(database, Explained)
    await explained.fingerprints.of()  # made once, and in the record of keys
    database.plans.clear()
    await _all_of_the_money_path(explained, wire)
    otherwise: dict[str, set[str]] = defaultdict(set)
    touched = set()
    for plan in database.plans:
        for table, columns in scans(plan):
            touched.add(table)
            if table in OF_A_SHOP and not columns & {"shop_id", *BY_ITS_ID}:
                known = (one for one in BEYOND if one in columns)
                otherwise[next(known, " ".join(sorted(columns)))].add(f"{table}: {plan['Query Text']}")
    assert otherwise.keys() <= BEYOND.keys(), otherwise
    assert otherwise, "nothing of the path was explained"
    assert touched >= {"payment", "refund", "payment_log", "idempotency_claim", "api_key", "payment_config"}


async def _all_of_the_money_path(services: Services, wire: respx.MockRouter) -> None:
    """Create with an order and a key, without, and again; read, claim a reading, pay back in part."""
    keyed = ask(order_id="order-1", idempotency_key="key-of-the-order")
    payment = await paid(services, wire, keyed)
    await services.payments.create(keyed)
    wire.get("/create/").mock(side_effect=None, return_value=accepted(999))
    followed = (await services.payments.create(ask(7))).payment
    await services.payments.create(ask(7))
    wire.get("/refund/").mock(return_value=refunded())
    for amount, key in ((500, None), (600, "key-of-the-refund")):
        await services.refunds.refund(
            RefundRequest(caller=TESTS, payment=payment, amount=Money(amount), idempotency_key=key)
        )
    wire.get("/status/", params={"externalId": "999"}).mock(return_value=status_reply(999, "Wait"))
    await services.reading.get(FULL_ACCESS, followed.id)
    await services.reading.status(FULL_ACCESS, "kaspi", "999")
    turns = await services.polling.claim(1)
    await asyncio.gather(*map(services.polling.perform, turns))
    assert await services.polling.due_in_s() is not None
    assert (await services.reading.get(FULL_ACCESS, payment.id)).shop_id == SHOP
