"""``payment-service shops``: all or nothing, nothing secret on the screen."""

import json
import subprocess
import uuid
from typing import Any

import asyncpg
import pytest

from tests.e2e.php.site import php_or_skip
from tests.support.rig import Rig
from tests.support.shops import SHOPS

HEADER = "shop_id,organization_bin,name,city,provider,device_token"
GOOD = "8,891027350515,Cvety.kz,Алматы,kaspi,"


async def count(rig: Rig) -> int:
    """How many shops there are, without asking the command line."""
    connection = await asyncpg.connect(rig.database_url)
    found: int = await connection.fetchval("SELECT count(*) FROM paymentconfig")
    await connection.close()
    return found


def bring(rig: Rig, *lines: str, words: tuple[str, ...] = ()) -> Any:
    file = rig.folder / "shops.csv"
    file.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return rig.run("shops", "import", str(file), *words)


def test_packaged_seven_are_imported_once(shell: Rig) -> None:
    assert "7 of 7 shops changed" in shell.run("shops", "import").stdout
    shops = json.loads(shell.run("shops", "list", "--json").stdout)
    assert {shop["shop_id"]: shop["organization_bin"] for shop in shops} == SHOPS
    assert {shop["device_token"] for shop in shops} == {None}
    assert "0 of 7 shops changed" in shell.run("shops", "import").stdout


def test_packaged_seven_change_no_shop_that_is_there(shell: Rig) -> None:
    done = bring(shell, "121038,891027350515,sold,,,", "9,891027350515,copied down,,,")
    assert "Warning: shop 121038: its BIN is also that of shop 9" in done.stderr
    assert "6 of 7 shops changed" in shell.run("shops", "import").stdout
    shops = json.loads(shell.run("shops", "list", "--json").stdout)
    assert {"891027350515"} == {shop["organization_bin"] for shop in shops if shop["shop_id"] in {121038, 9}}


async def test_dry_run_shows_what_would_change_and_changes_nothing(shell: Rig) -> None:
    shown = shell.run("shops", "import", "--dry-run")
    assert shown.returncode == 0
    assert "7 of 7 shops would change" in shown.stdout
    assert all(organization_bin in shown.stdout for organization_bin in SHOPS.values())
    assert await count(shell) == 0


