"""``docs/events.md`` says the truth: every event has an example, of the shape in which it is sent; receivers verify."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from payment_service.access.service import FULL_ACCESS
from payment_service.events.outbox import EventType
from payment_service.payments import views as payments_shown
from payment_service.refunds import views as refunds_shown
from payment_service.services import Services
from payment_service.webhooks import endpoints
from payment_service.webhooks.delivery import signed
from tests.events.webhooks import URL

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
BLOCKS = re.findall(r"### ([a-z_.]+)\n.*?```json\n(.*?)```", DOCUMENT[DOCUMENT.index("## Every event") :], re.DOTALL)
EXAMPLES: dict[str, dict[str, Any]] = {title: json.loads(text) for title, text in BLOCKS}


class _Anything(SimpleNamespace):
    """A row of which every column is there."""

    def __getattr__(self, name: str) -> Any:
        return {"amount": 1, "refunded_amount": 0, "state": "paid"}.get(name)


PAYMENT = set(payments_shown.line(_Anything()))  # type: ignore[arg-type] # only its columns are read
REFUND = set(refunds_shown.line(_Anything()))  # type: ignore[arg-type] # as above


def test_every_event_has_its_example() -> None:
    assert set(EXAMPLES) == set(EventType)
    assert {title: example["type"] for title, example in EXAMPLES.items()} == {kind: kind for kind in EventType}


@pytest.mark.parametrize("kind", EventType)
def test_example_has_the_shape_in_which_it_is_sent(kind: str) -> None:
    example = EXAMPLES[kind]
    assert list(example) == ["id", "type", "timestamp", "version", "data"]
    data = example["data"]
    match kind.partition(".")[0]:
        case "payment":
            assert set(data) == PAYMENT
            assert data["version"] == example["version"]
        case "refund":
            assert set(data) == REFUND | {"payment"}
            assert set(data["payment"]) == PAYMENT
            assert data["version"] == example["version"]


@pytest.mark.parametrize("kind", ["endpoint.disabled", "endpoint.recovered", "test"])
async def test_example_of_an_endpoint_shows_what_get_shows(
    kind: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fine(_url: str) -> None:
        """Any URL."""

    monkeypatch.setattr(services.endpoints.outbound, "check_host", fine)
    made = await services.endpoints.add(FULL_ACCESS, {"url": URL})
    assert set(EXAMPLES[kind]["data"]) == set(services.endpoints.shown(made.endpoint))


def test_signature_is_what_the_document_says() -> None:
    secret = endpoints._new_secret()
    headers = signed("the-id", '{"цветы": 1}', [endpoints._new_secret(), secret], datetime.now(UTC))
    assert Webhook(secret).verify('{"цветы": 1}', headers) == {"цветы": 1}
