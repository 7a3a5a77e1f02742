"""Routing from a file: all of it or nothing, and every bad row named."""

import asyncpg
import pytest

from payment_service.access.service import FULL_ACCESS
from payment_service.routing import importing
from payment_service.routing.importing import BadFileError, Planned
from payment_service.routing.service import Routing
from payment_service.services import Services
from tests.support.shops import SHOPS

HEAD = "shop_id,organization_bin,name,city"
GOOD = "8,891027350515,Cvety.kz,Almaty"
TOKEN = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def routing(services: Services) -> Routing:
    return services.routing


def lines(*rows: str, head: str = HEAD) -> str:
    return "\n".join((head, *rows)) + "\n"


async def bring_in(routing: Routing, text: str, *, dry_run: bool = False) -> list[Planned]:
    return await importing.apply(routing, importing.parse(text), reason="import", dry_run=dry_run)


async def test_packaged_file_makes_the_seven_shops(routing: Routing, sql: asyncpg.Connection) -> None:
    planned = await bring_in(routing, importing.packaged_shops())
    assert [plan.action for plan in planned] == ["create"] * 7
    assert await sql.fetchval("SELECT count(*) FROM paymentconfig") == 7
    rows = await sql.fetch("SELECT shop_id, organization_bin, device_token FROM paymentconfig")
    assert {row["shop_id"]: row["organization_bin"] for row in rows} == SHOPS
    assert {row["device_token"] for row in rows} == {None}


async def test_import_twice_is_the_same_as_once(routing: Routing, sql: asyncpg.Connection) -> None:
    await bring_in(routing, importing.packaged_shops())
    before = await sql.fetch("SELECT * FROM payment_config ORDER BY id")
    again = await bring_in(routing, importing.packaged_shops())
    assert {plan.action for plan in again} == {"keep"}
    assert await sql.fetch("SELECT * FROM payment_config ORDER BY id") == before
    assert await sql.fetchval("SELECT count(*) FROM payment_config_history") == 7


async def test_dry_run_tells_and_changes_nothing(routing: Routing, sql: asyncpg.Connection) -> None:
    [plan] = await bring_in(routing, lines(f"{GOOD},{TOKEN}", head=f"{HEAD},device_token"), dry_run=True)
    assert (plan.shop_id, plan.action) == (8, "create")
    assert plan.changes["organization_bin"] == (None, "891027350515")
    assert plan.changes["device_token"] == (None, "11111111…")
    assert await sql.fetchval("SELECT count(*) FROM payment_config") == 0
    assert await sql.fetchval("SELECT count(*) FROM device_token") == 0


async def test_dry_run_tells_what_a_change_would_be(routing: Routing) -> None:
    await bring_in(routing, lines(GOOD))
    [plan] = await bring_in(routing, lines("8,991011000048,Cvety.kz,Astana"), dry_run=True)
    assert plan.action == "change"
    assert plan.changes == {"organization_bin": ("891027350515", "991011000048"), "city": ("Almaty", "Astana")}
    assert (await routing.route_of(FULL_ACCESS, 8)).organization_bin == "891027350515"


async def test_bin_and_token_of_a_file_change_together(routing: Routing) -> None:
    await bring_in(routing, lines(GOOD))
    await bring_in(routing, lines(f"8,991011000048,Cvety.kz,Astana,{TOKEN}", head=f"{HEAD},device_token"))
    route = await routing.route_of(FULL_ACCESS, 8)
    assert (route.organization_bin, route.device_token) == ("991011000048", TOKEN)


async def test_empty_token_cell_keeps_the_token(routing: Routing) -> None:
    head = f"{HEAD},device_token"
    await bring_in(routing, lines(f"{GOOD},{TOKEN}", head=head))
    [plan] = await bring_in(routing, lines("8,891027350515,Cvety.kz,Astana,", head=head))
    assert set(plan.changes) == {"city"}
    assert (await routing.route_of(FULL_ACCESS, 8)).device_token == TOKEN


