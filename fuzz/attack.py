"""One process of made-up requests: schemathesis over the whole OpenAPI document, in rounds, until its share is sent.

Every request that leaves is counted where it leaves, the ones that checks send by themselves included, and written
down with what it was answered, so that the calls to the provider can be held against them.
"""

import argparse
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import unquote
from uuid import uuid4

import requests
import schemathesis
from requests.adapters import HTTPAdapter
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.support.shops import SHOPS

SPARE_SHOPS: Final = tuple(range(900_001, 900_007))
"""Shops that made-up requests may switch off and send elsewhere; the seven go on taking payments."""
_EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROVOKED: Final = frozenset({(502, "message_not_sent")})
"""Server errors that are answers: no messenger is set up here."""
_REFUSED: Final = frozenset({401, 403, 405, 406, 413, 414, 415, 431})
_DETAILS: Final = re.compile(r"'[^']*'|[0-9a-f-]{6,}|[0-9]+")
"""What may differ between two reports of one failure."""
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")
ONLY_IN_WORDS: Final = (
    "control characters",
    "checksum",
    "a BIN is 12 digits",
    "a BIN of zeros",
    "bytes as JSON in UTF-8",
    "has changed",  # of a routing that is sent back
    "and cannot be changed",
    "have changed: leave them out",
    "a device token is",
    "a Kazakh mobile number",
    "is out of range",
    "has an exponent beyond",
    "is a day from 2000 on",
    "is after since",
    "reason: must have at least 3 characters",  # without the space around it
    "cursor",
    "is an e-mail address",
    "is a chat's number",
    "the URL",
    "provider",
    "for this payment",
    "is given alone",
    "the merchant cabinet shows it",
    "means that the payment was made",
    "shop_id: must be a whole number",  # 3255.0 is one in a body; a query holds words
    "must be 8 to 128 visible ASCII characters",  # of a header that is null, which on the wire is the word "null"
)
"""What no schema can say of a value that it takes."""


# --- what leaves


@dataclass(slots=True)
class Traffic:
    """Everything that was sent, and what it was answered."""

    paths: list[tuple[re.Pattern[str], str]]
    operations: frozenset[str]
    book: TextIO
    sent: int = 0
    slowest_s: float = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    surprises: dict[str, str] = field(default_factory=dict)

    def install(self) -> None:
        """Stand where every request passes."""
        send = HTTPAdapter.send

        def counted(adapter: HTTPAdapter, request: requests.PreparedRequest, **how: Any) -> requests.Response:
            request.headers["X-Request-ID"] = uuid4().hex
            started = time.perf_counter()
            answer = send(adapter, request, **how)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
            self._note(request, answer)
            return answer

        HTTPAdapter.send = counted  # type: ignore[method-assign, assignment] # to see what no other hook sees

    def _note(self, request: requests.PreparedRequest, answer: requests.Response) -> None:
        self.sent += 1
        path = unquote((request.url or "").partition("//")[2].partition("/")[2].partition("?")[0])
        known = (f"{request.method} {template}" for pattern, template in self.paths if pattern.fullmatch("/" + path))
        name = next((operation for operation in known if operation in self.operations), "any other method or path")
        of_operation = self.counts.setdefault(name, {})
        of_operation[str(answer.status_code)] = of_operation.get(str(answer.status_code), 0) + 1
        code = _code_of(answer)
        if answer.status_code >= 500 and (answer.status_code, code) not in _PROVOKED:
            told = f"{answer.status_code} {code} of {name}\n{answer.text[:300]}"
            self.surprises.setdefault(told.partition("\n")[0], f"{told}\n{request.method} {request.url}")
        line: dict[str, Any] = {"id": request.headers["X-Request-ID"], "status": answer.status_code, "code": code}
        if answer.status_code not in _REFUSED and code not in {"validation_failed", "not_found"}:
            body = request.body.decode("utf-8", "replace") if isinstance(request.body, bytes) else request.body or ""
            line["words"] = sorted(set(_WORD.findall(unquote(request.url or "") + " " + str(body))))
        self.book.write(json.dumps(line) + "\n")


def _code_of(answer: requests.Response) -> str | None:
    if "json" not in answer.headers.get("content-type", ""):
        return None
    body = answer.json()
    code = body.get("code") if isinstance(body, dict) and answer.status_code >= 400 else None
    return code if isinstance(code, str) else None


# --- what is made up


