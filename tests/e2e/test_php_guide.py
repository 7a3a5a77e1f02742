"""docs/bitrix.md, followed to the letter on a scratch folder tree: deploy, check, go back."""

import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.php.site import CLIENT, php_or_skip, run
from tests.support.processes import clean_environment
from tests.support.rig import Rig
from tests.support.shops import SHOPS, device_token_of

pytestmark = pytest.mark.xdist_group("php")

REPOSITORY = CLIENT.parents[1]
GUIDE = (REPOSITORY / "docs" / "bitrix.md").read_text("utf-8")
PAYMENT_SERVICE = CLIENT / "Integration" / "PaymentService"
OLD_CODE = "<?php // the site's own client\n"


def steps(begin: str, end: str) -> str:
    """The commands of a part of the guide, as one script."""
    part = GUIDE[GUIDE.index(begin) : GUIDE.index(end)]
    return "\n".join(["set -euo pipefail", *re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE)])


@pytest.mark.thorough
async def test_guide_deploys_and_goes_back(rig: Rig, tmp_path: Path) -> None:
    php_or_skip()
    www = tmp_path / "www"
    classes = www / "local" / "classes" / "Integration"
    shutil.copytree(CLIENT / "tests" / "bitrix", www / "bitrix")
    (classes / "Kaspi").mkdir(parents=True)
    (classes / "Kaspi" / "ApiClient.php").write_text(OLD_CODE)
    (classes / "Kaspi" / "Own.php").write_text(OLD_CODE)
    copy = tmp_path / "copy"
    shutil.copytree(CLIENT, copy / "clients" / "php")
    (copy / "shops.php").write_text(rig.run("shops", "export", "--format", "php", "--with-tokens").stdout)
    key = rig.make_key("bitrix-guide", "config:read", "secrets:read", "reports:write")
    own = tmp_path / "own"
    environment = clean_environment(tmp_path, WWW=str(www), OWN=str(own), URL=rig.services[0].url)

    script = steps("## Steps of an administrator", "## Going back")
    code, out, err = await run("bash", "-c", script, cwd=copy, environment=environment, text=key + "\n")
    assert code == 0, out + err
    assert all(f"shop {shop_id}: BIN {organization_bin}" in out for shop_id, organization_bin in SHOPS.items())
    assert (classes / "Kaspi" / "ApiClient.php").read_text() != OLD_CODE
    assert (classes / "Kaspi" / "Own.php").read_text() == OLD_CODE
    assert (www / "local/php_interface/include/sale_payment/cvetykaspi/handler.php").exists()
    assert ((own / "shops.php").stat().st_mode & 0o777, own.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not [secret for secret in (key, *map(device_token_of, SHOPS)) if secret in out + err]

    where = steps("### 1. Where", "### 2. On the service's")
    back = steps("## Going back", "## How a buyer pays")
    code, out, err = await run("bash", "-c", f"{where}\n{back}", cwd=copy, environment=environment)
    assert code == 0, out + err
    assert "0 waiting, 0 refused" in out
    assert (classes / "Kaspi" / "ApiClient.php").read_text() == OLD_CODE
    assert not (classes / "PaymentService").exists()
    assert not (www / "local" / "php_interface").exists()


def test_guide_knows_every_setting_count_and_kind_of_exception() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (CLIENT / "Integration").glob("*/*.php"))
    kinds = re.findall(r"^class (\w+) extends PaymentServiceException", code, re.MULTILINE)
    events = re.findall(r"->error\(\s*'([a-z_.]+\.[a-z_]+)'", code)
    assert (len(kinds), len(set(events)) > 5) == (6, True)
    words = re.findall(r"const [A-Z_]+ = '([a-z]+_[a-z_]+)';", (PAYMENT_SERVICE / "OrderAccess.php").read_text("utf-8"))
    commands = re.findall(r"case '(\w+)':", (PAYMENT_SERVICE / "console.php").read_text("utf-8"))
    assert (len(words), len(commands)) == (7, 10)
    assert not [word for word in {*kinds, *events, *words} if word not in GUIDE]
    assert not [command for command in commands if not re.search(rf"(\$CONSOLE|console.php) {command}\b", GUIDE)]