async def test_every_bad_row_is_named(routing: Routing, sql: asyncpg.Connection) -> None:
    text = lines(
        f"{GOOD},kaspi,true,",
        "9,991011000049,Wrong checksum,,,,",
        "x,991011000048,No number,,kaspi,true,",
        "0,991011000048,Zero,,kaspi,true,",
        "10,991011000048,Unknown provider,,other,true,",
        "11,991011000048,Neither,,kaspi,perhaps,",
        "12,991011000048,Bad token,,kaspi,true,short",
        "13,991011000048,Twice,,kaspi,true,",
        "013,991011000048,Twice,,kaspi,true,",
        "14,991011000048,Too many,,kaspi,true,,,",
        f"15,991011000048,{'x' * 201},,kaspi,true,",
        head=f"{HEAD},provider,is_active,device_token",
    )
    with pytest.raises(BadFileError) as caught:
        await bring_in(routing, text)
    named = sorted(int(problem.split()[1].rstrip(":")) for problem in caught.value.problems)
    assert named == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert await sql.fetchval("SELECT count(*) FROM payment_config") == 0


async def test_empty_lines_do_not_shift_the_numbers_of_bad_rows() -> None:
    with pytest.raises(BadFileError) as caught:
        importing.parse(lines(GOOD, "", "", "9,1,Wrong,"))
    [problem] = caught.value.problems
    assert problem.startswith("Line 5:")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Column shop_id is missing."),
        ("shop_id\n1\n", "Column organization_bin is missing."),
        (f"{HEAD}\n", "The file holds no shops."),
        (lines(GOOD + ",x", head=f"{HEAD},colour"), "Column 5 of the first line is not known"),
        (lines(GOOD, head=HEAD.replace(",", ";")), "separated by ';'"),
        (lines(GOOD, head=HEAD.replace(",", "\t")), "separated by tabs"),
        (lines(f"{GOOD},991011000048", head=f"{HEAD},organization_bin"), "Column 'organization_bin' is there twice"),
        (lines('8,"891027350515'), "This is no CSV file"),
        (lines(f"{'9' * 5000},891027350515,,"), "Line 2"),
        (lines(f"{'x' * 140_000},891027350515,,"), "This is no CSV file"),
    ],
)
def test_file_that_is_no_list_of_shops_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadFileError) as caught:
        importing.parse(text)
    assert problem in "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        f"{TOKEN}\n{TOKEN}\n",
        f"{TOKEN};991011000048\n",
        f"{TOKEN}\t991011000048\n",
        lines(GOOD, head=f"{HEAD},{TOKEN}"),
        lines(f"{TOKEN},991011000048,,", f"{TOKEN},991011000048,,"),
        lines(f"8,{TOKEN},,", f"9,891027350515,{TOKEN},,,{TOKEN}"),
        f'"{TOKEN}',
    ],
)
def test_wrong_file_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(BadFileError) as caught:
        importing.parse(text)
    assert TOKEN not in str(caught.value)


