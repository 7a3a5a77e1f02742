"""docs/llms.txt says what docs/openapi.json says: the calls, their bodies, and what each answer means."""

import json
import re
from typing import Any

from kaspi_sandbox import rules
from payment_service.payments.lifecycle import State
from tests.api.truth import Truth
from tests.support.documents import ROOT, sections

TEXT = (ROOT / "docs" / "llms.txt").read_text("utf-8")
SECTIONS = {section.title: section for section in sections(TEXT)}
TRUTH = Truth(json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8")))
CALLS = re.findall(r"`(GET|POST) (/[^`?]+)", TEXT)
PHONES = re.findall(r"^\| `(\d{11})` \| .+? \| (?:(\d{3}) )?`(\w+)`", SECTIONS["Trying it"].text, re.MULTILINE)
"""Phone; what the caller sees at once: the HTTP status where it is not 200, and the state or the code."""
_OF_A_CALLER = (
    "create_payment", "create_payment_link", "refund_payment", "get_payment", "get_payment_status", "search_payments",
    "get_routing",
)  # fmt: skip


def operations() -> dict[str, dict[str, Any]]:
    found = [operation for methods in TRUTH.document["paths"].values() for operation in methods.values()]
    return {operation["operationId"]: operation for operation in found}


def test_calls_exist() -> None:
    named = [TRUTH.operation(method, path) for method, path in CALLS]
    assert None not in named, [call for call, found in zip(CALLS, named, strict=True) if found is None]
    assert {operation["operationId"] for operation in named if operation} >= set(_OF_A_CALLER)


def test_bodies_and_the_answer_fit_their_schemas() -> None:
    names = ["Create", "CreateLink", "RefundBody", "PaymentAnswer"]
    blocks = SECTIONS["Calls"].blocks
    for name, block in zip(names, blocks, strict=True):
        value = json.loads(block.removeprefix("```json\n").removesuffix("```"))
        TRUTH.validator({"$ref": f"#/components/schemas/{name}"}).validate(value)


def test_every_answer_that_a_caller_can_get_is_there_and_no_other() -> None:
    declared = {
        (status, code)
        for name in _OF_A_CALLER
        for status, answer in operations()[name]["responses"].items()
        for code in re.findall(r"`([a-z_]+)`", answer["description"])
    }
    told = {
        (status, code)
        for statuses, codes in re.findall(r"^\| ([\d, ]+) \| (`.+?`) \|", TEXT, re.MULTILINE)
        for status in statuses.split(", ")
        for code in re.findall(r"`(\w+)`", codes)
    }
    in_one_row = {"408", "413", "414", "415", "431"}
    assert {pair for pair in declared if pair[0] not in in_one_row} == {
        pair for pair in told if pair[0] not in in_one_row
    }
    assert {code for status, code in declared if status in in_one_row} == {
        code for status, code in told if status in in_one_row
    }


def test_states_and_phones_are_those_of_the_code() -> None:
    [states] = re.findall(r"`state` is one of (.+?)\. ", TEXT)
    assert re.findall(r"`(\w+)`", states) == list(State)
    assert {phone[-4:] for phone, _, _ in PHONES} - {course.phone_ending for course in rules.COURSES} == {"1545"}


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
