"""``docs/events.md`` says the truth: every event has an example, of the shape in which it is sent; receivers verify."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from payment_service.access.service import FULL_ACCESS
from payment_service.events.outbox import EventType
from payment_service.payments import lifecycle as payment_lifecycle
from payment_service.payments.views import PaymentLine
from payment_service.providers.interface import Unknown
from payment_service.providers.kaspi.mapping import NO_MONEY_MOVED
from payment_service.refunds import lifecycle as refund_lifecycle
from payment_service.refunds.views import RefundLine
from payment_service.services import Services
from payment_service.webhooks import endpoints
from payment_service.webhooks.delivery import signed
from tests.e2e.php.site import php_or_skip, run
from tests.events.webhooks import URL
from tests.support.processes import clean_environment

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
BLOCKS = re.findall(r"### ([a-z_.]+)\n.*?```json\n(.*?)```", DOCUMENT[DOCUMENT.index("## Every event") :], re.DOTALL)
EXAMPLES: dict[str, dict[str, Any]] = {title: json.loads(text) for title, text in BLOCKS}
PAYMENT = set(PaymentLine.model_fields)
REFUND = set(RefundLine.model_fields)


def _code_of(language: str) -> str:
    """The receiver that the document shows in a language."""
    [code] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(code)


class Payments(dict[str, dict[str, Any]]):
    """What the receiver of a test keeps: one row for each payment, the newest version of it."""

    async def keep_if_newer(self, id_: str, payment: dict[str, Any]) -> None:
        if id_ not in self or self[id_]["version"] < payment["version"]:
            self[id_] = payment


class Orders:
    """The orders of a test: which were looked at."""

    def __init__(self) -> None:
        self.looked_at: list[tuple[int, str]] = []

    async def look_whether_paid(self, shop_id: int, order_id: str) -> None:
        self.looked_at.append((shop_id, order_id))


async def test_receiver_in_python_takes_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = endpoints._new_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    code: dict[str, Any] = {"payments": Payments(), "orders": Orders()}
    exec(_code_of("python"), code)
    transport = httpx.ASGITransport(code["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as sender:
        for example in EXAMPLES.values():
            body = json.dumps(example)
            headers = signed(example["id"], body, [secret], datetime.now(UTC))
            answer = await sender.post("/webhook", content=body, headers=headers)
            assert (answer.status_code, answer.text) == (204, ""), example["type"]
        forged = await sender.post("/webhook", content="{}", headers=signed("id", "[]", [secret], datetime.now(UTC)))
        assert forged.status_code == 401
    assert set(code["orders"].looked_at) == {(121038, "12345")}
    [payment] = code["payments"].values()
    assert payment["version"] == max(_payment_of(example)["version"] for example in EXAMPLES.values())


def _payment_of(example: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = example["data"].get("payment", example["data"])
    return found if "order_id" in found else {"version": 0}


PHP_REQUESTS = r"""
set_error_handler(function ($level, $message) { throw new ErrorException($message); });
class Body
{
    public static $text;
    public $context;
    private $at = 0;
    public function stream_open() { return true; }
    public function stream_read($count)
    {
        $this->at += $count;
        return substr(self::$text, $this->at - $count, $count);
    }
    public function stream_eof() { return $this->at >= strlen(self::$text); }
    public function stream_stat() { return []; }
}
function keep_payment(array $payment)
{
    global $kept;
    $kept[$payment['id']] = max($kept[$payment['id']] ?? 0, $payment['version']);
}
function look_whether_order_is_paid($shop, $order)
{
    global $looked;
    $looked[] = [$shop, $order];
}
$requests = json_decode(stream_get_contents(STDIN), true);
stream_wrapper_unregister('php');
stream_wrapper_register('php', Body::class);
foreach ($requests as [$type, $headers, Body::$text]) {
    $_SERVER = $headers + $_SERVER;
    http_response_code(200);
    eval('?>' . getenv('RECEIVER'));
    $answers[$type] = http_response_code();
}
echo json_encode([$answers, $kept, array_unique($looked, SORT_REGULAR)]);
"""


async def test_receiver_in_php_takes_every_event(tmp_path: Path) -> None:
    php_or_skip()
    secret = endpoints._new_secret()
    requests: list[Any] = []
    for kind, example in EXAMPLES.items():
        body = json.dumps(example)
        headers = signed(example["id"], body, [endpoints._new_secret(), secret], datetime.now(UTC))
        server = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
        requests.append((kind, server, body))
    environment = clean_environment(tmp_path, WEBHOOK_SECRET=secret, RECEIVER=_code_of("php"))
    words = ("php", "-d", "display_errors=stderr", "-r", PHP_REQUESTS)
    code, out, err = await run(*words, cwd=tmp_path, environment=environment, text=json.dumps(requests))
    assert (code, err) == (0, ""), out + err
    answers, kept, looked = json.loads(out)
    assert set(answers.values()) == {204}
    assert kept == {_payment_of(EXAMPLES["payment.paid"])["id"]: 5}
    assert looked == [[121038, "12345"]]


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


@pytest.mark.parametrize("kind", ["payment.failed", "refund.failed"])
def test_example_of_a_refusal_has_a_code_that_is_one(kind: str) -> None:
    assert EXAMPLES[kind]["data"]["error_code"] in NO_MONEY_MOVED


@pytest.mark.parametrize(
    ("kind", "decide"), [("payment.unknown", payment_lifecycle.decide), ("refund.unknown", refund_lifecycle.decide)]
)
def test_example_of_what_is_unknown_has_the_words_of_the_service(kind: str, decide: Any) -> None:
    data = EXAMPLES[kind]["data"]
    step = decide("sending", Unknown("timeout"))
    assert (data["state"], data["error_code"], data["error_message"]) == (step.state, step.code, step.message)


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
