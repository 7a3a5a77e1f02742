"""The client's own suite, run by phpunit: what needs no service, and the check that its files run on PHP 7.4."""

import pytest

from tests.e2e.php.site import CLIENT, php_or_skip, run
from tests.support.processes import clean_environment

pytestmark = pytest.mark.xdist_group("php")


async def test_phpunit_is_content() -> None:
    php_or_skip("phpunit")
    environment = clean_environment(CLIENT)
    code, out, err = await run("phpunit", "--no-interaction", cwd=CLIENT, environment=environment)
    assert code == 0, out + err
    assert "OK (" in out


async def test_every_file_is_valid_php() -> None:
    php_or_skip()
    files = sorted(map(str, CLIENT.rglob("*.php")))
    script = 'for file in "$@"; do php -l "$file" >/dev/null || exit 1; done'
    code, out, err = await run("bash", "-c", script, "bash", *files, cwd=CLIENT, environment=clean_environment(CLIENT))
    assert code == 0, out + err
