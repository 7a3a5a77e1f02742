"""Does the OpenAPI document tell the truth? Holds an answer against what it declares."""

import re
from typing import Any

import httpx
import jsonschema_rs

PROBLEM = "application/problem+json"
_WITHOUT_PROBLEMS = {"OPTIONS", "HEAD"}


class Truth:
    """The document of one app, as a judge of its answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._paths = [
            (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), operations)
            for path, operations in sorted(document["paths"].items(), key=lambda item: item[0].count("{"))
        ]
        self._validators: dict[str, Any] = {}

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        for pattern, operations in self._paths:
            if pattern.fullmatch(path) and method.lower() in operations:
                found: dict[str, Any] = operations[method.lower()]
                return found
        return None

    async def check(self, answer: httpx.Response) -> None:
        """Fail unless the answer is one that the document declares for this operation."""
        await answer.aread()
        request = answer.request
        what = f"{request.method} {request.url.path} -> {answer.status_code} {answer.text[:500]}"
        if (
            answer.status_code >= 400
            and request.url.path != "/health/ready"
            and request.method not in _WITHOUT_PROBLEMS
        ):
            self._check_problem(answer, what)
        operation = self.operation(request.method, request.url.path)
        if operation is None:
            return
        declared = operation["responses"].get(str(answer.status_code))
        assert declared is not None, f"undeclared: {what}"
        content = declared.get("content", {})
        if not content:
            assert not answer.content, f"a body that is not declared: {what}"
            return
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in content, f"undeclared media type {media_type}: {what}"
        if media_type.endswith("json"):
            self.validator(content[media_type]["schema"]).validate(answer.json())

    def validator(self, schema: dict[str, Any]) -> Any:
        words = repr(schema)
        if words not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[words] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[words]

    def _check_problem(self, answer: httpx.Response, what: str) -> None:
        assert answer.headers["content-type"] == PROBLEM, what
        body = answer.json()
        assert body["type"] == "about:blank", what
        assert body["status"] == answer.status_code, what
        assert body["request_id"] == answer.headers["x-request-id"], what
        assert re.fullmatch(r"[a-z][a-z0-9_]*", body["code"]), what
        assert body["title"], what
        assert body["detail"].endswith((".", "?")), f"no sentence: {what}"
        assert not body["detail"].endswith(".."), f"no sentence: {what}"
        assert (body["code"] == "validation_failed") == ("errors" in body), what
        for one in body.get("errors", []):
            assert set(one) == {"field", "message"}, what
