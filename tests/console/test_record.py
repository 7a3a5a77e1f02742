"""The record and the health of the service in the console: who reads what, and that files are safe to open."""

import csv
import io
import re

import asyncpg
import httpx
import pytest

from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS
from payment_service.audit import checking
from payment_service.audit.sealing import AuditSeals
from payment_service.console import record
from payment_service.observability.context import Origin, origin
from payment_service.reports.service import Report
from payment_service.services import Services
from payment_service.worker.service import worker_over
from tests.console.conftest import FOREIGN, OWN, SignIn, text_of
from tests.support.asking import TESTS, ask
from tests.support.database import without_laws
from tests.support.replies import GoodProxy


async def rows_of(client: httpx.AsyncClient, query: str = "") -> list[dict[str, str]]:
    answer = await client.get(f"/console/record.csv{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith('attachment; filename="record-')
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


async def test_record_is_filtered_by_what_the_address_says(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    own = (await services.payments.create(ask(300, shop_id=OWN))).payment
    await services.payments.create(ask(200, shop_id=FOREIGN))
    client = await sign_in(Role.ACCOUNTANT)
    today = f"{own.created_at:%Y-%m-%d}"
    for query, shown in {
        f"?shop={OWN}": 1,
        f"?external_id={own.external_id}": 1,
        "?status=Wait": 2,
        "?operation=create": 2,
        "?operation=refund": 0,
        f"?since=2020-01-01&shop={FOREIGN}": 1,
        "?until=2020-01-01": 0,
        f"?since={today[:4]}-01-01": 2,
    }.items():
        page = await client.get(f"/console/record{query}")
        assert page.text.count('<span class="what">') == shown, query
        assert len(await rows_of(client, query)) == shown, query
    for wrong in ("?shop=x", "?since=yesterday", "?until=9999-12-31", "?cursor=x"):
        assert (await client.get(f"/console/record{wrong}")).status_code == 422, wrong


async def test_changes_of_who_may_do_what_are_for_administrators(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    await services.routing.update(FULL_ACCESS, OWN, {"city": "Астана"})
    accountant, admin = await sign_in(Role.ACCOUNTANT), await sign_in(Role.ADMIN)
    for query in ("?changes=yes", "?operation=config-change", f"?subject=payment_config:{OWN}"):
        shown = (await accountant.get(f"/console/record{query}")).text
        assert '<span class="what">' not in shown
        assert await rows_of(accountant, query) == []
        assert "config-change" in {row["operation_type"] for row in await rows_of(admin, query)}
    assert await rows_of(admin) == []


async def test_request_leads_to_all_its_lines(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, client: httpx.AsyncClient
) -> None:
    headers = {"X-Request-ID": "request-of-a-buyer"}
    body = {"shop_id": OWN, "amount": 100, "phone": "77015211545"}
    made = (await client.post("/payments/kaspi/create", json=body, headers=headers)).json()
    await client.get(f"/payments/kaspi/status?external_id={made['external_id']}", headers=headers)
    await services.payments.create(ask(55))
    people = await sign_in()
    page = await people.get("/console/record?shop=121038")
    [address] = set(re.findall(r'href="(/console/record\?request=request-of-a-buyer)"', page.text))
    shown = await people.get(address)
    told = await client.get("/admin/logs", params={"request_id": "request-of-a-buyer"})
    assert shown.text.count('<span class="what">') == len(told.json()) >= 1
    assert {line["request_id"] for line in told.json()} == {"request-of-a-buyer"}


async def test_person_of_some_shops_reads_the_lines_of_those(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    for shop_id in (OWN, FOREIGN):
        await services.payments.create(ask(shop_id=shop_id))
    client = await sign_in(Role.OPERATOR, OWN)
    assert {row["shop_id"] for row in await rows_of(client)} == {str(OWN)}
    assert await rows_of(client, f"?shop={FOREIGN}") == []
    assert str(FOREIGN) not in (await client.get("/console/record")).text


async def test_file_holds_no_formula_and_every_line_also_beyond_one_page(
    services: Services, shops: dict[int, str], sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_service.console.record.CSV_ROWS_AT_ONCE", 2)
    for number in range(5):
        told = Report(shop_id=OWN, operation_type="create", external_id=f"90000{number}", error_message="=HYPERLINK(1)")
        await services.reports.write(TESTS, told)
    rows = await rows_of(await sign_in(Role.ACCOUNTANT))
    assert [row["external_id"] for row in rows] == [f"90000{number}" for number in reversed(range(5))]
    assert {row["error_message"] for row in rows} == {"'=HYPERLINK(1)"}


async def test_file_ends_without_its_end_when_the_session_does(
    services: Services, shops: dict[int, str], sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CSV_ROWS_AT_ONCE", 1)
    for number in range(3):
        await services.reports.write(TESTS, Report(shop_id=OWN, operation_type="create", external_id=f"90000{number}"))
    client = await sign_in(Role.ACCOUNTANT)
    [person] = await services.people.all()
    written: list[bool] = []

    async def write(_page: object, *, with_head: bool) -> bytes:
        written.append(with_head)
        await services.people.change(person.id, role=Role.OPERATOR)
        return b"page"

    monkeypatch.setattr(record, "_written", write)
    with pytest.raises(AssertionError):  # of the transport: an answer without its end, as a browser sees it too
        await client.get("/console/record.csv")
    assert written == [True]


async def test_page_says_how_far_the_record_is_sealed_and_was_verified(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    client = await sign_in()
    assert "Nothing is sealed yet." in text_of(await client.get("/console/record"))
    await services.payments.create(ask())
    await AuditSeals(services.database).seal()
    assert "Nobody has verified it yet" in text_of(await client.get("/console/record"))
    origin.set(Origin("cli:tests"))
    await checking.record_check(services.database, await checking.check_database(services.database))
    told = text_of(await client.get("/console/record"))
    assert re.search(r"Verified from seal 1 to 1, .* by cli:tests\.", told), told
    async with without_laws(sql):
        await sql.execute("UPDATE audit_seal SET hash = repeat('0', 64)")
    assert "the record was changed" in text_of(await client.get("/console/record"))


async def test_check_that_found_something_wrong_is_not_noted(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    await services.payments.create(ask())
    await AuditSeals(services.database).seal()
    async with without_laws(sql):
        await sql.execute("UPDATE payment_log SET amount = 1")
    report = await checking.check_database(services.database)
    assert report.problem is not None
    await checking.record_check(services.database, report)
    assert await sql.fetchval("SELECT count(*) FROM audit_check") == 0


# --- health


async def test_health_tells_what_the_service_knows(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    client = await sign_in()
    before = text_of(await client.get("/console/health"))
    assert "none works" in before
    worker = worker_over(services)
    await worker._tick()
    payment = (await services.payments.create(ask())).payment
    async with without_laws(sql):
        await sql.execute("UPDATE payment SET next_check_at = now() - interval '10 minutes'")
        await sql.execute("UPDATE event SET created_at = now() - interval '3 minutes'")
    told = text_of(await client.get("/console/health"))
    assert "none works" not in told
    assert re.search(r"seen \d s ago", told), told
    assert "Status readings that are due oldest for 10 minutes" in told
    assert "Events to be passed on oldest for 3 minutes" in told
    assert "calls are made" in told
    assert "Payments and refunds are sent" in told
    await services.holding.hold("a backup was restored")
    assert "Payments and refunds held by a person" in text_of(await client.get("/console/health"))
    assert str(payment.external_id) not in told
    async with without_laws(sql):
        await sql.execute("UPDATE worker_tick SET ticked_at = now() - interval '10 minutes'")
    late = text_of(await client.get("/console/health"))
    assert "none works" in late
    assert "not seen for 10 minutes" in late
    async with without_laws(sql):
        await sql.execute("UPDATE worker_tick SET ticked_at = now() - interval '2 days', id = gen_random_uuid()")
    await worker._tick()
    assert await sql.fetchval("SELECT count(*) FROM worker_tick") == 1
