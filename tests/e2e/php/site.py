"""A shop's site in a scratch folder: the client's files copied to where Bitrix keeps them, and PHP that runs them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import clean_environment, free_port, is_free
from tests.support.waiting import until

CLIENT = Path(__file__).parents[3] / "clients" / "php"
DRIVER = Path(__file__).with_name("call.php")
MODULE = "onelab.kaspipay"


def php_or_skip(*programs: str) -> None:
    """Skip the test when PHP is not installed; in CI that is a failure."""
    missing = [program for program in ("php", *programs) if shutil.which(program) is None]
    if not missing:
        return
    reason = (
        f"{' and '.join(missing)} not installed (Debian: apt-get install php-cli php-curl php-xml php-mbstring phpunit)"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Threw:
    """An exception of the client."""

    kind: str
    message: str
    code: str = ""
    provider_code: str = ""
    id: str = ""


@dataclass
class Site:
    """One site. ``folder/www`` is what its web server shows; the client's own folder lies beside it."""

    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    """Of the Bitrix module."""

    def __post_init__(self) -> None:
        shutil.copytree(CLIENT / "Integration", self.integration)
        shutil.copytree(CLIENT / "sale_payment", self.www / "local" / "php_interface" / "include" / "sale_payment")
        shutil.copytree(CLIENT / "tests" / "bitrix", self.www / "bitrix")
        self.options = {"payment_service_folder": str(self.own), **self.options}

    @property
    def www(self) -> Path:
        return self.folder / "www"

    @property
    def integration(self) -> Path:
        return self.www / "local" / "classes" / "Integration"

    @property
    def own(self) -> Path:
        """The client's own folder."""
        return self.folder / "kaspi_payment_service"

    @property
    def log(self) -> str:
        path = self.own / "kaspi_payment_service.log"
        return path.read_text("utf-8") if path.exists() else ""

    @property
    def counts(self) -> dict[str, int]:
        """What happened how often today."""
        path = self.own / "counts.json"
        days: dict[str, dict[str, int]] = json.loads(path.read_text()) if path.exists() else {}
        return {what: number for day in days.values() for what, number in day.items()}

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The reports that the journal keeps, oldest first."""
        return [json.loads(path.read_text())["report"] for path in sorted((self.own / "journal").glob("*.json"))]

    def orders(self, change: dict[str, Any] | None = None) -> dict[str, Any]:
        """The orders of the shop; ``change`` replaces them."""
        if change is not None:
            (self.www / "bitrix" / "orders.json").write_text(json.dumps(change))
        found: dict[str, Any] = self.kept("orders")
        return found

    def kept(self, name: str) -> Any:
        """What the doubles of Bitrix keep under a name; an empty list when there is nothing."""
        path = self.www / "bitrix" / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else []

    def save_options(self) -> None:
        (self.www / "bitrix" / "options.json").write_text(json.dumps({MODULE: self.options}))

    async def client(self, *calls: tuple[str, Sequence[Any]], **options: Any) -> list[Any]:
        """Calls of ``PaymentService\\Client``; what each returned, or the ``Threw`` that it threw."""
        params = {
            "url": options.pop("url", self.options["payment_service_url"]),
            "key": options.pop("key", self.options.get("payment_service_key")),
        }
        return await self._call("Client", params, calls, **options)

    async def kaspi(self, *calls: tuple[str, Sequence[Any]], **options: Any) -> list[Any]:
        """Calls of ``Kaspi\\ApiClient``, set by the options of the module."""
        return await self._call("ApiClient", {}, calls, **options)

    async def _call(
        self, name: str, params: dict[str, Any], calls: Sequence[tuple[str, Sequence[Any]]], **options: Any
    ) -> list[Any]:
        asked = {
            "class": name,
            "params": params,
            "calls": calls,
            "debug": options.pop("debug", False),
            "globals": options.pop("context", {}),
            "get": options.pop("get", {}),
            "server": options.pop("server", {}),
            "clock_ahead_s": options.pop("clock_ahead_s", 0),
            "options": {"folder": str(self.own), **options},
        }
        code, out, err = await self.php(str(DRIVER), text=json.dumps(asked))
        assert code == 0, out + err
        return [said["returned"] if "returned" in said else _threw(said) for said in json.loads(out)]

    @contextlib.asynccontextmanager
    async def web_server(self) -> AsyncIterator[str]:
        """PHP's own web server before ``folder/www``; yields its address."""
        self.save_options()
        port = free_port()
        with (self.folder / "web-server.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("php", "-S", f"127.0.0.1:{port}", "-t", str(self.www)),
                cwd=self.folder,
                env=clean_environment(self.folder, PHP_CLI_SERVER_WORKERS="4"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        async def listens() -> bool:
            return not is_free(port)

        try:
            await until(listens, "PHP's web server listens")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # with its workers
            await process.wait()

    async def php(self, *words: str, text: str = "") -> tuple[int, str, str]:
        """Run PHP to its end: exit code, standard output, standard error."""
        self.save_options()
        environment = clean_environment(self.folder, DOCUMENT_ROOT=str(self.www))
        return await run(
            "php", "-d", "display_errors=stderr", *words, cwd=self.folder, environment=environment, text=text
        )


async def run(*words: str, cwd: Path, environment: dict[str, str], text: str = "") -> tuple[int, str, str]:
    """Run a program to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), err.decode()


def _threw(said: dict[str, Any]) -> Threw:
    kind = said.pop("threw")
    return Threw(kind, **said)
