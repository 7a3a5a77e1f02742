"""The document tells the truth: examples fit their schemas, and made-up requests get declared answers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from payment_service.api import operations
from payment_service.api.app import document
from payment_service.payments.lifecycle import State
from tests.api.truth import Truth
from tests.support.replies import GoodProxy


def schemas_of(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the document, with where it stands."""
    if isinstance(node, list):
        for number, child in enumerate(node):
            yield from schemas_of(child, f"{at}/{number}")
    elif isinstance(node, dict):
        if {"type", "anyOf", "$ref", "allOf"} & set(node) and not at.endswith(("/properties", "/securitySchemes")):
            yield at, node
        for name, child in node.items():
            if name not in {"example", "examples", "default"}:
                yield from schemas_of(child, f"{at}/{name}")


def test_examples_and_defaults_fit_their_schemas(truth: Truth) -> None:
    checked = 0
    for where, schema in schemas_of(truth.document):
        if "securitySchemes" in where:
            continue
        given_values = [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]
        bare = {name: value for name, value in schema.items() if name not in {"examples", "default"}}
        for value in given_values:
            assert truth.validator(bare).is_valid(value), (where, value)
            checked += 1
    assert checked > 20


def test_every_reference_leads_somewhere(truth: Truth) -> None:
    document = truth.document
    references = {schema["$ref"] for _, schema in schemas_of(document) if "$ref" in schema}
    assert references
    for reference in references:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_every_operation_is_explained(truth: Truth) -> None:
    ids = []
    for path, methods in truth.document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert path == "/metrics" or operation["description"].endswith("."), (method, path)
            ids.append(operation["operationId"])
            for status, answer in operation["responses"].items():
                assert answer["description"], (method, path, status)
                if int(status) >= 400 and path != "/health/ready":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
    assert len(set(ids)) == len(ids)


def test_document_in_the_repository_is_that_of_the_code() -> None:
    """``payment-service openapi > docs/openapi.json`` brings it up to date."""
    assert json.loads(Path("docs/openapi.json").read_text("utf-8")) == document()


def test_every_group_is_explained() -> None:
    used = {tag for methods in document()["paths"].values() for one in methods.values() for tag in one["tags"]}
    assert used == {tag["name"] for tag in operations.TAGS}


def test_states_are_those_of_the_life_of_a_payment(truth: Truth) -> None:
    assert truth.document["components"]["schemas"]["State"]["enum"] == list(State)


def test_document_is_the_same_when_it_is_asked_for_twice(app: FastAPI) -> None:
    assert app.openapi() == app.openapi()


@pytest.mark.parametrize("path", ["/payments/kaspi/", pytest.param("/", marks=pytest.mark.thorough)])
async def test_made_up_requests_get_declared_answers(
    app: FastAPI, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, path: str
) -> None:
    """Those that move money, in `make test`; every operation in `make thorough`."""
    import schemathesis  # noqa: PLC0415 - takes longer than most tests
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - as above
    from schemathesis.specs.openapi.checks import (  # noqa: PLC0415 - as above
        ignored_auth,
        negative_data_rejection,
        positive_data_acceptance,
    )

    # The first sends the request again by itself, over a real network; test_matrix asks every endpoint without a key.
    # The second wants every request taken that fits the schema, and no schema can say what a BIN's checksum is.
    # The third does not know that 502 and 503 are answers about the provider; a 500 is looked for below.
    not_here = [ignored_auth, positive_data_acceptance, not_a_server_error]
    loop = asyncio.get_running_loop()
    # What is left out never ends.
    everything = schemathesis.openapi.from_dict(app.openapi())
    document = everything.include(path_regex=f"^{path}").exclude(path="/payments/events")
    document.config.update(base_url="http://service")
    failed: list[str] = []

    def try_operation(operation: Any) -> None:
        @given(data=st.data())
        @settings(
            max_examples=8,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        def made_up(data: st.DataObject) -> None:
            mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
            case = data.draw(operation.as_strategy(generation_mode=mode))
            sent = case.as_transport_kwargs(base_url="http://service")
            sent.pop("cookies", None)
            sent["headers"] = {name: str(value).encode() for name, value in (sent.get("headers") or {}).items()}
            if isinstance(sent.get("data"), str | bytes):
                sent["content"] = sent.pop("data")  # as httpx calls it
            answer = asyncio.run_coroutine_threadsafe(ask(client, sent), loop).result(30)
            assert answer.status_code != 500, answer.text
            # A query that is too long is refused at the door, and the tool knows 414 as no refusal.
            too_long = [negative_data_rejection] if answer.status_code == 414 else []
            case.validate_response(answer, excluded_checks=not_here + too_long)

        try:
            made_up()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - all are tried before any is told of
            failed.append(f"{operation.label}: {told(error)}"[:3000])

    operations = list(document.get_all_operations())
    assert len(operations) >= 4
    for found in operations:
        await asyncio.to_thread(try_operation, found.ok())  # type: ignore[union-attr] # a broken operation fails here
    assert not failed, "\n\n".join(failed)


def told(error: BaseException) -> str:
    return (
        " | ".join(f"{one}: {getattr(one, 'message', '')}" for one in error.exceptions) + str(error)
        if isinstance(error, BaseExceptionGroup)
        else repr(error)
    )


async def ask(client: httpx.AsyncClient, sent: dict[str, Any]) -> httpx.Response:
    return await client.request(**sent)
