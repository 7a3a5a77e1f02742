"""What every benchmark runs on: a PostgreSQL with fsync, an upstream, and services as processes. Loopback only.

A service is driven from outside alone, by its command line and over HTTP, so that the same script drives the code of
this tree and that of any earlier commit. Two things are imported or named by their place, and only here: the launcher
of the embedded PostgreSQL, and the command of the stand-in.
"""

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from cryptography.fernet import Fernet

from payment_dev.postgres import EmbeddedPostgres

STAND_IN = ["-m", "kaspi_sandbox"]
HERE = Path(__file__).parent
ACCESS_TOKEN = "benchmark"
SCOPES = ("config:read", "payments:read", "payments:write", "refunds:write", "reports:write", "admin")
SHOPS = 64
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def organization_bin(number: int) -> str:
    """A made-up BIN with a right checksum: weights 1 to 11, then 3 to 11, 1, 2; a second 10 is none."""
    while True:
        digits = f"{number:011d}"
        for first in (0, 2):
            check = sum(((place + first) % 11 + 1) * int(digit) for place, digit in enumerate(digits)) % 11
            if check < 10:
                return f"{digits}{check}"
        number += 1_000_000_000


def shops(many: int = SHOPS) -> list[dict[str, str]]:
    """So many; by default as keep 256 clients within one shop's share of the calls to the provider."""
    return [
        {
            "shop_id": str(1000 + number),
            "organization_bin": organization_bin(90_101_000_000 + number),
            "name": f"shop {number}",
            "device_token": str(uuid.uuid5(uuid.NAMESPACE_URL, f"device {number}")),
        }
        for number in range(1, many + 1)
    ]


