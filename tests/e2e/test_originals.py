"""The original's clients against the service: what docs/migrate.md says of each request is seen here.

The original's code is not in this repository; its requests are rebuilt from docs/contract.md.
"""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from payment_service_client import AsyncPaymentServiceClient, PaymentServiceError

from tests.e2e.originals.backend import OldBackend
from tests.e2e.php.site import php_or_skip
from tests.support.documents import ROOT, sections
from tests.support.rig import ACCESS_TOKEN, PHONE, Rig
from tests.support.shops import SHOPS, bin_with_checksum

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.thorough]

ORIGINALS = Path(__file__).with_name("originals")
SHOP = 121038
[SECTION] = [one for one in sections((ROOT / "docs" / "migrate.md").read_text("utf-8")) if "original" in one.title]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.text.splitlines() if line[:2] == "| "]


def rows_of(first: str) -> list[list[str]]:
    """The rows of a client, or of the table that begins with this word, without it."""
    return [row[1:] for row in ROWS if row[0] == first]


def told(answered: list[dict[str, Any]]) -> list[list[str]]:
    """What was asked and answered, as the table has it: what, request, status with the code of a refusal."""
    lines = []
    for one in answered:
        answer = one["answer"]
        code = f" `{answer['code']}`" if isinstance(answer, dict) and "code" in answer else ""
        lines.append([one["what"], f"`{one['request']}`", f"{one['status']}{code}"])
    return lines


async def run(*words: str) -> list[dict[str, Any]]:
    """What a client asked, and what it was answered."""
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, cwd=ORIGINALS)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return [json.loads(line) for line in out.decode().splitlines()]


async def test_php_client_gets_what_the_table_says(rig: Rig) -> None:
    php_or_skip()
    key = rig.make_key("original-php", "config:read", "secrets:read", "reports:write")
    answered = await run("php", "client.php", rig.services[0].url, key)
    assert told(answered) == [[what, request, said.partition(":")[0]] for what, request, said in rows_of("PHP")]
    by = {one["what"]: one["answer"] for one in answered}
    assert by["routing of a shop"]["organization_bin"] == SHOPS[SHOP]
    assert "…" not in by["routing of a shop"]["device_token"]
    assert by["before Kaspi has answered"]["external_id"] is None
    assert by["after Kaspi has answered"]["amount"] == 1_750_000
    assert by["an amount that is no whole tiyn"]["amount"] is None
    assert by["an amount that is no whole tiyn"]["warnings"]
    assert by["a status that it saw"]["source"] == "client"


async def test_admin_page_gets_what_the_table_says(rig: Rig) -> None:
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("node is not installed")
    key = rig.make_key("original-page", "admin")
    answered = await run("node", "admin.mjs", rig.services[0].url, key, bin_with_checksum("99101100009"))
    rows = [[what, request, said.partition(":")[0]] for what, request, said in rows_of("React")]
    assert [line for number, line in enumerate(told(answered)) if number != 4] == rows  # the list is read twice
    first, again = answered[0]["answer"], answered[4]["answer"]
    assert all(config["id"] == config["shop_id"] for config in first)
    [row] = [config for config in again if config["shop_id"] == 900009]
    assert row["device_token"].endswith("…")
    by = {one["what"]: one["answer"] for one in answered}
    assert by["the whole row back, changed"]["description"] == "Changed on the page"
    assert "version" in by["a row that somebody changed meanwhile"]["detail"]
    assert by["a BIN with a wrong digit"]["detail"].endswith(".")
    assert by["a shop switched off"]["is_active"] is False


CASES: dict[str, dict[str, Any]] = {
    "200 `pending`": {},
    "401 `authentication_required`": {"key": "wrong"},
    "404 `shop_not_configured`": {"shop": 999_999},
    "409 `order_already_open`": {"open": True},
    "422 `payment_rejected`": {"phone": "77015219062"},
    "502 `provider_refused`": {"phone": "77015219051"},
    "503 `not_sent`": {"away": True},
    "202 `unknown`, the payment exists": {"phone": "77015219027"},
    "202 `unknown`, it does not": {"phone": "77015219026"},
}


async def seen(rig: Rig, word: str) -> tuple[int, int]:
    """How often the proxy was called for a message by the service, and without a BIN."""
    entries = [entry for entry in await rig.ledger(op="create") if (entry["message"] or "").startswith(word)]
    without = [entry for entry in entries if entry["default_merchant_used"]]
    return len(entries) - len(without), len(without)


def counted(number: int) -> str:
    return f"{number} request{'s' * (number != 1)}"


async def test_back_end_client_old_and_new_get_what_the_table_says(rig: Rig) -> None:
    away = await rig.serve(PRODUCTION_API_URL="http://127.0.0.1:1")
    lines = []
    for answer, case in CASES.items():
        service = away if case.get("away") else rig.services[0]
        shop, phone, key = case.get("shop", SHOP), case.get("phone", PHONE), case.get("key", rig.key)
        words = [rig.word(), rig.word()]
        if case.get("open"):
            for word in words:
                assert (await rig.create(message="first", amount=77, order_id=word)).status_code == 200
        async with rig.client(service, key) as http:
            old = OldBackend(http, rig.sandbox.url, ACCESS_TOKEN)
            await old.create_payment(shop, 100, phone, words[0], words[0])
        async with AsyncPaymentServiceClient(service.url, key) as new:
            try:
                outcome = f"`{(await new.create_payment(shop, 100, phone, words[1], order_id=words[1]))['state']}`"
            except PaymentServiceError as error:
                outcome = f"`{type(error).__name__}`"
        (_, without), (calls, never) = await seen(rig, words[0]), await seen(rig, words[1])
        assert (never, calls <= 1) == (0, True), answer
        old_way = f"{counted(old.asked)}{', then the proxy without a BIN' * without}"
        lines.append([answer, old_way, f"1 request, {outcome}"])
    tables = [row for row in ROWS if re.match(r"\d{3} `", row[0])]
    assert lines == [[cell.replace("**", "") for cell in row] for row in tables]
