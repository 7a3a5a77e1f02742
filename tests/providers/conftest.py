from collections.abc import AsyncIterator, Iterator
from io import StringIO

import pytest

from payment_service.providers.kaspi.client import KaspiClient
from tests.support.logs import production_logs
from tests.support.proxy import RawProxy, answers, raw_proxy
from tests.support.verbs import SECRETS, client_of


@pytest.fixture
def told() -> Iterator[StringIO]:
    """Everything that was logged, down to DEBUG. No secret may be in it when the test ends."""
    with production_logs() as lines:
        yield lines
        assert [secret for secret in SECRETS if secret in lines.getvalue()] == []


@pytest.fixture(scope="module")
async def lasting_proxy() -> AsyncIterator[RawProxy]:
    async with raw_proxy(answers(b"")) as proxy:
        yield proxy


@pytest.fixture
async def proxy(lasting_proxy: RawProxy) -> RawProxy:
    lasting_proxy.begin(answers(b""))
    return lasting_proxy


@pytest.fixture(scope="module")
async def kaspi(lasting_proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    """One client for all tests of a module, as in production: what one call leaves behind, the next would feel."""
    kaspi = client_of(lasting_proxy.url)
    yield kaspi
    await kaspi.close()


@pytest.fixture(scope="module")
async def hasty(lasting_proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    """A client that soon gives up."""
    hasty = client_of(lasting_proxy.url, deadline_s=0.5)
    yield hasty
    await hasty.close()
