import hashlib
from typing import Any

import pytest

from kaspi_sandbox import rules

from .calls import (
    ACCESS_TOKEN,
    OTHER_SELLER,
    OTHER_TOKEN,
    SECOND_TOKEN,
    SELLER,
    TOKEN,
    Caller,
    client_of,
    code_of,
    config,
)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
async def test_only_get_is_spoken(caller: Caller, method: str) -> None:
    answer = await caller.client.request(method, "/create/", params={"access_token": ACCESS_TOKEN})
    assert answer.status_code == 405
    assert await caller.ledger() == []


async def test_a_missing_slash_is_a_redirect_that_keeps_the_query(caller: Caller) -> None:
    answer = await caller.client.get("/create?amount=100&message=a%20b")
    assert (answer.status_code, answer.headers["location"]) == (301, "/create/?amount=100&message=a%20b")


@pytest.mark.parametrize("path", ["/cancel/", "/cancel", "/create/more/", "/create//", "/index.php", "/docs", "//"])
async def test_an_unknown_path_is_an_html_page(caller: Caller, path: str) -> None:
    answer = await caller.client.get(f"http://127.0.0.1{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("access_token", ["wrong", "", None, "ключ"])
async def test_a_wrong_access_token_is_refused_by_the_proxy_itself(caller: Caller, access_token: str | None) -> None:
    answer = await caller.create(access_token=access_token)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert [(entry["applied"], entry["refusal"]) for entry in await caller.ledger()] == [(False, "http_403")]


async def test_a_payment_is_written_down_with_its_seller_and_without_its_token(caller: Caller) -> None:
    envelope = (await caller.create(amount="17500.5", message="Букет")).json()
    assert envelope["status"] is True
    (entry,) = await caller.ledger(applied="true")
    assert TOKEN not in str(entry)
    time = entry.pop("time")
    assert time.endswith("+05:00")
    assert entry == {
        "sequence": 1,
        "op": "create",
        "organization_bin": SELLER,
        "device_token": "11111111…",
        "device_token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "amount": "17500.50",
        "phone": "77015211545",
        "message": "Букет",
        "external_id": str(envelope["data"]["externalId"]),
        "return_operation_id": None,
        "course": "normal",
        "applied": True,
        "refusal": None,
        "default_merchant_used": False,
    }


async def test_the_variants_of_the_envelope_all_come(caller: Caller) -> None:
    envelopes = [(await caller.create()).json() for _ in range(10)]
    assert {type(envelope["data"]["externalId"]) for envelope in envelopes} == {int, str}
    assert {"status" in envelope["data"] for envelope in envelopes} == {True, False}
    assert {"http_code" in envelope for envelope in envelopes} == {True, False}
    assert {"success" in envelope for envelope in envelopes} == {True, False}
    assert {envelope["data"].get("status", "Wait") for envelope in envelopes} == {"Wait"}


async def test_the_first_reply_is_the_one_of_the_contract(caller: Caller) -> None:
    envelope = (await caller.create()).json()
    assert (envelope["status"], envelope["http_code"], envelope["data"]["status"]) == (True, 200, "Wait")
    assert isinstance(envelope["data"]["externalId"], int)


async def test_a_link_names_its_address_its_id_and_its_end(caller: Caller) -> None:
    data = (await caller.link()).json()["data"]
    assert data.keys() == {"paymentLink", "paymentId", "expireDate"}
    assert data["paymentLink"].endswith(str(data["paymentId"]))
    assert data["expireDate"][-10] == "."
    assert data["expireDate"].endswith("+05:00")
    assert await caller.status(str(data["paymentId"])) == "QrTokenCreated"


async def test_a_status_needs_no_seller(caller: Caller) -> None:
    assert await caller.status(await caller.paid()) == "Processed"


async def test_a_status_of_a_payment_nobody_made_is_refused(caller: Caller) -> None:
    assert code_of(await caller.call("status", externalId="12800627774")) == "-1601"


@pytest.mark.parametrize(
    "amount", ["0", "0.00", "1e3", "100.005", "100,50", "-1", "+1", " 1", "", "1.", "NaN", "\u0661"]
)
async def test_an_amount_that_is_no_plain_decimal_is_refused(caller: Caller, amount: str) -> None:
    assert code_of(await caller.create(amount=amount)) == "990000028"
    assert code_of(await caller.refund(await caller.paid(), amount)) == "990000028"


@pytest.mark.parametrize("phone", ["87015211545", "+77015211545", "7701521154", "770152115450", "76015211545", ""])
async def test_a_phone_of_another_form_is_an_error_without_a_code(caller: Caller, phone: str) -> None:
    envelope = (await caller.create(phone=phone)).json()
    assert envelope["status"] is False
    assert envelope["error"]
    assert await caller.ledger(applied="true") == []


@pytest.mark.parametrize("name", ["phone", "amount", "message"])
async def test_a_missing_parameter_is_an_error_without_a_code(caller: Caller, name: str) -> None:
    envelope = (await caller.create(**{name: None})).json()
    assert name in envelope["error"]


async def test_php_lists_come_where_a_map_is_empty(caller: Caller) -> None:
    envelopes = [(await caller.create(phone="1")).json() for _ in range(3)]
    assert [envelope.get("data") for envelope in envelopes] == [None, [], {"errors": []}]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"organizationBin": "991011000048"}, "-99000002"),
        ({"deviceToken": "99999999-never-seen"}, "-1501"),
        ({"deviceToken": OTHER_TOKEN}, "-99000003"),
        ({"organizationBin": OTHER_SELLER}, "-99000003"),
    ],
)
async def test_seller_and_token_must_belong_together(caller: Caller, changes: dict[str, Any], code: str) -> None:
    assert code_of(await caller.create(**changes)) == code
    assert code_of(await caller.link(**changes)) == code
    assert code_of(await caller.refund(await caller.paid(), "10", **changes)) == code


