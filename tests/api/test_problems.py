"""Every way of saying no: one shape, a stable code, a sentence."""

import gzip
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from payment_service import errors
from payment_service.api import problems
from payment_service.api.middleware import MAX_HEADER_BYTES, MAX_QUERY_BYTES, Drain
from payment_service.errors import ServiceError
from payment_service.money import Money
from payment_service.programs.serve import create_app
from payment_service.rates import Exceeded, Rate
from payment_service.services import build
from payment_service.settings import Settings
from tests.api.conftest import create_body, problem_of
from tests.conftest import ClientMaker
from tests.support.replies import GoodProxy

MADE: dict[type[ServiceError], tuple[Any, ...]] = {
    errors.ServiceError: ("Something is wrong.",),
    errors.TryAgainLater: ("Try again later.",),
    errors.NotAuthenticated: (),
    errors.ScopeMissing: ("admin",),
    errors.InvalidInput: ("amount", "an amount must be more than zero"),
    errors.BinOfSeveralShops: ("920317450731", [8, 9]),
    errors.DeviceTokenMissing: (8,),
    errors.DeviceTokenUnreadable: (8,),
    errors.OrderAlreadyOpen: ("A-1", "0190", "pending"),
    errors.OrderAlreadyPaid: ("A-1", "0190"),
    errors.PaymentNotPaid: ("pending",),
    errors.RefundAlreadyOpen: ("0190", "unknown"),
    errors.RateLimited: ("key", "Requests with this API key", Exceeded(Rate(1000, 10), 0.2)),
    errors.RefundExceedsRemainder: (Money(150),),
    errors.SettlementInUse: ("it was built upon",),
}
"""What the errors that ask for something other than a shop's number are made of."""


def kinds() -> Iterator[type[ServiceError]]:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ServiceError):
            yield kind


def instance(kind: type[ServiceError]) -> ServiceError:
    takes = 0 if kind.sentence else len(inspect.signature(kind).parameters)
    return kind(*MADE.get(kind, (8,) * takes))


def test_every_error_has_its_status() -> None:
    assert set(problems.STATUS_OF) == set(kinds()) - {ServiceError}


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_every_error_is_drawn_in_the_tree_with_its_code() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\w+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: kind.code for kind in kinds() if kind is not ServiceError}


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind is not ServiceError], ids=lambda kind: kind.__name__)
def test_every_error_is_a_problem_with_a_sentence(kind: type[ServiceError]) -> None:
    answer = problems.of_error(instance(kind))
    body = json.loads(bytes(answer.body))
    problems.Problem.model_validate(body)
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(body)
    assert body["status"] == answer.status_code == problems.STATUS_OF[kind]
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert body["detail"].endswith(".")
    if answer.status_code == 503 or kind is errors.StillRunning:
        assert answer.headers["retry-after"].isdigit()


@given(st.text(max_size=60))
def test_any_detail_ends_as_a_sentence(detail: str) -> None:
    body = json.loads(bytes(problems.problem(400, "some_code", "Some title", detail).body))
    assert body["detail"].endswith((".", "!", "?"))


# --- what the service never looks at

CREATE = "/payments/kaspi/create"
GOOD = json.dumps(create_body())


