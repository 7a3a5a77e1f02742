"""install.sh of the Bitrix client: what it changes in a site, what it refuses, and how it goes back."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.php.site import CLIENT, php_or_skip, run
from tests.support.processes import clean_environment

OLD = "<?php // the site's own client\n"
KASPI = Path("local/classes/Integration/Kaspi")
HANDLER = Path("local/php_interface/include/sale_payment/cvetykaspi")


class Place:
    """A site's folder, and a copy of the client to install from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.www = folder / "www"
        self.source = folder / "copy"
        (self.www / "bitrix").mkdir(parents=True)
        (self.www / KASPI).mkdir(parents=True)
        (self.www / KASPI / "ApiClient.php").write_text(OLD)
        (self.www / KASPI / "ApiClient.php").chmod(0o640)
        (self.www / KASPI / "A file of ours.php").write_text(OLD)
        shutil.copytree(CLIENT, self.source, ignore=shutil.ignore_patterns("tests"))

    def install(self, *words: str) -> tuple[int, str]:
        """Run it; the exit code and everything that it said."""
        command = ["sh", str(self.source / "install.sh"), *words, str(self.www)]
        environment = clean_environment(self.folder)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def now(self) -> dict[str, tuple[int, str]]:
        """Every file and folder of the site: its mode, and what is in it."""
        return {
            str(path.relative_to(self.www)): (
                path.stat().st_mode,
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            )
            for path in sorted(self.www.rglob("*"))
        }

    def write(self, path: str, text: str) -> None:
        (self.source / path).write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_unknown_file_is_named_and_nothing_is_changed(place: Place) -> None:
    before = place.now()
    code, said = place.install()
    assert (code, str(KASPI / "ApiClient.php") in said, "A file of ours" in said) == (3, True, False)
    assert place.now() == before


def test_rollback_brings_back_every_byte(place: Place) -> None:
    before = place.now()
    assert place.install("--check", "--replace")[0] == 0
    assert place.now() == before
    assert place.install("--replace")[0] == 0
    installed = place.now()
    assert (place.www / KASPI / "ApiClient.php").read_bytes() == (
        CLIENT / "Integration/Kaspi/ApiClient.php"
    ).read_bytes()
    assert (place.www / KASPI / "A file of ours.php").read_text() == OLD
    assert (place.www / HANDLER / "handler.php").exists()
    # Again: there is nothing to do, and the way back is still to before the first time.
    code, said = place.install()
    assert (code, "nothing to do" in said) == (0, True)
    assert place.now() == installed
    assert place.install("--rollback")[0] == 0
    assert place.now() == before
    assert place.install("--rollback")[0] == 2


@pytest.mark.thorough
def test_upgrade_goes_back_one_step_at_a_time(place: Place) -> None:
    before = place.now()
    place.install("--replace")
    first = place.now()
    (place.source / "Integration/PaymentService/Pause.php").unlink()
    place.write("Integration/PaymentService/Amount.php", "<?php // newer\n")
    place.write("Integration/PaymentService/More.php", "<?php // new\n")
    code, said = place.install()
    assert code == 0, said
    second = place.now()
    assert f"{KASPI.parent}/PaymentService/Pause.php" not in second
    assert f"{KASPI.parent}/PaymentService/More.php" in second
    place.install("--rollback")
    assert place.now() == first
    place.install("--rollback")
    assert place.now() == before


@pytest.mark.thorough
def test_file_that_was_changed_by_hand_is_not_overwritten_in_either_direction(place: Place) -> None:
    place.install("--replace")
    page = place.www / HANDLER / "template" / "form.php"
    page.write_text("<?php // changed by hand\n")
    changed = place.now()
    place.write("sale_payment/cvetykaspi/template/form.php", "<?php // newer\n")
    for words in ((), ("--rollback",)):
        code, said = place.install(*words)
        assert (code, "template/form.php" in said) == (3, True)
        assert place.now() == changed
    assert place.install("--replace")[0] == 0
    assert page.read_text() == "<?php // newer\n"
    place.install("--rollback")
    assert place.now() == changed


def test_run_that_was_cut_off_in_the_middle_loses_nothing(place: Place) -> None:
    before = place.now()
    (place.www / KASPI).rename(place.www / f"{KASPI}.payment-service-old")
    assert place.install("--check")[0] == 3
    assert place.now() == before


@pytest.mark.parametrize("link", [str(KASPI / "ApiClient.php"), "local/payment-events.php"])
def test_link_is_not_followed(place: Place, link: str) -> None:
    elsewhere = place.folder / "elsewhere.php"
    elsewhere.write_text(OLD)
    (place.www / link).unlink(missing_ok=True)
    (place.www / link).symlink_to(elsewhere)
    assert place.install("--replace")[0] == 3
    assert elsewhere.read_text() == OLD


@pytest.mark.thorough
def test_folder_that_is_no_site_and_copies_that_everybody_reads_are_refused(place: Place) -> None:
    shutil.rmtree(place.www / "bitrix")
    assert place.install()[0] == 2
    (place.www / "bitrix").mkdir()
    command = ["sh", str(place.source / "install.sh"), str(place.www), str(place.www / "own")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, (place.www / "own").exists()) == (2, False)
    place.install("--replace")
    copies = place.folder / "kaspi_payment_service" / "install" / "copies"
    assert {path.stat().st_mode & 0o077 for path in copies.rglob("*")} == {0}


@pytest.mark.thorough
async def test_archive_holds_what_is_installed(tmp_path: Path) -> None:
    php_or_skip()
    archive = tmp_path / "bitrix.tar.gz"
    environment = clean_environment(tmp_path)
    repository = CLIENT.parents[1]
    code, out, err = await run("make", "-s", "bitrix", f"BITRIX={archive}", cwd=repository, environment=environment)
    assert code == 0, out + err
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (tmp_path / "www" / "bitrix").mkdir(parents=True)
    script = tmp_path / "unpacked" / "payment-service-bitrix" / "install.sh"
    code, out, err = await run("sh", str(script), str(tmp_path / "www"), cwd=tmp_path, environment=environment)
    assert code == 0, out + err
    assert (tmp_path / "www" / HANDLER / "lang" / "kk" / "handler.php").exists()
    assert not list((tmp_path / "unpacked").rglob("tests"))