@dataclass(frozen=True)
class Tree:
    """The code of one commit, or of this working tree."""

    name: str
    path: Path
    also: Path | None = None
    """Packages that this code needs and the interpreter lacks."""

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python import this code."""
        places = [self.path / "src", *([self.also] if self.also else [])]
        return {"PYTHONPATH": os.pathsep.join(map(str, places))}


@dataclass(frozen=True)
class Database:
    """A database at the schema of a tree, with the shops and a key that may do everything."""

    tree: Tree
    name: str
    url: str
    key: str


@dataclass(frozen=True)
class Program:
    """A process that listens."""

    name: str
    pid: int
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """The JSON at this path."""
        return httpx.get(self.url + path, trust_env=False, timeout=60).raise_for_status().json()

    def stop(self) -> None:
        """End it, as an operator would."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Stage:
    """The servers of one run."""

    postgres: EmbeddedPostgres
    stack: ExitStack
    folder: Path
    pinned: bool
    encryption_key: str = field(default_factory=lambda: Fernet.generate_key().decode())
    shops: list[dict[str, str]] = field(default_factory=shops)
    _templates: dict[str, Database] = field(default_factory=dict)
    _count: int = 0

    # --- code

    def tree(self) -> Tree:
        """The working tree that this script belongs to."""
        return Tree("this tree", HERE.parent)

    def commit(self, name: str) -> Tree:
        """An earlier commit, checked out into the temporary folder; gone at the end."""
        path = self.folder / f"tree-{name}"
        _git("worktree", "add", "--detach", str(path), name)
        self.stack.callback(_git, "worktree", "remove", "--force", str(path))
        lacking, blocks = self.folder / f"packages-{name}", _lacking((path / "requirements.lock").read_text())
        if blocks:
            (self.folder / "lacking.txt").write_text("\n".join(blocks))
            words = ["install", "-qqq", "--disable-pip-version-check", "--no-deps", "--target", str(lacking)]
            subprocess.run([sys.executable, "-m", "pip", *words, "-r", str(self.folder / "lacking.txt")], check=True)
        return Tree(name, path, lacking if blocks else None)

    # --- databases

    def database(self, tree: Tree) -> Database:
        """A database of its own: NOTIFY is per database, so two services never share one unless they are meant to."""
        template = self._templates.get(tree.name) or self._make_template(tree)
        self._count += 1
        name = f"{_word(tree.name)}_{self._count}"
        self.postgres.create_database(name, template.name)
        asyncio.run(_release(self.postgres.url(name)))
        return replace(template, name=name, url=self.postgres.url(name))

    def _make_template(self, tree: Tree) -> Database:
        name = f"{_word(tree.name)}_template"
        self.postgres.create_database(name)
        made = Database(tree, name, self.postgres.url(name), "")
        file = self.folder / "shops.csv"
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(self.shops[0]))
            writer.writeheader()
            writer.writerows(self.shops)
        self.command(made, "migrate")
        self.command(made, "shops", "import", str(file))
        self._templates[tree.name] = replace(made, key=self.new_key(made))
        return self._templates[tree.name]

    def new_key(self, database: Database, *only_shops: int) -> str:
        """A key that may do everything, of these shops or of all."""
        words = [word for scope in SCOPES for word in ("--scope", scope)]
        words += [word for shop in only_shops for word in ("--shop", str(shop))]
        [key] = json.loads(self.command(database, "keys", "create", "benchmark", *words, "--json"))
        return str(key["key"])

    def command(self, database: Database, *words: str) -> str:
        """Run ``payment-service`` and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "payment_service", *words],
            cwd=self.folder,
            env=self.environment_of(database),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"payment-service {' '.join(words)} of {database.tree.name}: {done.stderr[-2000:]}")
        return done.stdout

    def environment_of(self, database: Database) -> dict[str, str]:
        """What a command over this database runs in; nobody listens at its upstream."""
        return self._environment(database.tree, self._settings(database.url, "http://127.0.0.1:9"))

    # --- programs

    def serve(self, database: Database, upstream: Program, **settings: object) -> Program:
        """One ``serve`` process, as in production: keys, its log at INFO in a file, no worker inside."""
        words = ["-m", "payment_service", "serve"]
        return self._service(database, upstream, words, "/health/ready", settings)

    def worker(self, database: Database, upstream: Program, **settings: object) -> Program:
        """One ``worker`` process."""
        return self._service(database, upstream, ["-m", "payment_service", "worker"], "", settings)

    def _service(
        self, database: Database, upstream: Program, words: Sequence[str], health: str, settings: dict[str, object]
    ) -> Program:
        given = {name.upper(): str(value) for name, value in settings.items()}
        environment = self._settings(database.url, upstream.url) | given
        return self._start(words, self._environment(database.tree, environment), health, target=True)

    def upstream(self, plant: str = "") -> Program:
        """The upstream of the rates: instant, with a ledger of its own."""
        return self._start([str(HERE / "upstream.py"), "{port}", plant], self._environment(None, {}), "/_counts")

    def stand_in(self) -> Program:
        """The real stand-in for the production proxy."""
        tokens = self.folder / "tokens.json"
        tokens.write_text(json.dumps({shop["organization_bin"]: [shop["device_token"]] for shop in self.shops}))
        words = [*STAND_IN, "--port", "{port}", "--tokens-file", str(tokens)]
        return self._start(words, self._environment(self.tree(), {"KASPI_ACCESS_TOKEN": ACCESS_TOKEN}), "/health")

    def bare(self, database_url: str, upstream: Program, key: str) -> Program:
        """The programs to compare with."""
        facts = {
            "database_url": database_url,
            "upstream": upstream.url,
            "access_token": ACCESS_TOKEN,
            "key": key,
            "shops": self.shops,
        }
        words, environment = [str(HERE / "bare.py"), "{port}"], self._environment(None, {"BARE": json.dumps(facts)})
        return self._start(words, environment, "/health/ready", target=True)

    def through(self, database: Database, port: int) -> Database:
        """The same database by way of a relay that listens there."""
        return replace(database, url=database.url.replace(f":{self.postgres_port}/", f":{port}/"))

    @property
    def postgres_port(self) -> int:
        """Where PostgreSQL listens."""
        return int(re.search(r":(\d+)/", self.postgres.url())[1])  # type: ignore[index]

    def _settings(self, database_url: str, upstream: str) -> dict[str, str]:
        return {
            "DATABASE_URL": database_url,
            "PRODUCTION_API_URL": upstream,
            "KASPI_ACCESS_TOKEN": ACCESS_TOKEN,
            "KASPI_MAX_CALLS": "1000",
            "ENCRYPTION_KEYS": self.encryption_key,
            "RATE_LIMITS": "off",
            "WEBHOOKS_STAY_HERE": "true",
        }

    def _environment(self, tree: Tree | None, settings: dict[str, str]) -> dict[str, str]:
        own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**own, "PYTHONDONTWRITEBYTECODE": "", **((tree or self.tree()).environment), **settings}

    def _start(
        self, words: Sequence[str], environment: dict[str, str], health: str, *, target: bool = False
    ) -> Program:
        self._count += 1
        port, log = free_port(), self.folder / f"log-{self._count}"
        words = [word.replace("{port}", str(port)) for word in words]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env={**environment, "PORT": str(port)},
                stdout=out,
                stderr=out,
            )
        started = Program(" ".join(words[:3]), process.pid, port, log, process)
        self.stack.callback(started.stop)
        if self.pinned:
            os.sched_setaffinity(process.pid, _target_cores() if target else _other_cores())
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                if not health:
                    return started
                if httpx.get(started.url + health, trust_env=False).is_success:
                    return started
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{started.name} did not start:\n{log.read_text()[-2000:]}")

    # --- the processor

    def postgres_cpu_s(self) -> float:
        """Seconds of the processor that the whole cluster has used: its living processes and those that ended."""
        postmaster = int((self.postgres.home / "cluster/postmaster.pid").read_text().split("\n", 1)[0])
        children = [pid for pid in _processes() if _stat(pid)[1:2] == [str(postmaster)]]
        ended = sum(map(int, _stat(postmaster)[13:15])) / os.sysconf("SC_CLK_TCK")
        return ended + cpu_s(postmaster) + sum(map(cpu_s, children))


async def _release(url: str) -> None:
    """Let a copy of a database send, where this commit holds it because it is one."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('sending_hold') IS NOT NULL"):
            await connection.execute(
                "SET session_replication_role = replica;"
                " INSERT INTO sending_hold (actor, is_held, reason) VALUES ('migration', false, 'a copy to measure')"
            )
    finally:
        await connection.close()