async def test_only_a_payment_by_phone_goes_without_a_token(caller: Caller) -> None:
    assert (await caller.create(deviceToken=None)).json()["status"] is True
    assert code_of(await caller.link(deviceToken=None)) == "-1501"
    assert code_of(await caller.refund(await caller.paid(), "10", deviceToken=None)) == "-1501"


@pytest.mark.parametrize(
    "changes",
    [
        {"organizationBin": OTHER_SELLER, "deviceToken": OTHER_TOKEN},
        {"deviceToken": SECOND_TOKEN},
        {"organizationBin": None},
    ],
)
async def test_a_refund_needs_the_seller_and_the_token_of_the_payment(caller: Caller, changes: dict[str, Any]) -> None:
    assert code_of(await caller.refund(await caller.paid(), "10", **changes)) == "-99000003"
    assert await caller.ledger(op="refund", applied="true") == []


@pytest.mark.parametrize("missing", [None, ""])
async def test_a_missing_bin_silently_pays_the_marketplace_and_the_ledger_tells(
    caller: Caller, missing: str | None
) -> None:
    assert (await caller.create(organizationBin=missing)).json()["status"] is True
    (entry,) = await caller.ledger(applied="true")
    assert (entry["organization_bin"], entry["default_merchant_used"]) == (config().default_merchant, True)


async def test_refunds_say_what_was_paid_back_or_nothing_at_all(caller: Caller) -> None:
    external_id = await caller.paid()
    answers = [await caller.refund(external_id, amount) for amount in ("10", "10.5", "10.00", "10")]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["data"]["refundedAmount"] if answer.content else None for answer in answers] == [
        10, 10.5, None, 10,
    ]  # fmt: skip
    assert {type(answers[0].json()["data"]["returnOperationId"])} == {int}
    (payment,) = (await caller.client.get("/_payments")).json()
    assert (payment["status"], payment["refunded"]) == ("Processed", "40.50")
    assert code_of(await caller.refund(external_id, "59.60")) == "-99000005"


REFUSALS = [course for course in rules.COURSES if course.name.startswith("code_")]


