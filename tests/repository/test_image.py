"""What the Dockerfile installs, installed by its own lines, and run as the image runs: read-only, as an ordinary user.

No container: the build stage's commands run here in another folder. As root, the programs get a file system of which
every part is read-only; as anybody else, a tree that nobody may write to.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from payment_dev.licences import locked
from tests.repository.test_deploy import BUILD, COPIED, FINAL
from tests.repository.test_supply import ROOT, make
from tests.support.database import Server
from tests.support.processes import free_port
from tests.support.rig import PAYS_AT_ONCE, Rig
from tests.support.waiting import until

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600), pytest.mark.xdist_group("image")]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
IS_ROOT = os.geteuid() == 0
READ_ONLY = """\
for mount in $(findmnt --raw --noheadings --output TARGET); do
    case $mount in
    /proc | /proc/* | /sys | /sys/* | /dev | /dev/*) ;;
    *) mount --options remount,bind,ro "$mount" || exit 9 ;;
    esac
done
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs "$@"
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """The folder in which the build stage has made its /opt/venv; /app beside it is empty. Nobody may write there."""
    root = Path(tempfile.mkdtemp(prefix="payment-service-image-")).resolve()
    try:
        root.chmod(0o755)
        for name in ("build", "opt", "dist", "app"):
            (root / name).mkdir()
        for name in COPIED:
            (root / "build" / name).symlink_to(ROOT / name)
        for command in re.findall(r"^RUN ((?:.*\\\n)*.*)$", BUILD, re.MULTILINE):
            _build(re.sub(r"(?<![\w.])/(opt|dist)\b", rf"{root}/\1", command), root / "build")
        for name in ("build", "dist", "opt/tools"):
            shutil.rmtree(root / name)
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        yield root
    finally:
        for path in [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]:
            path.chmod(0o755)
        shutil.rmtree(root)


def _build(command: str, folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def started(image: Path, words: list[str], settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in the tree, as the final stage would with these settings."""
    (line,) = re.findall(r"^ENV (.+)$", FINAL, re.MULTILINE)
    environment = dict(word.split("=", 1) for word in line.split()) | settings
    environment |= {"PATH": f"{image}/opt/venv/bin:/usr/bin:/bin", "HOME": f"{image}/app", "HOST": "127.0.0.1"}
    inside = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"] if IS_ROOT else []
    with log.open("wb") as out:
        return subprocess.Popen(
            [*inside, f"{image}/opt/venv/bin/{words[0]}", *words[1:]],
            env=environment,
            cwd=image / "app",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def picture(image: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in the tree: its size, and when its content and its entry were last changed."""
    found = ((path, path.lstat()) for path in image.rglob("*"))
    return {str(path): (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found}


def test_tree_holds_what_is_locked_and_the_service_and_cannot_install(image: Path) -> None:
    metadata = image.glob("opt/venv/lib/python*/site-packages/*.dist-info/METADATA")
    names = [re.findall(r"^Name: (.+)$", file.read_text("utf-8"), re.MULTILINE)[0] for file in metadata]
    assert sorted(re.sub(r"[-_.]+", "-", name).lower() for name in names) == sorted([*locked(LOCK), "payment-service"])
    assert not list(image.glob("opt/venv/bin/pip*"))


def test_bytecode_is_made_when_the_image_is_built(image: Path) -> None:
    (package,) = image.glob("opt/venv/lib/python*/site-packages/payment_service")
    for source in package.rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"))


def test_nobody_can_write_where_the_programs_run(image: Path, tmp_path: Path) -> None:
    code = "import os, sys; print(os.geteuid()); open(sys.argv[1], 'w')"
    for place in (image / "app", image / "opt/venv", *([Path("/tmp")] if IS_ROOT else [])):
        log = tmp_path / "log"
        refused = started(image, ["python", "-c", code, f"{place}/written"], {}, log)
        assert refused.wait(30) == 1
        assert re.search(r"Read-only file system|Permission denied", log.read_text())
        assert not log.read_text().startswith("0\n")


async def test_programs_migrate_serve_and_follow_a_payment_and_write_nothing(
    image: Path, server: Server, tmp_path: Path, worker_id: str
) -> None:
    before = picture(image)
    url = await server.make(f"image_{worker_id}", empty=True)
    rig = Rig(tmp_path, url)
    migrating = started(image, ["payment-service", "migrate"], rig.environment(), tmp_path / "migrate.log")
    assert migrating.wait(120) == 0, (tmp_path / "migrate.log").read_text()

    async with rig:
        port = free_port()
        settings = {**rig.environment(), "PORT": str(port)}
        serve, worker = (
            started(image, ["payment-service", name], settings, tmp_path / f"{name}.log")
            for name in ("serve", "worker")
        )
        try:
            api = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {rig.key}"})
            rig.clients = [api]

            async def ready() -> bool:
                assert serve.poll() is None, (tmp_path / "serve.log").read_text()
                try:
                    return (await api.get("/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            async with api:
                await until(ready, "the installed service is ready", within_s=60)
                await rig.route_all()
                word = rig.word()
                made = (await rig.create(phone=PAYS_AT_ONCE, message=word)).raise_for_status().json()
                await rig.in_state(made["id"], "paid", within_s=60)  # the worker has asked: nobody else does
                assert len(await rig.applied(word)) == 1
                assert health(image, settings, tmp_path).wait(30) == 0
        finally:
            for process in (serve, worker):
                process.terminate()
            codes = [process.wait(60) for process in (serve, worker)]
        assert codes == [0, 0], (tmp_path / "serve.log").read_text() + (tmp_path / "worker.log").read_text()
        assert health(image, settings, tmp_path).wait(30) != 0
    for name in ("migrate", "serve", "worker"):
        written = (tmp_path / f"{name}.log").read_text()
        assert not re.search(r"Traceback|Read-only|Permission denied", written), written
    assert picture(image) == before


def health(image: Path, settings: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """The health check of the Dockerfile."""
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[(?:.|\\\n)+?\])$", FINAL, re.MULTILINE)
    words = json.loads(command.replace("\\\n", ""))
    return started(image, words, settings, folder / "health.log")


def test_sbom_lists_each_package_with_its_version_and_licence_and_is_the_same_twice(
    image: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        done = make("sbom-of", f"SBOM={file}", f"RUNTIME={image}/opt/venv")
        assert done.returncode == 0, done.stderr
    content = json.loads(files[0].read_text())
    assert content["bomFormat"] == "CycloneDX"
    assert content["metadata"]["component"]["name"] == "payment-service"
    parts = {part["purl"].partition("@")[0].removeprefix("pkg:pypi/"): part for part in content["components"]}
    assert {name: part["version"] for name, part in parts.items()} == locked(LOCK)
    assert all(part["licenses"] for part in parts.values())
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path) not in files[0].read_text()
    assert str(image) not in files[0].read_text()
