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


PARSE = (
    "foreach (array_slice($argv, 1) as $n => $file) token_get_all(file_get_contents($file), TOKEN_PARSE); echo $n + 1;"
)


async def test_every_file_is_valid_php() -> None:
    php_or_skip()
    files = sorted(map(str, CLIENT.rglob("*.php")))
    code, out, err = await run("php", "-r", PARSE, "--", *files, cwd=CLIENT, environment=clean_environment(CLIENT))
    assert (code, out) == (0, str(len(files))), out + err


AUTOLOAD = r"""
spl_autoload_register(function (string $name) use ($argv) {
    require $argv[1] . '/' . str_replace('\\', '/', $name) . '.php';
});
foreach (array_slice($argv, 2) as $name) {
    class_exists($name) || interface_exists($name) || exit("no $name\n");
}
echo 'found';
"""


async def test_autoloader_finds_every_class_in_the_file_of_its_name() -> None:
    """As Bitrix sites have one, which ends a page with a fatal error when a file holds another class."""
    php_or_skip()
    files = sorted((CLIENT / "Integration").glob("*/[A-Z]*.php"))
    names = [f"Integration\\{path.parent.name}\\{path.stem}" for path in files]
    assert len(names) > 20
    environment = clean_environment(CLIENT)
    folder = str(CLIENT)
    code, out, err = await run("php", "-r", AUTOLOAD, "--", folder, *names, cwd=CLIENT, environment=environment)
    assert (code, out) == (0, "found"), out + err
