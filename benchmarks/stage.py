"""What every benchmark runs on: a PostgreSQL with fsync, the stand-in, the service as in production. Loopback only."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from payment_dev.postgres import EmbeddedPostgres
from payment_service.access.service import Scope
from payment_service.postgres import schema
from payment_service.postgres.vault import new_key
from payment_service.routing import importing
from payment_service.services import open_services
from payment_service.settings import Settings

ACCESS_TOKEN = "benchmark"
# Serves with a routing memory that never trusts itself: every lookup goes to the database.
FORGETFUL = (
    "import asyncio; from payment_service.routing.memory import RouteMemory; "
    "RouteMemory.listen = lambda self, database: asyncio.Event().wait(); "
    "from payment_service import main, settings; main.serve(settings.load())"
)


@dataclass
class Stage:
    """The servers of one benchmark."""

    postgres: EmbeddedPostgres
    stack: ExitStack
    folder: Path
    encryption_key: str = field(default_factory=new_key)
    tokens: dict[str, str] = field(default_factory=dict)
    stand_in: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    """By address."""

    def database(self, name: str) -> Settings:
        """A database with the schema and the seven shops, and the settings of a service over it."""
        self.postgres.create_database(name)
        schema.migrate(self.postgres.url(name))
        settings = Settings(
            _env_file=None,
            database_url=self.postgres.url(name),
            production_api_url=self.stand_in,
            kaspi_access_token=ACCESS_TOKEN,
            encryption_keys=self.encryption_key,
            log_level="WARNING",
            rate_limits=False,
        )
        asyncio.run(self._import_shops(settings))
        return settings

    async def _import_shops(self, settings: Settings) -> None:
        rows = [
            importing.Row(
                row.line,
                row.shop_id,
                {**row.fields, "device_token": self.tokens[row.fields["organization_bin"]]},
            )
            for row in shops()
        ]
        async with open_services(settings) as services:
            await importing.apply(services.routing, rows, reason="benchmark", dry_run=False)

    def serve(self, settings: Settings, *, forgetful: bool = False) -> str:
        """Start one serve process; returns its address."""
        command = ["-c", FORGETFUL] if forgetful else ["-m", "payment_service", "serve"]
        return self._start(command, {**environment_of(settings), "PORT": str(free_port())}, "/health/ready")

    def start_stand_in(self) -> None:
        """Start the stand-in: a process of its own, whose ledger is in memory."""
        self.tokens = {row.fields["organization_bin"]: str(uuid.uuid4()) for row in shops()}
        tokens_file = self.folder / "tokens.json"
        tokens_file.write_text(json.dumps({each: [token] for each, token in self.tokens.items()}))
        port = free_port()
        words = ["-m", "kaspi_sandbox", "--port", str(port), "--tokens-file", str(tokens_file)]
        environment = {"KASPI_ACCESS_TOKEN": ACCESS_TOKEN, "PORT": str(port)}
        self.stand_in = self._start(words, environment, "/health")

    def start_bare(self) -> str:
        """Start the endpoints to compare with; returns their address."""
        organization_bin, token = next(iter(self.tokens.items()))
        query = {"access_token": ACCESS_TOKEN, "organizationBin": organization_bin, "deviceToken": token}
        port = free_port()
        words = [str(Path(__file__).with_name("bare.py")), str(port)]
        facts = {"BARE": json.dumps({"stand_in": self.stand_in, "query": query}), "PORT": str(port)}
        return self._start(words, facts, "/nothing")

    def forget(self) -> None:
        """Empty the stand-in's ledger, so that it is as quick in every round."""
        httpx.post(f"{self.stand_in}/_reset", trust_env=False).raise_for_status()

    def _start(self, words: Sequence[str], environment: dict[str, str], health: str) -> str:
        own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        log = self.stack.enter_context((self.folder / "log").open("ab"))
        process = subprocess.Popen([sys.executable, *words], cwd=self.folder, env={**own, **environment}, stderr=log)
        self.stack.callback(_stop, process)
        url = f"http://127.0.0.1:{environment['PORT']}"
        self.pids[url] = process.pid
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                if httpx.get(url + health, trust_env=False).is_success:
                    return url
            except httpx.TransportError:
                time.sleep(0.05)
        raise RuntimeError(f"{words[:3]} did not start:\n{(self.folder / 'log').read_text()[-2000:]}")


@contextmanager
def stage() -> Iterator[Stage]:
    """PostgreSQL and the stand-in, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="payment-service-bench-") as name, ExitStack() as stack:
        postgres = EmbeddedPostgres(Path(name) / "postgres")
        stack.callback(postgres.remove)
        postgres.start()
        made = Stage(postgres, stack, Path(name))
        made.start_stand_in()
        yield made


def make_key(settings: Settings, *, shops: Sequence[int] | None = None) -> str:
    """A key that may do everything."""

    async def make() -> str:
        async with open_services(settings) as services:
            return (await services.access.create("benchmark", list(Scope), shops=shops)).key

    return asyncio.run(make())


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as a process reads them."""
    return {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "PRODUCTION_API_URL": settings.production_api_url,
        "KASPI_ACCESS_TOKEN": settings.kaspi_access_token.get_secret_value(),
        "ENCRYPTION_KEYS": ",".join(key.get_secret_value() for key in settings.encryption_keys),
        "LOG_LEVEL": settings.log_level,
        "RATE_LIMITS": "on" if settings.rate_limits else "off",
    }


def shops() -> list[importing.Row]:
    """The seven."""
    return importing.parse(importing.packaged_shops())


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
