"""A real PgBouncer before the PostgreSQL of a test, as its package has it but for addresses and the pool mode."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tests.support.processes import foreign, free_port, is_free

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
"""None where it is not installed."""
STARTS_WITHIN_S: Final = 10


@contextmanager
def pgbouncer(folder: Path, url: str, mode: str, **settings: str) -> Iterator[str]:
    """Run one over the server of ``url``; yields the address of the same database through it."""
    assert PROGRAM, "pgbouncer is not installed"
    folder.mkdir(exist_ok=True)
    server, port = urlsplit(url), free_port()
    user, password = unquote(server.username or ""), unquote(server.password or "")
    (folder / "userlist.txt").write_text(f'"{user}" "{password}"\n')
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "md5",
        "auth_file": str(folder / "userlist.txt"),
        "pool_mode": mode,
        "admin_users": user,
        **({"user": "nobody"} if os.getuid() == 0 else {}),  # it does not run as root
        **settings,
    }
    databases = f"[databases]\n* = host={server.hostname} port={server.port}\n"
    text = databases + "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
    (folder / "pgbouncer.ini").write_text(text)
    log = folder / "pgbouncer.log"
    process = foreign([PROGRAM, str(folder / "pgbouncer.ini")], log)
    try:
        _wait(process, port, log)
        yield server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{port}").geturl()
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(STARTS_WITHIN_S * 50):
        if process.poll() is not None:
            raise RuntimeError(f"pgbouncer ended at its start:\n{log.read_text()}")
        if not is_free(port):
            return
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError("pgbouncer does not listen")