async def post(client: httpx.AsyncClient, content: str | bytes, **headers: str) -> httpx.Response:
    return await client.post(CREATE, content=content, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "",
        "[]",
        "null",
        '"text"',
        "1",
        b"\xff\xfe",
        b'{"shop_id": "\xff"}',
        GOOD + "x",
        GOOD.replace("100", "NaN"),
        GOOD.replace("100", "Infinity"),
        GOOD.replace("100", "-Infinity"),
        GOOD.replace("100", "1e400"),
        GOOD.replace("100", "1e-400"),
        GOOD.replace("100", "1e99999999999999999999"),
        GOOD.replace("100", "1e-99999999999999999999"),
        GOOD.replace("100", "9" * 5000),
        GOOD.replace("100", "0." + "1" * 5000),
        GOOD[:-1] + ', "amount": 1}',
        GOOD[:-1] + ', "metadata": {"a": "1", "a": "2"}}',
        "[" * 30_000,
        '{"a":' * 10_000,
        GOOD[:-1] + ', "metadata": ' + "[" * 500 + "]" * 500 + "}",
        GOOD[:-1] + r', "metadata": {"\ud800": 1}}',
        GOOD[:-1] + r', "order_id": "\ud800"}',
        GOOD[:-1] + r', "order_id": "\u0000"}',
    ],
    ids=lambda content: repr(content[-40:]),
)
async def test_body_that_is_no_request_is_a_validation_problem(
    content: str | bytes, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    body = problem_of(await post(client, content), 422, "validation_failed")
    assert body["errors"]
    assert all(one["field"] and one["message"] for one in body["errors"])
    assert proxy.money_calls == 0


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""])
async def test_other_content_types_are_not_guessed_at(
    kind: str, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    answer = await post(client, GOOD, **{"Content-Type": kind})
    assert "Content-Type: application/json" in problem_of(answer, 415, "unsupported_media_type")["detail"]
    assert answer.headers["accept"] == "application/json"
    assert proxy.money_calls == 0


async def test_body_without_a_content_type_is_told_which_to_send(client: httpx.AsyncClient) -> None:
    answer = await client.post(CREATE, content=GOOD)
    assert "Content-Type: application/json" in problem_of(answer, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.shop+json"])
async def test_json_is_known_by_any_of_its_names(
    kind: str, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    assert (await post(client, GOOD, **{"Content-Type": kind})).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
@pytest.mark.parametrize("content", [GOOD.encode(), gzip.compress(GOOD.encode())], ids=["plain", "compressed"])
async def test_compressed_body_is_refused(
    coding: str, content: bytes, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    answer = await post(client, content, **{"Content-Encoding": coding})
    assert "Content-Encoding" in problem_of(answer, 415, "unsupported_media_type")["detail"]
    assert answer.headers["accept-encoding"] == "identity"
    assert proxy.money_calls == 0


async def test_validation_names_every_field_that_is_wrong(client: httpx.AsyncClient) -> None:
    wrong = create_body(shop_id=0, amount="x", phone="12", order_id="", metadata={"a": 1})
    body = problem_of(await client.post(CREATE, json=wrong), 422, "validation_failed")
    assert {one["field"] for one in body["errors"]} == {"shop_id", "amount", "phone", "order_id", "metadata.a"}
    assert body["detail"] == f"{body['errors'][0]['field']}: {body['errors'][0]['message']}."


async def test_validation_never_repeats_what_was_sent(client: httpx.AsyncClient) -> None:
    wrong = create_body(phone="+7 701 987 15 4500", amount="secret-amount")
    answer = await client.post(CREATE, json=wrong, headers={"X-Request-ID": "without-digits"})
    assert answer.status_code == 422
    assert "secret-amount" not in answer.text
    assert "987" not in answer.text


async def test_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/payments/kaspi"), 422, "validation_failed")  # an id that is no UUID
    unknown = problem_of(await client.get("/nothing/here"), 404, "not_found")
    assert unknown["detail"] == "There is nothing at this address: openapi.json lists those that there are."


async def test_wrong_method_is_a_problem_that_names_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.delete(CREATE)
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await client.patch("/admin/configs")
    assert problem_of(answer, 405, "method_not_allowed")["detail"] == "Use GET, HEAD, POST here."
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_too_large_body_is_refused(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    problem_of(await post(client, GOOD + " " * 70_000), 413, "body_too_large")


async def test_too_large_body_without_a_length_is_refused(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    async def endless() -> Any:
        yield GOOD.encode()
        for _ in range(100):
            yield b" " * 1024

    answer = await client.post(CREATE, content=endless(), headers={"Content-Type": "application/json"})
    problem_of(answer, 413, "body_too_large")


async def test_body_of_the_largest_size_is_read(
    client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    assert (await post(client, GOOD + " " * (64 * 1024 - len(GOOD)))).status_code == 200


async def test_too_many_headers_are_refused(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/payments", headers={"X-Big": "x" * MAX_HEADER_BYTES}), 431, "headers_too_large")


async def test_too_long_query_is_refused(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/payments?order_id=" + "x" * MAX_QUERY_BYTES), 414, "uri_too_long")


# --- the id of a request


@pytest.mark.parametrize("given_id", ["a", "shop-8:2025.10_22", "x" * 128])
async def test_request_id_is_accepted_and_returned(given_id: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/payments/none", headers={"X-Request-ID": given_id})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == given_id


@pytest.mark.parametrize("given_id", [None, "", "x" * 129, "a b", "a\tb", 'a"b', "ключ", "a/b", "%0d%0aX: 1"])
async def test_request_id_is_made_when_absent_or_odd(given_id: str | None, client: httpx.AsyncClient) -> None:
    headers = {} if given_id is None else {b"X-Request-ID": given_id.encode()}
    answer = await client.get("/payments/none", headers=headers)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


# --- what nobody foresaw


async def test_unforeseen_error_tells_nothing_and_is_logged_once(
    app: FastAPI, make_client: ClientMaker, log_text: Any, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError("a secret of ours")

    app.state.services = replace(app.state.services, routing=Broken())
    answer = await client.get("/admin/configs")
    problem_of(answer, 500, "internal_error")
    assert "secret" not in answer.text
    lines = [json.loads(line) for line in log_text().splitlines()]
    told = [line for line in lines if "RuntimeError" in str(line)]
    assert [line["level"] for line in told] == ["error"]
    assert told[0]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/admin/configs", "/payments", "/api/payment/config?shop_id=8"])
async def test_database_that_is_down_is_a_problem(path: str, settings: Settings, client_of: Any) -> None:
    nowhere = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://u@127.0.0.1:1/x")})
    services = build(nowhere)
    try:
        client = client_of(create_app(services, Drain()), Authorization="Bearer ps_x")
        answer = await client.get(path)
        problem_of(answer, 503, "database_unavailable")
        assert answer.headers["retry-after"]
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["failing"]) == (503, ["database is not reachable"])
        assert (await client.get("/health")).status_code == 200
    finally:
        await services.close()