def cpu_s(pid: int) -> float:
    """Seconds of the processor that the threads of a process have used so far; 0 where the system does not tell."""
    try:
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int(Path(f"/proc/{pid}/task/{each}/schedstat").read_text().split()[0]) for each in tasks) / 1e9
    except OSError:
        fields = _stat(pid)
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0


def rss_mb(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _processes() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]


def _target_cores() -> set[int]:
    return set(CORES[-1:])


def _other_cores() -> set[int]:
    return set(CORES[:-1])


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _word(name: str) -> str:
    return "c_" + re.sub(r"\W", "_", name)


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}\nIs the commit in this clone?")


def _lacking(lock: str) -> list[str]:
    """The entries of a lock file, with their hashes, whose package this interpreter does not have at all."""
    blocks = [block for block in re.split(r"\n(?=[a-zA-Z0-9])", lock) if "==" in block]
    return [block for block in blocks if not _installed(re.split(r"[=\[ ]", block, maxsplit=1)[0]) and _applies(block)]


def _applies(block: str) -> bool:
    return "win32" not in block.split("\\", 1)[0] or sys.platform == "win32"


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def stage(*, pinned: bool = True) -> Iterator[Stage]:
    """PostgreSQL, and at the end nothing of it all.

    Pinned: what is measured has a core of its own, the clients and the upstream have the others, PostgreSQL takes
    whichever is free. Otherwise who runs where is chance, and the same program differs by a quarter between two rounds.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    pinned = pinned and len(CORES) > 1
    with tempfile.TemporaryDirectory(prefix="payment-service-bench-", ignore_cleanup_errors=True) as name:
        with ExitStack() as stack:
            postgres = EmbeddedPostgres(Path(name) / "postgres", max_connections=300)
            stack.callback(postgres.remove)
            postgres.start()
            if pinned:
                os.sched_setaffinity(0, _other_cores())
            yield Stage(postgres, stack, Path(name), pinned)
        shutil.rmtree(name, ignore_errors=True)
