"""Nothing that an endpoint does not know is dropped in silence: on every route there is, and on those to come."""

import re
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from payment_service.api.strict import MAX_ERRORS, StrictRoute, not_known
from tests.api.conftest import SHOP, KeyMaker, create_body, problem_of
from tests.api.test_matrix import routes_of
from tests.api.truth import Truth
from tests.support.replies import GoodProxy

CREATE = "/payments/kaspi/create"
OF_FASTAPI = {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
REPORTS = {("post", "/api/payment/log"), ("patch", "/api/payment/status")}
HINTS = {("post", "/webhooks/kaspi"), ("post", "/webhooks/provider/{name}")}
_PATH_VALUES = {
    "{bin}": "920317450731",
    "{shop_id}": str(SHOP),
    "{external_id}": "12800627774",
    "{id}": "01a21151-44aa-75a4-bc17-86e865e74930",
    "{kind}": "svg",
    "{name}": "kaspi",
}


def operations(truth: Truth) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation of the document but those of reports and hints."""
    found = [
        (method, path, operation)
        for path, methods in truth.document["paths"].items()
        for method, operation in methods.items()
        if (method, path) not in REPORTS | HINTS
    ]
    assert len(found) > 30
    return found


def address(path: str) -> str:
    return re.sub(r"\{\w+\}", lambda name: _PATH_VALUES[name[0]], path)


def fields_of(answer: httpx.Response) -> list[str]:
    return [one["field"] for one in problem_of(answer, 422, "validation_failed")["errors"]]


def test_every_route_reads_exactly(app: FastAPI) -> None:
    ours = [
        one for one in routes_of(app) if one.path not in OF_FASTAPI and not one.path.startswith(("/docs/", "/console"))
    ]
    assert {route.path for route in ours if not isinstance(route, StrictRoute)} == set()


async def test_every_operation_refuses_a_parameter_it_does_not_know(client: httpx.AsyncClient, truth: Truth) -> None:
    for method, path, _ in operations(truth):
        answer = await client.request(method, address(path), params={"zzz": "1"})
        assert fields_of(answer) == ["zzz"], (method, path)


async def test_every_operation_refuses_a_field_it_does_not_know(client: httpx.AsyncClient, truth: Truth) -> None:
    for method, path, operation in operations(truth):
        answer = await client.request(method, address(path), json={"zzz": 1})
        assert fields_of(answer)[0] == "zzz", (method, path, operation)


async def test_every_parameter_is_given_once(client: httpx.AsyncClient, truth: Truth) -> None:
    tried = 0
    for method, path, operation in operations(truth):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                answer = await client.request(method, address(path), params={parameter["name"]: ["1", "2"]})
                assert fields_of(answer) == [parameter["name"]], (method, path)
                tried += 1
    assert tried > 20


def test_document_says_that_no_other_field_is_taken(truth: Truth) -> None:
    for method, path, operation in operations(truth):
        if "requestBody" in operation:
            [schema] = operation["requestBody"]["content"].values()
            name = schema["schema"]["$ref"].rpartition("/")[2]
            assert truth.document["components"]["schemas"][name]["additionalProperties"] is False, (method, path)


def test_route_whose_body_does_not_say_what_it_does_is_no_route() -> None:
    class Inside(BaseModel):
        """Says nothing."""

    class Careless(BaseModel, extra="forbid"):
        """Says it, but what it holds does not."""

        inside: list[Inside] | None = None

    router = APIRouter(route_class=StrictRoute)

    async def endpoint(body: Careless) -> None:
        """Nothing."""

    with pytest.raises(TypeError, match="Inside must say what becomes of a field"):
        router.add_api_route("/", endpoint, methods=["POST"])


async def test_field_inside_a_field_is_named_with_its_place(client_of: Any) -> None:
    class Line(BaseModel, extra="forbid"):
        """A line of an order."""

        unit_price: int = 0

    class Order(BaseModel, extra="forbid"):
        """An order."""

        lines: list[Line] = []

    router = APIRouter(route_class=StrictRoute)

    @router.post("/orders")
    async def endpoint(body: Order) -> Order:
        """What was ordered."""
        return body

    other = FastAPI()
    other.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(other), base_url="http://other") as client:
        answer = await client.post("/orders", json={"lines": [{}, {"unitPrice": 5}]})
    [error] = answer.json()["detail"]
    assert (error["loc"], error["msg"]) == (
        ["body", "lines", 1, "unitPrice"],
        "not known here; did you mean unit_price?",
    )


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("orderId", ["shop_id", "order_id"], "not known here; did you mean order_id?"),
        ("order-id", ["shop_id", "order_id"], "not known here; did you mean order_id?"),
        ("OrderID", ["shop_id", "order_id"], "not known here; did you mean order_id?"),
        ("Amount", ["amount", "full"], "not known here; did you mean amount?"),
        ("event", ["url", "events", "shops"], "not known here; did you mean events?"),
        ("shop", ["url", "events", "shops"], "not known here; did you mean shops?"),
        ("sum", ["amount", "full"], "not known here; known: amount, full"),
        ("", ["amount"], "not known here; known: amount"),
        ("x" * 100_000, ["amount"], "not known here; known: amount"),
        ("a", [], "not known here; there are none"),
    ],
)
def test_nearest_name_is_said(name: str, known: list[str], said: str) -> None:
    assert not_known(name, known) == said


async def test_misspelled_order_is_not_sent(client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy) -> None:
    problem = problem_of(await client.post(CREATE, json=create_body(orderId="1")), 422, "validation_failed")
    assert problem["detail"] == "orderId: not known here; did you mean order_id?"
    assert proxy.money_calls == 0


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
async def test_two_api_keys_are_none(client: httpx.AsyncClient, proxy: GoodProxy, name: str) -> None:
    presented = client.headers["Authorization"].removeprefix("Bearer ")
    word = "Bearer " if name == "Authorization" else ""
    headers = [(name, word + presented), (name, word + "another")]
    client.headers.pop("Authorization")
    assert fields_of(await client.post(CREATE, json=create_body(), headers=headers)) == [name]
    assert proxy.money_calls == 0


async def test_nobody_but_the_routing_chooses_the_account(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    for name in ("organization_bin", "organizationBin", "device_token"):
        assert fields_of(await client.post(CREATE, json=create_body(**{name: "891027350515"}))) == [name]
    assert proxy.money_calls == 0


async def test_known_names_are_told_even_beside_other_mistakes(client: httpx.AsyncClient) -> None:
    answer = await client.post(CREATE, json={"shopId": SHOP, "Amount": 5})
    assert fields_of(answer) == ["shopId", "Amount", "shop_id", "amount", "phone"]


async def test_so_many_unknown_names_are_told_and_no_more(client: httpx.AsyncClient) -> None:
    answer = await client.post(CREATE, json=create_body(**{f"n{number}": 1 for number in range(3000)}))
    assert len(fields_of(answer)) == MAX_ERRORS
    answer = await client.get("/payments", params={f"n{number}": 1 for number in range(300)})
    assert len(fields_of(answer)) == MAX_ERRORS


@pytest.mark.parametrize("word", ["body", "query", "path", "header"])
async def test_name_that_is_a_word_of_ours_is_shown(word: str, client: httpx.AsyncClient) -> None:
    assert fields_of(await client.get("/payments", params={word: "1"})) == [word]
    assert fields_of(await client.post(CREATE, json=create_body(**{word: "1"}))) == [word]


async def test_equal_values_of_a_parameter_are_one(client: httpx.AsyncClient, shops: dict[int, str]) -> None:
    assert (await client.get(f"/payments?shop_id={SHOP}&shop_id={SHOP}")).status_code == 200


async def test_field_that_is_given_twice_is_named(client: httpx.AsyncClient) -> None:
    content, headers = '{"shop_id": 8, "amount": 1, "amount": 2}', {"Content-Type": "application/json"}
    problem = problem_of(await client.post(CREATE, content=content, headers=headers), 422, "validation_failed")
    assert "the field amount is given twice" in problem["detail"]


async def test_two_idempotency_keys_are_none(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    headers = [("Idempotency-Key", "first-key"), ("Idempotency-Key", "second-key")]
    assert fields_of(await client.post(CREATE, json=create_body(), headers=headers)) == ["Idempotency-Key"]
    assert proxy.money_calls == 0


@pytest.mark.parametrize("name", ["X-Idempotency-Key", "Idempotency_Key", "Idempotence-Key"])
async def test_key_under_another_name_is_not_left_out_in_silence(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, name: str
) -> None:
    answer = await client.post(CREATE, json=create_body(), headers={name: "a-key-of-mine"})
    problem = problem_of(answer, 422, "validation_failed")
    assert problem["detail"] == f"{name.lower()}: not known here; did you mean Idempotency-Key?"
    assert proxy.money_calls == 0


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since"])
async def test_condition_of_a_change_is_not_left_out_in_silence(
    client: httpx.AsyncClient, shops: dict[int, str], name: str
) -> None:
    address, headers = f"/admin/configs/{SHOP}", {name: '"1"'}
    for answer in (
        await client.put(address, json={"name": "Of yesterday"}, headers=headers),
        await client.delete(address, headers=headers),
    ):
        assert fields_of(answer) == [name]
    shown = (await client.get(address, headers=headers)).json()
    assert (shown["name"], shown["is_active"], shown["version"]) == ("", True, 1)


@pytest.mark.parametrize("content", ["{}", "[]", "null", " \n", ""])
async def test_body_that_says_nothing_is_no_body(
    content: str, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    answer = await client.request("DELETE", f"/admin/configs/{SHOP}", content=content)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("content", ["5", '"text"', "shop_id=8", "[1]", b"\xff"])
async def test_body_where_none_is_asked_for_is_refused(
    content: str | bytes, client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    assert fields_of(await client.request("DELETE", f"/admin/configs/{SHOP}", content=content)) == ["body"]


async def test_hints_ignore_what_they_do_not_know(client: httpx.AsyncClient) -> None:
    hint = {"payment_id": "12800627774", "timestamp": 1, "zzz": 1}
    answer = await client.post("/webhooks/kaspi", params={"zzz": "1"}, json=hint)
    problem_of(answer, 404, "not_found")  # nobody set a secret for it: the hint itself was read


async def test_key_is_asked_for_before_a_body_is_judged(with_key: KeyMaker) -> None:
    client = await with_key("payments:read")
    problem_of(await client.post(CREATE, json=create_body(zzz=1)), 403, "scope_missing")