async def test_every_bad_row_is_named_and_nothing_is_imported(shell: Rig) -> None:
    done = bring(
        shell,
        GOOD,
        "9,991011000049,wrong checksum,,,",
        "10,99101100004,too short,,,",
        "11,991011000048,unknown provider,,halyk,",
        "12,991011000048,short token,,,abc",
        "eight,991011000048,no number,,,",
        "13,991011000048,first,,,",
        "13,210440028324,second,,,",
    )
    assert done.returncode == 1
    named = [line.partition(":")[0] for line in done.stderr.splitlines() if line.startswith("Line ")]
    assert sorted(set(named)) == [f"Line {line}" for line in range(3, 10)]
    assert "checksum" in done.stderr
    assert "Nothing was imported." in done.stderr
    assert await count(shell) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "shop_id is missing"),
        (b"shop_id\n8\n", "organization_bin is missing"),
        (b"shop_id,organization_bin\n", "holds no shops"),
        (b"shop_id,organization_bin,color\n8,891027350515,red\n", "Column 3 of the first line is not known"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_file_that_is_no_list_of_shops_is_refused_in_a_sentence(shell: Rig, content: bytes | None, words: str) -> None:
    file = shell.folder / "wrong.csv"
    if content is not None:
        file.write_bytes(content)
    done = shell.run("shops", "import", str(file))
    assert done.returncode == 1
    assert words in done.stderr


def test_export_is_what_import_reads(shell: Rig) -> None:
    token = str(uuid.uuid4())
    bring(shell, GOOD + token, '9,991011000048,"Цветы, ""Роза"";=1+1",Астана,kaspi,')
    exported = shell.run("shops", "export", "--with-tokens").stdout
    assert token in exported
    assert ";'=1+1" in exported  # no spreadsheet computes it
    changed = exported.replace("Алматы", "Шымкент")
    (shell.folder / "again.csv").write_text(changed, encoding="utf-8")
    assert "1 of 2 shops changed" in shell.run("shops", "import", str(shell.folder / "again.csv")).stdout
    again = shell.run("shops", "export", "--with-tokens").stdout
    assert again == changed.replace(f"{token},1", f"{token},2")
    changed_since = shell.run("shops", "import", str(shell.folder / "again.csv"))
    assert "0 of 2 shops changed" in changed_since.stdout
    (shell.folder / "again.csv").write_text(exported, encoding="utf-8")
    of_yesterday = shell.run("shops", "import", str(shell.folder / "again.csv"))
    assert of_yesterday.stderr.startswith("Line 2: shop 8 has changed since this file was exported.\n")
    assert shell.run("shops", "export", "--with-tokens").stdout == again


def test_export_for_sites_is_php_that_returns_what_it_was_given(shell: Rig) -> None:
    token = str(uuid.uuid4())
    name = r"""O'Neil \' \\ . $HOME {$x} ?> <?php phpinfo(); // Цветы"""
    bring(shell, GOOD + token, f'9,991011000048,"{name}",,kaspi,')
    with_tokens = shell.run("shops", "export", "--format", "php", "--with-tokens").stdout
    without = shell.run("shops", "export", "--format", "php").stdout
    assert token in with_tokens
    assert token not in without
    assert php_value(shell, without) == {
        "8": {
            "organization_bin": "891027350515",
            "device_token": None,
            "is_active": True,
            "provider": "kaspi",
            "name": "Cvety.kz",
        },
        "9": {
            "organization_bin": "991011000048",
            "device_token": None,
            "is_active": True,
            "provider": "kaspi",
            "name": name,
        },
    }
    assert php_value(shell, with_tokens)["8"]["device_token"] == token


def php_value(rig: Rig, code: str) -> dict[str, Any]:
    """What PHP makes of a file that returns an array; PHP's own check finds nothing wrong with it."""
    php_or_skip()
    file = rig.folder / "shops.php"
    file.write_text(code, encoding="utf-8")
    subprocess.run(["php", "-l", str(file)], check=True, capture_output=True)
    script = "echo json_encode(require $argv[1]);"
    done = subprocess.run(["php", "-r", script, "--", str(file)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("words", [("--format", "json"), ("--json",)])
def test_export_for_scripts_is_json(shell: Rig, words: tuple[str, ...]) -> None:
    bring(shell, GOOD)
    [shop] = json.loads(shell.run("shops", "export", *words).stdout)
    assert (shop["shop_id"], shop["name"], "device_token" in shop) == (8, "Cvety.kz", False)


def test_dry_run_for_scripts_tells_from_and_to(shell: Rig) -> None:
    bring(shell, GOOD)
    shown = bring(shell, GOOD.replace("Алматы", "Астана"), words=("--dry-run", "--json"))
    [plan] = json.loads(shown.stdout)
    assert plan == {"shop_id": 8, "action": "change", "changes": {"city": ["Алматы", "Астана"]}, "warnings": []}


def test_no_other_output_than_export_with_tokens_holds_a_token(shell: Rig) -> None:
    token, newer = str(uuid.uuid4()), str(uuid.uuid4())
    outputs = [
        bring(shell, GOOD + token, words=("--dry-run",)),
        bring(shell, GOOD + token, words=("--json",)),
        shell.run("shops", "set-token", "8", "--reason", "a new phone", text=newer + "\n"),
        shell.run("shops", "list", "--json"),
        shell.run("shops", "export"),
    ]
    assert [(done.returncode, done.stderr) for done in outputs] == [(0, "")] * len(outputs)
    assert not [done.args for done in outputs if token in done.stdout or newer in done.stdout]
    assert json.loads(outputs[3].stdout)[0]["device_token"] == newer[:8] + "…"
    assert f",{newer},2\n" in shell.run("shops", "export", "--with-tokens").stdout


def test_token_of_the_seller_before_is_told(shell: Rig) -> None:
    token = str(uuid.uuid4())
    bring(shell, f"8,891027350515,Cvety.kz,Алматы,kaspi,{token}")
    bring(shell, f"8,991011000048,Cvety.kz,Алматы,kaspi,{uuid.uuid4()}")
    done = shell.run("shops", "set-token", "8", text=token + "\n")
    assert done.returncode == 0
    assert "Warning: shop 8: its device token stood with BIN 891027350515 before" in done.stderr


@pytest.mark.xdist_group("cli")
@pytest.mark.parametrize(
    ("shop_id", "token", "code", "words"),
    [
        ("56195", "   ", 1, "Device token: nothing was given"),
        ("56195", "not-a-uuid-token", 0, "no UUID"),
        ("56195", "short", 1, "8 to 50"),
        ("404", "00000404-0000-4000-8000-000000000000", 1, "404 has no payment routing"),
    ],
)
def test_strange_token_or_shop_is_told(serving: Rig, shop_id: str, token: str, code: int, words: str) -> None:
    done = serving.run("shops", "set-token", shop_id, text=token + "\n")
    assert done.returncode == code
    assert words in done.stderr
    assert token not in done.stdout + done.stderr


@pytest.mark.xdist_group("cli")
def test_reason_that_nothing_could_show_is_refused(serving: Rig) -> None:
    words = ("shops", "set-token", "56195", "--reason", "up\u202eside down")
    done = serving.run(*words, text="00000404-0000-4000-8000-000000000000\n")
    assert done.returncode == 2
    assert "control characters" in done.stderr
