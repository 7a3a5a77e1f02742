"""What a request may hold. Nothing that is refused here ever reaches the provider."""

import json
from typing import Any

import asyncpg
import httpx
import pytest

from tests.api.conftest import PHONE, SHOP, create_body, problem_of
from tests.support.replies import GoodProxy

CREATE = "/payments/kaspi/create"
REFUSED = None


async def post_raw(client: httpx.AsyncClient, field: str, raw: str) -> httpx.Response:
    """Create, with one field as raw JSON."""
    body = {name: json.dumps(value) for name, value in create_body().items()} | {field: raw}
    content = "{" + ", ".join(f'"{name}": {value}' for name, value in body.items()) + "}"
    return await client.post(CREATE, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        ("100", "100.00"),
        ("100.0", "100.00"),
        ("0.01", "0.01"),
        ("99.5", "99.50"),
        ("1e2", "100.00"),
        ("1.000", "1.00"),
        ('"100"', "100.00"),
        ('"99.90"', "99.90"),
        ("0.29", "0.29"),
        ("99999999.99", "99999999.99"),
        ('"99999999.99"', "99999999.99"),
        ("100000000", REFUSED),
        ("99999999.991", REFUSED),
        ('"100000000.00"', REFUSED),
        ("0", REFUSED),
        ("0.00", REFUSED),
        ("-0.0", REFUSED),
        ('"0"', REFUSED),
        ("-1", REFUSED),
        ('"-1"', REFUSED),
        ('"+1"', REFUSED),
        ("1.005", REFUSED),
        ('"1.005"', REFUSED),
        ("100.00000000000000000000000000000000001", REFUSED),
        ("1e30", REFUSED),
        ("1e-30", REFUSED),
        ('"1e2"', REFUSED),
        ("9" * 40, REFUSED),
        ('"' + "9" * 400 + '"', REFUSED),
        ("true", REFUSED),
        ("null", REFUSED),
        ("[100]", REFUSED),
        ('{"tenge": 100}', REFUSED),
        ('" 100"', REFUSED),
        ('"100 "', REFUSED),
        ('"100\\n"', REFUSED),
        ('"\uff11\uff10\uff10"', REFUSED),
        ('"100,5"', REFUSED),
        ('"1_000"', REFUSED),
        ('"NaN"', REFUSED),
        ('"Infinity"', REFUSED),
        ('".5"', REFUSED),
        ('"5."', REFUSED),
        ('""', REFUSED),
    ],
)
async def test_amount_is_tenge_with_two_decimals(
    raw: str, sent: str | None, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    answer = await post_raw(client, "amount", raw)
    if sent is REFUSED:
        assert problem_of(answer, 422, "validation_failed")["errors"][0]["field"] == "amount"
        assert proxy.money_calls == 0
    else:
        assert answer.status_code == 200, answer.text
        assert proxy.create.calls.last.request.url.params["amount"] == sent
        assert answer.json()["amount"] == pytest.approx(float(sent), abs=0)


@pytest.mark.parametrize(
    ("raw", "good"),
    [
        (str(SHOP), True),
        (f'"{SHOP}"', True),
        (f"{SHOP}.0", True),
        ("0", False),
        ("-1", False),
        (str(2**31), False),
        (str(2**63), False),
        ("true", False),
        ("null", False),
        (f"{SHOP}.5", False),
        (f'" {SHOP}"', False),
        ('"\uff11\uff12\uff11\uff10\uff13\uff18"', False),
        ('"121_038"', False),
        ('""', False),
        (f"[{SHOP}]", False),
    ],
)
async def test_shop_id_is_a_whole_number(
    raw: str, good: bool, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    answer = await post_raw(client, "shop_id", raw)
    assert answer.status_code == (200 if good else 422), answer.text
    assert proxy.money_calls == good


@pytest.mark.parametrize(
    "phone",
    [
        "77015211545",
        "+77015211545",
        "87015211545",
        "+7 701 521 15 45",
        "8 (701) 521-15-45",
        "+7-701-521-15-45",
        "7\u00a0701\u2011521\u201115\u201345",
        " 77015211545 ",
        "\u202a+7 701 521\u201115\u201145\u202c",
        "\ufeff\u200e7701\u00ad5211545\u200b",
        "+7.701.521.15.45",
        "8 [701] 521\u221215\u221245",
        "7\u00b7701\u00b7521\u00b715\u00b745",
        "\uff0b\uff17\uff08\uff17\uff10\uff11\uff09\uff15\uff12\uff11\uff0d\uff11\uff15\uff0d\uff14\uff15",
        "\u0668\u0667\u0660\u0661\u0665\u0662\u0661\u0661\u0665\u0664\u0665",
        "7701521\ufe0f1545",
        "+7 (701)\t521-15-45\n",
    ],
)
async def test_phone_is_sent_in_one_spelling(
    phone: str, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    answer = await client.post(CREATE, json=create_body(phone=phone))
    assert answer.status_code == 200, answer.text
    assert proxy.create.calls.last.request.url.params["phone"] == PHONE


@pytest.mark.parametrize(
    "phone",
    [
        "",
        "7701521154",
        "770152115455",
        "97015211545",
        "74951234567",
        "+87015211545",
        "7701521154\u2075",
        "++77015211545",
        "7+7015211545",
        "77015211545a",
        "+7 701 521 15 45 / +7 702 000 00 00",
        "77015211545\x00",
        None,
        77015211545,
        ["77015211545"],
        True,
    ],
)
async def test_what_is_no_kazakh_mobile_is_refused(
    phone: Any, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    problem_of(await client.post(CREATE, json=create_body(phone=phone)), 422, "validation_failed")
    assert proxy.money_calls == 0


async def test_phone_is_asked_for(client: httpx.AsyncClient) -> None:
    body = create_body()
    del body["phone"]
    assert problem_of(await client.post(CREATE, json=body), 422, "validation_failed")["errors"][0]["field"] == "phone"


FAMILY = "👨\u200d👩\u200d👧"


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("order_id", "A-1", True),
        ("order_id", "x" * 64, True),
        ("order_id", "Заказ № 5 🌷", True),
        ("order_id", None, True),
        ("order_id", "", False),
        ("order_id", "x" * 65, False),
        ("order_id", "a\x00b", False),
        ("order_id", "a\nb", False),
        ("order_id", 5, False),
        ("order_id", "Жай № 5", True),
        ("order_id", "Жаи\u0306 № 5", False),  # the same to the eye, decomposed
        *(("order_id", f"A{sign}1", False) for sign in "\u200b\u00ad\ufeff\u2060\u00a0\u3164\ufe0f\U000e0041"),
        *(("order_id", text, False) for text in (" A-1", "A-1 ", "A  1", " ")),
        ("message", "", True),
        ("message", "Букет 🌹" + FAMILY, True),
        ("message", "№\u00a0116 🌷", True),
        ("message", "м" * 200, True),
        ("message", "м" * 201, False),
        ("message", "a\x00b", False),
        ("message", "a\x1b[31m", False),
        ("message", "pay \u202e001", False),
        ("message", "\U0001fa77 Roses", True),  # an emoji that Python 3.11 does not know
        ("message", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", True),  # a flag of tags
        ("message", "\U000378ff \uffff", True),  # not assigned yet, and never
        ("message", "a\u2028b\ufeffc\u200ed\u00ade", True),
        ("message", "a\x85b", False),
        ("message", "a\u2067b", False),
        ("message", "a\x7fb", False),
        ("metadata", {}, True),
        ("metadata", {str(n): "x" for n in range(20)}, True),
        ("metadata", {str(n): "x" for n in range(21)}, False),
        ("metadata", {"🌷": FAMILY}, True),
        ("metadata", {"k" * 40: "v" * 500}, True),
        ("metadata", {"k" * 41: "v"}, False),
        ("metadata", {"k": "v" * 501}, False),
        ("metadata", {"": "v"}, False),
        ("metadata", {"a": 1}, False),
        ("metadata", {"a": None}, False),
        ("metadata", {"a": {"b": "c"}}, False),
        ("metadata", {"a": "x\x00"}, False),
        ("metadata", {"a\x00": "x"}, False),
        ("metadata", [1], False),
        ("metadata", "", False),
        ("metadata", {"\U0001fa77": "\U0001fa77" * 500}, True),
    ],
    ids=lambda value: repr(value)[:25],
)
async def test_texts_have_their_limits(
    field: str, value: Any, good: bool, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    answer = await client.post(CREATE, json=create_body(**{field: value}))
    assert answer.status_code == (200 if good else 422), answer.text
    assert proxy.money_calls == good
    if good:
        kept = (await client.get(f"/payments/{answer.json()['id']}")).json()
        assert kept[field] == value


async def test_refused_phone_is_shown_a_good_one_whole(client: httpx.AsyncClient) -> None:
    body = problem_of(await client.post(CREATE, json=create_body(phone="123")), 422, "validation_failed")
    assert body["detail"] == "phone: a Kazakh mobile number has 11 digits, such as 77015211545."


@pytest.mark.parametrize(
    "absent",
    [{"message": None}, {"metadata": None}, {"metadata": []}, {"order_id": None}, {"currency": None}],
    ids=repr,
)
async def test_null_is_as_if_absent(
    absent: dict[str, Any], client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    body = create_body() | absent
    answer = await client.post(CREATE, json=body)
    assert answer.status_code == 200, answer.text
    kept = (await client.get(f"/payments/{answer.json()['id']}")).json()
    assert (kept["message"] == "") == ("message" in absent)
    assert (kept["metadata"], kept["order_id"]) == ({}, None)


@pytest.mark.parametrize("path", [CREATE, "/payments/kaspi/create-link"])
async def test_tenge_are_the_only_currency(
    path: str, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    body = create_body()
    if path != CREATE:
        del body["phone"]
    for currency in ("USD", "kzt", "", 398, ["KZT"]):
        problem = problem_of(await client.post(path, json=body | {"currency": currency}), 422, "validation_failed")
        assert problem["detail"] == "currency: all amounts are in tenge: send KZT, or leave it out."
    assert proxy.money_calls == 0
    assert (await client.post(path, json=body | {"currency": "KZT"})).status_code == 200


async def test_metadata_is_measured_as_the_database_keeps_it(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    texts = {f'{number:02} "\\': "\U0001f339" * 100 for number in range(19)}
    left = 8192 - len(json.dumps({**texts, "rest": ""}, ensure_ascii=False).encode())
    assert 0 < left < 500
    whole = {**texts, "rest": "x" * left}
    answer = await client.post(CREATE, json=create_body(metadata=whole))
    assert answer.status_code == 200, answer.text
    assert await sql.fetchval("SELECT octet_length(metadata::text) FROM payment") == 8192
    too_much = create_body(metadata={**texts, "rest": "x" * (left + 1)})
    problem = problem_of(await client.post(CREATE, json=too_much), 422, "validation_failed")
    assert problem["detail"] == "metadata: is 8193 bytes as JSON in UTF-8; at most 8192 are allowed."
    assert proxy.money_calls == 1


@pytest.mark.parametrize(
    ("raw", "kept"), [("12800627774", "12800627774"), ("12800627774.0", "12800627774"), ("1.28e10", "12800000000")]
)
async def test_id_that_came_as_a_number_is_kept_whole(
    raw: str, kept: str, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    content = f'{{"shop_id": {SHOP}.0, "operation_type": "refund", "external_id": {raw}, "amount": 6357000.0}}'
    answer = await client.post("/api/payment/log", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["external_id"], answer.json()["amount"]) == (kept, 6357000)


@pytest.mark.parametrize("raw", ["12800627774.5", "-1.0", "1e29", "1e19", "true", str(2**53)])
async def test_id_that_is_no_whole_number_is_refused(
    raw: str, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    content = f'{{"shop_id": {SHOP}, "amount": 1, "external_id": {raw}}}'
    answer = await client.post("/payments/kaspi/refund", content=content, headers={"Content-Type": "application/json"})
    assert problem_of(answer, 422, "validation_failed")["errors"][0]["field"] == "external_id"


@pytest.mark.parametrize("since", ["2025", "0.5", "33204273", "1e9", "-1", "", " 2025 "])
@pytest.mark.parametrize("path", ["/admin/logs", "/payments"])
async def test_number_is_no_time(path: str, since: str, client: httpx.AsyncClient) -> None:
    problem_of(await client.get(path, params={"since": since}), 422, "validation_failed")


@pytest.mark.parametrize("raw", ["1.5", "-3.4e+125", "1", '"text"', "[]", "null", "true"])
async def test_body_that_is_no_object_changes_nothing(
    raw: str, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.put(f"/admin/configs/{SHOP}", content=raw, headers=headers)
    problem_of(answer, 422, "validation_failed")
    assert (await client.get(f"/admin/configs/{SHOP}")).json()["version"] == 1