def _pick(value: object, among: tuple[Any, ...]) -> Any:
    """One of these, always the same for the same value; every third time the value itself."""
    number = zlib.crc32(repr(value).encode("utf-8", "replace"))
    return value if number % 3 == 0 else among[number // 3 % len(among)]


def _likelier(name: str, value: Any, *, changes_routing: bool) -> Any:
    """A value that somebody knows, in place of one of the same kind that nobody does.

    A request that is wrong stays wrong: only what the schema takes is replaced, by what it takes too.
    """
    text = isinstance(value, str)
    match name:
        case "shop_id" if type(value) is int and 1 <= value < 2**31:
            return _pick(value, SPARE_SHOPS) if changes_routing else _pick(value, tuple(SHOPS))
        case "phone" if text and len(value) <= 30:
            return _pick(value, ("77015211545", "+7 701 521 15 46", "87015211547"))
        case "organization_bin" | "bin" if text and len(value) <= 12:
            return _pick(value, tuple(SHOPS.values()))
        case "amount" if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e8:
            return _pick(value, (100, 50, 1))
        case _:
            return _readable(value)


def _readable(value: Any) -> Any:
    """Mostly without the control characters that no schema forbids; as long as it was."""
    if isinstance(value, dict):
        return {_readable(name): _readable(one) for name, one in value.items()}
    readable = isinstance(value, str) and "".join(char if char.isprintable() else "x" for char in value)
    return _pick(value, (readable,)) if isinstance(readable, str) else value


@dataclass(frozen=True, slots=True)
class Known:
    """Payments that there are."""

    payments: tuple[dict[str, Any], ...]

    def make_likelier(self, context: Any, values: Any) -> Any:
        """Let most valid requests be about shops, phones, BINs and payments that exist."""
        if not isinstance(values, dict):
            return values
        operation = context.operation
        changes_routing = operation.path.startswith("/admin/configs") and operation.method.upper() != "GET"
        likelier = {name: _likelier(name, one, changes_routing=changes_routing) for name, one in values.items()}
        for name, form in (("external_id", _EXTERNAL_ID), ("id", _UUID)):
            value = likelier.get(name)
            is_number = type(value) is int and name == "external_id" and 0 <= value < 2**53
            if is_number or (isinstance(value, str) and form.fullmatch(value)):
                payment = _pick(value, self.payments)
                if isinstance(payment, dict):
                    likelier[name] = int(payment[name]) if is_number else payment[name]
                    if type(likelier.get("shop_id")) is int and 1 <= likelier["shop_id"] < 2**31:
                        likelier["shop_id"] = payment["shop_id"]
        return likelier


@schemathesis.check
def valid_input_is_taken(_context: Any, response: Any, case: Any) -> None:
    """What fits the schema is refused only for what no schema can say."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    body = response.json()
    if body.get("code") == "validation_failed":
        said = [f"{one['field']}: {one['message']}" for one in body.get("errors", [])]
        strange = [one for one in said if not any(words in one for words in ONLY_IN_WORDS)]
        assert not strange, f"fits the schema, and is refused: {strange}"


def spare_the_seven(_context: Any, case: Any, _how: dict[str, Any]) -> None:
    """Let no change of routing reach the seven shops, whatever an earlier answer suggested."""
    shop_id = case.path_parameters.get("shop_id")
    if case.method.upper() != "GET" and case.path.startswith("/admin/configs") and str(shop_id).isdecimal():
        case.path_parameters["shop_id"] = SPARE_SHOPS[int(shop_id) % len(SPARE_SHOPS)]


def without_details(failure: str) -> str:
    """What two reports of one failure have in common."""
    return _DETAILS.sub("", failure.partition("\ncurl ")[0])[:300]


# --- one process


def configuration(url: str, key: str, seed: int, examples: int, *, first: bool) -> SchemathesisConfig:
    """All checks of schemathesis, but for what is checked better here, and what the contract denies."""
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": url,
            "headers": {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "request-timeout": 30,
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "checks": {
                "positive_data_acceptance": {"enabled": False},
                # A query that is too long is refused as such: 414, which it does not know of.
                "negative_data_rejection": {
                    "expected-statuses": [*sorted(_REFUSED), 400, 404, 409, 422, 428, 429, "5xx"]
                },
                "not_a_server_error": {"enabled": False},  # Traffic sees each, and knows which are answers
                "use_after_free": {"enabled": False},  # DELETE deactivates, and the row stays (contract)
            },
            "phases": {"coverage": {"enabled": first}, "examples": {"enabled": first}, "stateful": {"max-steps": 8}},
        }
    )


def rounds(url: str, key: str, seed: int, wanted: int, traffic: Traffic) -> Iterator[str]:
    """Send at least so many; yields what failed, with a curl that does it again."""
    number = 0
    while traffic.sent < wanted:
        left = wanted - traffic.sent
        examples = max(2, min(60, left // 60))
        config = configuration(url, key, seed + number, examples, first=number == 0 and wanted >= 1000)
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config).exclude(
            path="/payments/events"
        )  # it never ends
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                yield from _failures(event)
            elif isinstance(event, events.NonFatalError):
                yield f"schemathesis cannot go on with {event.label}: {event.value!r}"
            elif isinstance(event, events.FatalError):
                yield f"schemathesis cannot go on: {event.exception!r}"
        number += 1


def _failures(event: events.ScenarioFinished) -> Iterator[str]:
    for checks in event.recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                yield f"{check.name}: {failure.title}\n{failure.message}\n{check.failure_info.code_sample}"


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--url", "--key", "--folder"):
        parser.add_argument(name, required=True)
    for name in ("--seed", "--cases", "--number"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    folder = Path(options.folder)
    known = Known(tuple(json.loads((folder / "payments.json").read_text("utf-8"))))

    def make_likelier(context: Any, values: Any) -> Any:  # a function, as hooks of schemathesis must be
        return known.make_likelier(context, values)

    for name in ("map_body", "map_query", "map_path_parameters"):
        schemathesis.hook(name)(make_likelier)
    schemathesis.hook("before_call")(spare_the_seven)
    document = requests.get(f"{options.url}/openapi.json", timeout=30).json()
    paths = sorted(document["paths"], key=lambda path: path.count("{"))
    patterns = [(re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), path) for path in paths]
    operations = frozenset(f"{m.upper()} {path}" for path, methods in document["paths"].items() for m in methods)
    failures: dict[str, str] = {}
    with (folder / f"book{options.number}.jsonl").open("w", encoding="utf-8") as book:
        traffic = Traffic(patterns, operations, book)
        traffic.install()
        for failure in rounds(options.url, options.key, options.seed, options.cases, traffic):
            failures.setdefault(without_details(failure), failure)
    result = {
        "counts": traffic.counts,
        "sent": traffic.sent,
        "failures": [*failures.values(), *traffic.surprises.values()],
        "slowest_s": traffic.slowest_s,
    }
    (folder / f"result{options.number}.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