async def test_file_that_fails_half_way_changes_nothing(
    routing: Routing, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Routing.insert
    left = iter(range(3))

    async def insert_three(*what: object, **how: object) -> object:
        if next(left, None) is None:
            raise RuntimeError("crash")
        return await insert(*what, **how)  # type: ignore[arg-type] # handed on as it came

    monkeypatch.setattr(Routing, "insert", insert_three)
    with pytest.raises(RuntimeError, match="crash"):
        await bring_in(routing, importing.packaged_shops())
    assert await sql.fetchval("SELECT count(*) FROM payment_config") == 0


async def test_file_of_a_spreadsheet_is_read(routing: Routing) -> None:
    await bring_in(routing, "\ufeff" + lines(" 8 ,891027350515 , Cvety.kz,Almaty").replace("\n", "\r\n"))
    assert (await routing.config_of(FULL_ACCESS, 8)).row.name == "Cvety.kz"


async def test_file_of_yesterday_changes_no_shop_that_has_changed_since(routing: Routing) -> None:
    head = "shop_id,organization_bin,city,version"
    await bring_in(routing, lines("8,891027350515,Almaty,", "9,210440028324,,7", head=head))
    await routing.update(FULL_ACCESS, 8, {"organization_bin": "991011000048"}, reason="sold")
    exported = lines("8,891027350515,Almaty,1", "9,210440028324,Astana,1", head=head)
    for dry_run in (True, False):
        with pytest.raises(BadFileError, match="Line 2: shop 8 has changed since this file was exported"):
            await bring_in(routing, exported, dry_run=dry_run)
    assert (await routing.config_of(FULL_ACCESS, 9)).row.city == ""
    await bring_in(routing, exported.replace("8,891027350515,Almaty,1", "8,991011000048,Almaty,1"))
    assert (await routing.config_of(FULL_ACCESS, 9)).row.city == "Astana"
    with pytest.raises(BadFileError, match="version: is a whole number"):
        importing.parse(lines("8,891027350515,Almaty,1.0", head=head))


async def test_packaged_shops_never_change_one_that_is_there(routing: Routing) -> None:
    """The marketplace's shop 121038 has another seller by now, whose device token has not come yet."""
    await bring_in(routing, importing.packaged_shops())
    await routing.update(FULL_ACCESS, 121038, {"organization_bin": "891027350515"}, reason="sold")
    rows = importing.parse(importing.packaged_shops())
    planned = await importing.apply(routing, rows, reason="import", dry_run=False, new_only=True)
    assert {plan.action for plan in planned} == {"keep"}
    assert (await routing.route_of(FULL_ACCESS, 121038)).organization_bin == "891027350515"


async def test_what_a_person_should_look_at_is_told_before_money_moves(routing: Routing) -> None:
    head = f"{HEAD},device_token"
    [made] = await bring_in(routing, lines(f"{GOOD},{TOKEN}", head=head))
    assert made.warnings == []
    cut_off = lines(f"9,891027350515,Copied down,,{TOKEN}", f"10,991011000048,Cut off,,{TOKEN[:-9]}", head=head)
    for dry_run in (True, False):
        copied, cut = await bring_in(routing, cut_off, dry_run=dry_run)
        assert copied.warnings == ["its BIN is also that of shop 8: are they of one seller?"]
        assert cut.warnings == ["its device token is no UUID, and Kaspi's are: check it."]
    assert [plan.warnings for plan in await bring_in(routing, cut_off)] == [[], []]


async def test_token_of_an_earlier_seller_is_told(routing: Routing) -> None:
    """The shop was sold; the new seller's token has not come, and somebody enters the one that is in the notes."""
    head = f"{HEAD},device_token"
    await bring_in(routing, lines(f"{GOOD},{TOKEN}", head=head))
    await routing.update(FULL_ACCESS, 8, {"organization_bin": "991011000048", "device_token": None}, reason="sold")
    [plan] = await bring_in(routing, lines(f"8,991011000048,Cvety.kz,Almaty,{TOKEN}", head=head), dry_run=True)
    assert plan.warnings == ["its device token stood with BIN 891027350515 before: is it not that seller's?"]


async def test_import_is_heard_by_the_memory(routing: Routing) -> None:
    routing.cache.trust(trusted=True)
    await bring_in(routing, lines(GOOD))
    await routing.route_of(FULL_ACCESS, 8)
    await bring_in(routing, lines("8,991011000048,Cvety.kz,Almaty"))
    assert (await routing.route_of(FULL_ACCESS, 8)).organization_bin == "991011000048"


async def test_name_is_what_people_write(routing: Routing) -> None:
    await bring_in(routing, lines('8,891027350515,"\U0001fa77 Roses \u2028№\u00a01",Алматы'))
    assert (await routing.config_of(FULL_ACCESS, 8)).row.name == "\U0001fa77 Roses \u2028№\u00a01"
    with pytest.raises(BadFileError, match="Line 2: name: must not hold control characters"):
        importing.parse(lines("8,891027350515,a\u202eb,Almaty"))