@pytest.mark.parametrize("course", REFUSALS, ids=lambda course: course.name)
async def test_each_refusal_of_kaspi_can_be_had_for_each_money_call(caller: Caller, course: rules.Course) -> None:
    amount = f"10.{course.number}"
    by_phone = await caller.create(phone=f"7701000{course.phone_ending}")
    answers = [by_phone, await caller.link(amount=amount), await caller.refund(await caller.paid(), amount)]
    assert {code_of(answer) for answer in answers} == {str(course.code)}
    entries = [entry for entry in await caller.ledger() if entry["course"] == course.name]
    assert [(entry["applied"], entry["refusal"]) for entry in entries] == [(False, str(course.code))] * 3


@pytest.mark.parametrize(
    ("name", "status"),
    [("http_500", 500), ("http_500_applied", 500), ("http_302", 302), ("http_401", 401), ("http_404", 404),
     ("http_429", 429), ("html", 200), ("html_applied", 200)],
)  # fmt: skip
async def test_pages_come_in_place_of_replies(caller: Caller, name: str, status: int) -> None:
    course = rules.BY_NAME[name]
    answer = await caller.create(phone=f"7701000{course.phone_ending}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert [entry["applied"] for entry in await caller.ledger()] == [course.applies]


@pytest.mark.parametrize(
    ("name", "code"), [("technical", "-999"), ("technical_applied", "-999"), ("refund_error", "-99000006")]
)
async def test_codes_that_tell_nothing_come_with_and_without_effect(caller: Caller, name: str, code: str) -> None:
    external_id = await caller.paid()
    await caller.queue("refund", name)
    assert code_of(await caller.refund(external_id, "10")) == code
    assert [entry["applied"] for entry in await caller.ledger(op="refund")] == [rules.BY_NAME[name].applies]


async def test_an_unknown_code_is_in_no_list(caller: Caller) -> None:
    assert code_of(await caller.create(phone="77010009042")) == str(rules.UNKNOWN_CODE)


async def test_a_failure_may_have_only_a_text(caller: Caller) -> None:
    assert (await caller.create(phone="77010009043")).json() == {"status": False, "error": "Service error"}


async def test_a_success_may_lack_its_id(caller: Caller) -> None:
    data = (await caller.create(phone="77010009044")).json()["data"]
    assert "externalId" not in data
    assert "paymentId" not in (await caller.link(amount="10.44")).json()["data"]
    assert len(await caller.ledger(applied="true")) == 2


async def test_a_success_may_carry_the_id_of_another_payment(caller: Caller) -> None:
    first = str((await caller.create()).json()["data"]["externalId"])
    crossed = str((await caller.create(phone="77010009046")).json()["data"]["externalId"])
    assert crossed == first
    assert len({entry["external_id"] for entry in await caller.ledger(applied="true")}) == 2


async def test_a_success_may_hold_a_list_or_nothing(caller: Caller) -> None:
    assert (await caller.create(phone="77010009047")).json()["data"] == []
    assert (await caller.create(phone="77010009048")).content == b""
    assert len(await caller.ledger(applied="true")) == 2


async def test_a_call_that_kaspi_refuses_is_refused_whatever_its_course(caller: Caller) -> None:
    await caller.queue("refund", "empty_applied")
    assert code_of(await caller.refund(await caller.paid(), "100.01")) == "-99000005"


async def test_the_same_calls_get_the_same_replies() -> None:
    async def shapes() -> list[Any]:
        async with client_of(config()) as client:
            envelopes = [(await Caller(client).create()).json() for _ in range(12)]
        return [
            [*envelope, *envelope["data"], type(envelope["data"]["externalId"])]  # keys in order, and the id's type
            for envelope in envelopes
        ]

    assert await shapes() == await shapes()


async def test_secrets_do_not_reach_the_log(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "kaspi_sandbox")
    await caller.create()
    await caller.create(organizationBin="1\n2", deviceToken=None, phone="7\n1")
    await caller.refund(await caller.paid(), "10")
    own = [record.getMessage() for record in caplog.records if record.name.startswith("kaspi_sandbox")]
    assert len(own) == 4
    text = " ".join(own)
    assert "\n" not in text
    assert not [secret for secret in (TOKEN, ACCESS_TOKEN, "77015211545") if secret in text]
