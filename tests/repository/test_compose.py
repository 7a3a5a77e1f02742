"""compose.yaml starts what there is: commands, settings, files, ports; and Compose itself takes it, where it is."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from kaspi_sandbox.__main__ import main as sandbox
from payment_dev.server import SHOP_8
from payment_service.routing import importing
from payment_service.settings import Settings
from tests.support.command_line import mistakes, tree
from tests.support.documents import ROOT
from tests.support.shops import ENCRYPTION_KEY

FILE: Final = ROOT / "compose.yaml"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: Final[Mapping[str, Any]] = COMPOSE["services"]
OURS: Final = {name: service for name, service in SERVICES.items() if service["image"] == "payment-service"}
RUNNING: Final = {name: service for name, service in OURS.items() if "entrypoint" not in service}
"""Those that run ``payment-service``, which the image does."""
of_the_image: Final = pytest.mark.parametrize("name", RUNNING)


def test_everything_that_a_service_needs_is_there() -> None:
    assert set(SERVICES) == {"database", "migrate", "shops", "serve", "worker", "stand-in"}


@of_the_image
def test_command_is_one_of_the_command_line(name: str) -> None:
    words = RUNNING[name]["command"]
    assert words[0] in {"migrate", "shops", "serve", "worker"}
    assert mistakes(words, dict(tree())) == []


@of_the_image
def test_settings_exist_and_make_a_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = RUNNING[name]["environment"]
    assert {each.lower() for each in environment} <= set(Settings.model_fields)
    for each in Settings.model_fields:
        monkeypatch.delenv(each.upper(), raising=False)
    # The image's own, and what compose.env holds.
    for each, value in {"HOST": "0.0.0.0", "ENCRYPTION_KEYS": ENCRYPTION_KEY, **environment}.items():
        monkeypatch.setenv(each, value)
    settings = Settings(_env_file=None)
    assert settings.production_api_url == "http://127.0.0.1:8016"
    assert not settings.dev_no_auth


def test_stand_in_takes_its_options_and_reads_the_token_that_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = SERVICES["stand-in"]
    assert stand_in["entrypoint"] == ["python", "-m", "kaspi_sandbox"]
    monkeypatch.setattr(sys, "argv", ["kaspi_sandbox", *stand_in["command"], "--rules"])
    sandbox()
    assert "normal" in capsys.readouterr().out
    assert stand_in["environment"]["KASPI_ACCESS_TOKEN"] == SERVICES["serve"]["environment"]["KASPI_ACCESS_TOKEN"]


def test_shops_are_those_of_the_development_server_with_tokens_that_the_stand_in_knows() -> None:
    rows = {row.shop_id: row.fields for row in importing.parse((ROOT / "compose" / "shops.csv").read_text("utf-8"))}
    known = [*importing.parse(importing.packaged_shops()), *importing.parse(SHOP_8)]
    assert {shop: fields["organization_bin"] for shop, fields in rows.items()} == {
        row.shop_id: row.fields["organization_bin"] for row in known
    }
    tokens = json.loads((ROOT / "compose" / "tokens.json").read_text())
    assert tokens == {fields["organization_bin"]: [fields["device_token"]] for fields in rows.values()}
    with (ROOT / "compose" / "shops.csv").open(encoding="utf-8") as file:
        made_up = [f"{int(row['shop_id']):08}-0000-4000-8000-000000000000" for row in csv.DictReader(file)]
    assert [token for [token] in tokens.values()] == made_up


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8015:8015"]


def test_key_that_encrypts_is_in_a_file_of_its_own_that_is_never_committed() -> None:
    assert {name for name, service in OURS.items() if service["env_file"] == ["compose.env"]} == set(RUNNING)
    assert "ENCRYPTION_KEYS" not in {name for service in OURS.values() for name in service["environment"]}
    assert "compose.env" in (ROOT / ".gitignore").read_text().splitlines()


@of_the_image
def test_containers_may_do_little_and_have_time_to_stop(name: str) -> None:
    service = RUNNING[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service
    assert int(service["stop_grace_period"].removesuffix("s")) > 2 * Settings.model_fields["shutdown_grace_s"].default


def test_files_that_are_mounted_exist() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    here = [path for path in mounted if path.startswith("./")]
    assert here
    assert all((ROOT / path).exists() for path in here)
    assert {path for path in mounted if not path.startswith("./")} == set(COMPOSE["volumes"])


@pytest.mark.thorough
def test_compose_takes_the_file(tmp_path: Path) -> None:
    for program in (["docker", "compose"], ["docker-compose"]):
        there = shutil.which(program[0])
        if there and subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("Compose is not installed")
    shutil.copy(FILE, tmp_path)
    (tmp_path / "compose.env").write_text(f"ENCRYPTION_KEYS={ENCRYPTION_KEY}\n")
    command = [*program, "--file", str(tmp_path / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
