"""``python -m payment_dev run``: everything on this machine, started in order and stopped together."""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import typer

from payment_dev.postgres import EmbeddedPostgres
from payment_dev.postgres_processes import PostgresError
from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS
from payment_service.observability.context import Origin, origin
from payment_service.postgres import migrating
from payment_service.postgres.connecting import connect_arguments, trouble_of
from payment_service.postgres.vault import new_key
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.programs import StartError
from payment_service.routing import importing
from payment_service.routing.rule import set_needs_two
from payment_service.services import Services, open_services
from payment_service.setting_texts import is_loopback
from payment_service.settings import DEVELOPMENT_FILE, Settings, load

READY_WITHIN_S = 30
STOP_WITHIN_S = 20
DATABASE = "payment_service"
DEVELOPER = "developer@localhost"
"""Who signs in to the console of a development server. The link in the welcome sets the password."""
SHOP_8 = "shop_id,organization_bin,name,city\n8,891027350515,Cvety.kz,Алматы\n"


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What the development server made up for itself; kept in the data folder, real nowhere."""

    encryption_key: str
    access_token: str
    device_tokens: dict[str, str]
    """By BIN."""


def run(data: Path, *, port: int, sandbox_port: int) -> None:
    """Start all of it, say what to try, and wait for Ctrl-C.

    Raises:
        StartError: a sentence that says what is in the way and what to do.
    """
    for what, number in (("service", port), ("stand-in proxy", sandbox_port)):
        _check_port_is_free(what, number)
    # SIGINT too: a shell that starts us in the background has it ignored, and Python would leave it so.
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _as_interrupt)
    data = data.absolute()
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            url = os.environ.get("DATABASE_URL") or _own_database(data, stack)
            made_up = _secrets(data)
            environment = _environment(url, made_up, port=port, sandbox_port=sandbox_port)
            os.environ.update(environment)
            settings = load()
            sandbox = _start_sandbox(data, sandbox_port, stack)
            console = _prepare(settings, url, made_up)
            _leave_settings(data, url, environment, stack)
            service = _start("service", ["payment_service", "serve"], stack)
            _wait_until_ready("stand-in proxy", f"http://127.0.0.1:{sandbox_port}/health", sandbox)
            _wait_until_ready("service", f"http://127.0.0.1:{port}/health/ready", service)
            typer.echo(_welcome(port, sandbox_port, console, time.monotonic() - began))
            _wait_for_the_first_to_end(sandbox, service)
        except KeyboardInterrupt:
            typer.echo("\nStopping.")
        except PostgresError as error:
            raise StartError(str(error)) from error


def _own_database(data: Path, stack: ExitStack) -> str:
    postgres = EmbeddedPostgres(data / "postgres")
    stack.callback(postgres.stop)
    postgres.start()
    postgres.create_database(DATABASE, exists_ok=True)
    return postgres.url(DATABASE)


def _secrets(data: Path) -> _Secrets:
    data.mkdir(parents=True, exist_ok=True)
    file = data / "secrets.json"
    if not file.exists():
        bins = [row.fields["organization_bin"] for row in _shops()]
        content = {
            "encryption_key": new_key(),
            "access_token": secrets.token_urlsafe(24),
            "device_tokens": {each: str(uuid.uuid4()) for each in bins},
        }
        _write_secret(file, content)
    try:
        made_up = _Secrets(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise StartError(
            f"{file} is damaged, and the device tokens in its database cannot be opened without it: "
            f"remove {data} to start anew."
        ) from error
    tokens = {each: [token] for each, token in made_up.device_tokens.items()}
    (data / "merchants.json").write_text(json.dumps(tokens, indent=2))
    return made_up


def _shops() -> list[importing.Row]:
    return importing.parse(importing.packaged_shops()) + importing.parse(SHOP_8)


def _environment(url: str, made_up: _Secrets, *, port: int, sandbox_port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": url,
        "PRODUCTION_API_URL": f"http://127.0.0.1:{sandbox_port}",
        "KASPI_ACCESS_TOKEN": made_up.access_token,
        "ENCRYPTION_KEYS": made_up.encryption_key,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DEBUG": "true",
        "DEV_NO_AUTH": "true",
        "METRICS_PUBLIC": "true",
        "WORKER_IN_SERVE": "true",
        "WEBHOOKS_STAY_HERE": "true",
        "CONSOLE_URL": f"http://localhost:{port}",
        # The examples use the same few phones over and over.
        "PHONE_INVOICES_PER_MINUTE": "0",
        "PHONE_INVOICES_PER_DAY": "0",
    }


def _leave_settings(data: Path, url: str, environment: dict[str, str], stack: ExitStack) -> None:
    """Let commands in another terminal find the settings, unless the database is on another machine."""
    file = data / DEVELOPMENT_FILE.name
    host = connect_arguments(url)["host"]
    hosts = [host] if isinstance(host, str) else host
    if all(is_loopback(one) or one.startswith("/") for one in hosts):
        _write_secret(file, {name.lower(): value for name, value in environment.items()})
        stack.callback(file.unlink, missing_ok=True)


def _write_secret(file: Path, content: dict[str, Any]) -> None:
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content, indent=2))
    draft.rename(file)


def _prepare(settings: Settings, url: str, made_up: _Secrets) -> str:
    """Bring the schema to head and the shops to what the development server needs; returns how to open the console."""
    try:
        migrating.migrate(url)
    except Exception as error:
        trouble = trouble_of(error)
        raise StartError(
            trouble.sentence
            if trouble
            else f"The database that DATABASE_URL names cannot be prepared ({type(error).__name__}): "
            "check that its address is right and that the user may create tables."
        ) from error

    try:
        return asyncio.run(_fill(settings, made_up))
    except Exception as error:
        raise StartError(
            f"The shops cannot be prepared ({type(error).__name__}): if this database was made with another data "
            "folder, its device tokens cannot be opened; use that folder, or an empty database."
        ) from error


async def _fill(settings: Settings, made_up: _Secrets) -> str:
    """Add the shops and the person that are missing; returns how that person opens the console."""
    origin.set(Origin("development"))
    async with open_services(settings) as services:
        await services.check_secrets()
        await set_needs_two(services.database, needs_two=bool(settings.route_change_needs_two))
        await _add_missing_shops(services, made_up)
        person = next((one for one in await services.people.all() if one.email == DEVELOPER), None)
        person = person or await services.people.add(DEVELOPER, "Developer", Role.ADMIN, ALL_SHOPS)
        token = None if person.password_hash else await services.people.link(person.id)
    console = f"{settings.console_url}/console"
    return f"{console}/link/{token}" if token else f"{console}   (sign in as {DEVELOPER})"


async def _add_missing_shops(services: Services, made_up: _Secrets) -> None:
    """Shops that are there stay as somebody may have changed them."""
    there = {config.row.shop_id for config in await services.routing.configs(FULL_ACCESS)}
    rows = [
        importing.Row(
            row.line,
            row.shop_id,
            {**row.fields, "device_token": made_up.device_tokens[row.fields["organization_bin"]]},
        )
        for row in _shops()
        if row.shop_id not in there
    ]
    await importing.apply(services.routing, rows, reason="development server", dry_run=False)


def _start_sandbox(data: Path, port: int, stack: ExitStack) -> subprocess.Popen[bytes]:
    files = ["--tokens-file", str(data / "merchants.json"), "--ledger-file", str(data / "ledger.jsonl")]
    return _start("stand-in proxy", ["kaspi_sandbox", "--port", str(port), *files], stack)


def _start(what: str, words: list[str], stack: ExitStack) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches only this program, which then stops the others in order.
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own program
    stack.callback(_stop, what, process)
    return process


def _stop(what: str, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        typer.echo(f"The {what} did not stop in {STOP_WITHIN_S} s and is killed.", err=True)
        process.kill()
        process.wait()


def _wait_until_ready(what: str, url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise StartError(f"The {what} ended at its start; its last lines above say why.")
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise StartError(f"The {what} was not ready after {READY_WITHIN_S} s; its last lines above say why.")


def _wait_for_the_first_to_end(*processes: subprocess.Popen[bytes]) -> None:
    while all(process.poll() is None for process in processes):
        time.sleep(0.2)
    raise StartError("A part of the development server ended by itself; its last lines above say why.")


def _check_port_is_free(what: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            option = "--port" if what == "service" else "--sandbox-port"
            raise StartError(
                f"Port {port}, for the {what}, is in use: stop the program that has it, "
                f"or run 'python -m payment_dev run {option} NUMBER'."
            ) from error


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _welcome(port: int, sandbox_port: int, console: str, seconds: float) -> str:
    service = f"http://localhost:{port}"
    return f"""
payment-service is ready after {seconds:.1f} s. Ctrl-C stops everything. Try:

  curl -X POST {service}/payments/kaspi/create -H "Content-Type: application/json" \\
    -d '{{"shop_id": 8, "amount": 100, "phone": "77015211545", "message": "Test payment"}}'

  curl {service}/payments

  curl -s "{service}/api/payment/config?shop_id=121038"

  Console, for people      {console}
  API, to read and try     {service}/docs
  Stand-in proxy           http://localhost:{sandbox_port}   (press "Pay" and "Decline" there)
  The main job, played     make demo
"""
