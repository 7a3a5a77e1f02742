"""What a deployment is made of says the truth: the wheel, the Dockerfile, Railway's files, `.env.example`."""

import re
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main

from payment_service.cli import app
from payment_service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
RAILWAY = [ROOT / "railway.toml", ROOT / "railway.worker.toml"]
# docs.railway.com/config-as-code/reference
RAILWAY_KEYS = {
    "builder", "dockerfilePath", "watchPatterns", "startCommand", "preDeployCommand", "healthcheckPath",
    "healthcheckTimeout", "restartPolicyType", "restartPolicyMaxRetries", "overlapSeconds", "drainingSeconds",
}  # fmt: skip


# --- .env.example

LINES = re.findall(r"^(# )?([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)
EXPLAINED = {name.lower(): value for _, name, value in LINES}
REQUIRED = {name for name, field in Settings.model_fields.items() if field.is_required()}


def test_every_setting_is_explained_and_every_explained_setting_exists() -> None:
    assert sorted(name.lower() for _, name, _ in LINES) == sorted(Settings.model_fields)


def test_only_required_settings_are_not_commented_out() -> None:
    assert {name.lower() for commented, name, _ in LINES if not commented} == REQUIRED


def test_every_setting_has_words_of_its_own() -> None:
    lines = EXAMPLE.splitlines()
    settings = [bool(re.match(r"(# )?[A-Z][A-Z0-9_]+=", line)) for line in lines]
    for number, is_setting in enumerate(settings):
        assert not is_setting or (lines[number - 1].startswith("# ") and not settings[number - 1]), lines[number]


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings) -> Settings:
    """The settings that `.env.example` makes with every line in force, and the secrets filled in."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    secret = {name: _plain(getattr(settings, name)) for name in ("kaspi_access_token", "encryption_keys")}
    file = tmp_path / ".env"
    file.write_text("\n".join(f"{name.upper()}={secret.get(name, value)}" for name, value in EXPLAINED.items()))
    return Settings(_env_file=file)


def _plain(value: Any) -> str:
    return ",".join(map(_plain, value)) if isinstance(value, list) else str(value.get_secret_value())


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - REQUIRED - {"docs_enabled"}))
def test_commented_lines_show_the_defaults(name: str, as_written: Settings) -> None:
    assert getattr(as_written, name) == Settings.model_fields[name].default


def test_docs_are_off_as_written(as_written: Settings) -> None:
    assert not as_written.serves_docs


@pytest.mark.parametrize(
    "name", ["KASPI_ACCESS_TOKEN", "ENCRYPTION_KEYS", "METRICS_TOKEN", "TELEGRAM_BOT_TOKEN", "SMTP_URL"]
)
def test_no_secret_is_in_the_example(name: str) -> None:
    assert EXPLAINED[name.lower()] == ""


# --- Dockerfile

BUILD, FINAL = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    for source in line.split()[:-1]
]  # fmt: skip


@pytest.mark.parametrize("source", COPIED)
def test_what_the_dockerfile_copies_exists_and_is_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert source in kept


def test_build_context_holds_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(COPIED)
    assert any(fnmatch("src/__pycache__", line) for line in lines[1:])


def test_stages_are_slim_images_of_one_pinned_python() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]
    (image,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", image)


def test_dependencies_are_installed_by_their_hashes_and_nothing_is_compiled() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install (.+)", BUILD)
    assert len(installs) == 3
    assert all("--require-hashes --only-binary :all:" in one for one in installs[:2])
    assert "--no-deps --no-index" in installs[2]


def test_final_stage_runs_as_another_user_and_cannot_install() -> None:
    assert re.findall(r"^USER (.+)$", FINAL, re.MULTILINE) == ["10001"]
    assert not re.search(r"pip install|apt-get", FINAL)
    assert "pip uninstall" in FINAL


def test_image_listens_to_the_outside_and_checks_its_health() -> None:
    assert "HOST=0.0.0.0" in FINAL
    assert re.search(r"^HEALTHCHECK .*\\\n.*/health'", FINAL, re.MULTILINE)
    assert 'ENTRYPOINT ["payment-service"]\nCMD ["serve"]' in FINAL


def test_tools_of_the_wheel_are_all_in_the_lock_file() -> None:
    pattern = re.search(r"awk '(.+)'", BUILD)
    assert pattern
    lock = (ROOT / "requirements-dev.lock").read_text()
    picked = subprocess.run(["awk", pattern[1]], input=lock, capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^([a-z-]+)==", picked, re.MULTILINE))
    assert names == {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
    assert picked.count("--hash=sha256:") >= len(names)


# --- Railway


def _commands() -> set[str]:
    group: Any = typer.main.get_command(app)
    return set(group.commands)


@pytest.mark.parametrize("file", RAILWAY, ids=lambda file: file.name)
def test_railway_file_has_only_keys_that_railway_knows(file: Path) -> None:
    content = tomllib.loads(file.read_text())
    assert set(content) == {"build", "deploy"}
    assert {key for section in content.values() for key in section} <= RAILWAY_KEYS
    assert content["deploy"]["restartPolicyType"] in {"ON_FAILURE", "ALWAYS", "NEVER"}
    assert (ROOT / content["build"]["dockerfilePath"]).is_file()


@pytest.mark.parametrize("file", RAILWAY, ids=lambda file: file.name)
def test_railway_file_names_real_commands(file: Path) -> None:
    deploy = tomllib.loads(file.read_text())["deploy"]
    for line in [deploy["startCommand"], *deploy.get("preDeployCommand", [])]:
        program, command = line.split()
        assert program == "payment-service"
        assert command in _commands()


def test_railway_migrates_before_it_serves_and_waits_until_ready() -> None:
    deploy = tomllib.loads(RAILWAY[0].read_text())["deploy"]
    assert deploy["preDeployCommand"] == ["payment-service migrate"]
    assert deploy["healthcheckPath"] == "/health/ready"


@pytest.mark.parametrize("file", RAILWAY, ids=lambda file: file.name)
def test_railway_kills_only_after_the_grace_is_over(file: Path) -> None:
    assert (
        tomllib.loads(file.read_text())["deploy"]["drainingSeconds"] > Settings.model_fields["shutdown_grace_s"].default
    )


# --- the wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what the Dockerfile copies and unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in COPIED:
        (source / name).symlink_to(ROOT / name)
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(folder / done.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


def test_installed_wheel_finds_its_own_migrations(unpacked: Path, tmp_path: Path) -> None:
    ask = "from payment_service.postgres.schema import head, migrations; print(migrations()); print(head())"
    alone = {"PYTHONPATH": str(unpacked)}
    answer = subprocess.check_output([sys.executable, "-c", ask], cwd=tmp_path, env=alone, text=True)
    where, head = answer.split()
    assert Path(where) == unpacked / "payment_service" / "_migrations"
    assert (Path(where) / "versions").is_dir()
    assert max(Path(where, "versions").glob("*.py")).name.startswith(head)


@pytest.mark.parametrize(
    "name",
    [
        "routing/shops.csv",
        "_migrations/versions/0001_queue.sql",
        "console/locale/ru.po",
        "console/static/htmx.min.js",
        "console/templates/base.html",
    ],
)
def test_wheel_carries_its_data(name: str, unpacked: Path) -> None:
    assert (unpacked / "payment_service" / name).is_file()


def test_wheel_carries_nothing_but_the_package(unpacked: Path) -> None:
    assert {each.name for each in unpacked.iterdir() if not each.name.endswith(".dist-info")} == {"payment_service"}
