import pytest

from tests.support.certificates import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority("Tests")


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def of_both(request: pytest.FixtureRequest, authority: Authority) -> Authority | None:
    """An authority for a server with TLS, and none for one without."""
    return authority if request.param else None
