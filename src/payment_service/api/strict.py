"""Requests read strictly: amounts as decimals, no NaN, nothing given twice, and nothing ignored silently.

Every endpoint's route is a ``StrictRoute``. It refuses unknown query parameters, unknown fields of the body at any
depth, and a body where there is none, naming each with the nearest known name. An endpoint whose body model allows
unknown fields (``extra``) accepts unknown query parameters, too.

FastAPI matches the route and documents it. The route itself calls the endpoint: each value is validated once, by the
field that FastAPI made of it, and the answer is serialized once, by its model. FastAPI's other features (threads for
functions, dependencies with ``yield``, validation of answers) are not used: they cost as much as the rest of a request.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, get_args
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from payment_service.api import media
from payment_service.api.numbers import exact_json

MAX_ERRORS: Final = 20
"""How many names one answer lists: finding the nearest name takes time, and needs no key."""
_LONGEST_NAME: Final = 60
_NO_BODY: Final = (b"", b"0")
"""Values of Content-Length that announce no body."""
_ONE_VALUE: Final = {
    b"authorization": "Authorization",
    b"x-api-key": "X-API-Key",
    b"idempotency-key": "Idempotency-Key",
}
"""Headers that must have one value."""
_CONDITIONS: Final = {b"if-match": "If-Match", b"if-unmodified-since": "If-Unmodified-Since"}
"""Headers whose senders rely on nothing being done when somebody else was first."""
Errors = list[Mapping[str, Any]]


def not_known(name: str, known: Iterable[str]) -> str:
    """The message about an unknown name, with the nearest known one."""
    plain = {_plain(one): one for one in known}
    near = get_close_matches(_plain(name[:_LONGEST_NAME]), plain, n=1)
    if near:
        return f"not known here; did you mean {plain[near[0]]}?"
    return f"not known here; known: {', '.join(plain.values())}" if plain else "not known here; there are none"


def _plain(name: str) -> str:
    """The same for orderId, order-id, OrderID and order_id."""
    return "".join(filter(str.isalnum, name.lower()))


def unknown_parameters(given: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The first unknown query parameters, each with its message."""
    names = list(known)
    unknown = (name for name in given if name not in names)
    return {name: not_known(name, names) for name in islice(unknown, MAX_ERRORS)}


class StrictRoute(APIRoute):
    """A route whose requests are read strictly."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Work out, once, how the endpoint is called.

        Raises:
            TypeError: when the endpoint's body does not say what becomes of a field that it does not know, or when the
                endpoint asks for something that this route does not do.
        """
        super().__init__(path, endpoint, **options)
        self._begins_with = path.partition("{")[0]
        answer = self.get_route_handler()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await answer(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, also for FastAPI where it includes this route's router in another."""
        return _Endpoint(self).answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette does, but most routes differ in their prefix, which is checked before the regular expression."""
        return super().matches(scope) if self._begins_with in scope["path"] else (Match.NONE, {})

    async def admit(self, request: Request) -> None:
        """A hook for subclasses to refuse a request before it is read."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One value of the path, the query or the headers."""

    name: str
    alias: str
    field: ModelField
    where: str
    is_required: bool

    def read(self, given: str | None, arguments: dict[str, Any], errors: Errors) -> None:
        """Put the value among the arguments, or what is wrong with it among the errors."""
        if given is not None:
            arguments[self.name], found = self.field.validate(given, loc=(self.where, self.alias))
            errors += found
        elif self.is_required:
            errors.append({"type": "missing", "loc": (self.where, self.alias), "msg": "Field required", "input": None})
        else:
            arguments[self.name] = self.field.default


class _Endpoint:
    """An endpoint, and how its arguments are made of a request."""

    def __init__(self, route: StrictRoute) -> None:
        dependant = route.dependant
        self._route = route
        self._call: Callable[..., Awaitable[Any]] = route.endpoint
        self._request_name = dependant.request_param_name
        self._dependencies = [_dependency(one.name, one.call, one.dependencies) for one in dependant.dependencies]
        self._of_path, self._of_query, self._of_headers = (
            [_Parameter(field.name, field.alias, field, where, field.field_info.is_required()) for field in fields]
            for where, fields in (
                ("path", dependant.path_params),
                ("query", dependant.query_params),
                ("header", dependant.header_params),
            )
        )
        self._takes_key = any(one.alias == "Idempotency-Key" for one in self._of_headers)
        self._changes = not (route.methods or set()) <= {"GET", "HEAD"}
        self._query_names = [one.alias for one in self._of_query]
        self._body = route.body_field
        self._body_name = dependant.body_params[0].name if dependant.body_params else ""
        self._body_model = self._body.field_info.annotation if self._body else None
        self._is_strict = all(_extra_of(one) == "forbid" for one in _models_in(self._body_model))
        self._written = route.response_field.serialize_json if route.response_field else None
        if not inspect.iscoroutinefunction(self._call) or dependant.cookie_params or len(dependant.body_params) > 1:
            raise TypeError(f"{self._call.__name__}: an endpoint is async, without cookies, with one body at most")

    async def answer(self, request: Request) -> Response:
        """Read the request, call the endpoint, write its answer."""
        await self._route.admit(request)
        answer = await self._call(**await self._arguments(request))
        if isinstance(answer, Response):
            return answer
        if self._written is None:
            raise TypeError(f"{self._call.__name__} has no model to write its answer by")
        return Response(self._written(answer), self._route.status_code or 200, media_type="application/json")

    async def _arguments(self, request: Request) -> dict[str, Any]:
        """What the endpoint is called with.

        Raises:
            RequestValidationError: naming every value that is wrong.
        """
        scope = request.scope
        headers = dict(reversed(scope["headers"]))  # of a header that is given twice, the first
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        query = dict(pairs)
        await self._refuse_unknown(request, headers, query, pairs)
        body = await self._json(request, headers)
        arguments: dict[str, Any] = {}
        for name, depend, is_async in self._dependencies:
            value = depend(request)
            arguments[name] = await value if is_async else value
        errors: Errors = []
        for one in self._of_path:
            one.read(scope["path_params"].get(one.alias), arguments, errors)
        for one in self._of_query:
            one.read(query.get(one.alias), arguments, errors)
        for one in self._of_headers:
            given = headers.get(one.alias.lower().encode())
            one.read(None if given is None else given.decode("latin-1"), arguments, errors)
        if self._body is not None:
            if body is _NOTHING:
                errors.append({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
            else:
                arguments[self._body_name], found = self._body.validate(body, loc=("body",))
                errors += found
        if errors:
            raise RequestValidationError(_named(errors, self._body_model), body=body)
        if self._request_name:
            arguments[self._request_name] = request
        return arguments

    async def _refuse_unknown(
        self,
        request: Request,
        headers: Mapping[bytes, bytes],
        query: Mapping[str, str],
        pairs: Sequence[tuple[str, str]],
    ) -> None:
        errors = [*_given_twice(request.scope["headers"], query, pairs, self._query_names)]
        if self._takes_key:
            errors += _nearly_keys(headers)
        if self._changes:
            errors += [
                _error("header", name, "is not checked here, so nothing was done; a configuration takes its version")
                for header, name in _CONDITIONS.items()
                if header in headers
            ]
        if self._is_strict:
            unknown = unknown_parameters(query, self._query_names)
            errors += [_error("query", name, message) for name, message in unknown.items()]
        if self._body is None:
            errors += await _unasked_body(request, headers)
        if errors:
            raise RequestValidationError(errors[:MAX_ERRORS])

    async def _json(self, request: Request, headers: Mapping[bytes, bytes]) -> Any:
        body = await request.body() if self._body is not None else b""
        if not body:
            return _NOTHING
        media.check(headers)
        try:
            return exact_json(body)
        except (ValueError, RecursionError) as error:
            trouble = {"error": getattr(error, "msg", str(error))}
            wrong = {"type": "json_invalid", "loc": ("body",), "msg": "", "input": {}, "ctx": trouble}
            raise RequestValidationError([wrong]) from None


_NOTHING: Final = object()
"""Stands for no body, which differs from null."""


def _dependency(
    name: str | None, call: Callable[[Request], Any] | None, documented: Iterable[Any]
) -> tuple[str, Callable[[Request], Any], bool]:
    """A dependency as a function of the request. Its own dependencies must be for the documentation alone."""
    if name is None or call is None or not all(isinstance(one.call, SecurityBase) for one in documented):
        raise TypeError("a dependency is an argument of the endpoint, and a function of the request")
    return name, call, inspect.iscoroutinefunction(call)


def _given_twice(
    headers: Iterable[tuple[bytes, bytes]],
    query: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    known: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """Errors for values that are given twice: which one was meant is not known."""
    if len(pairs) > len(query):
        for name in known:
            if len({value for given, value in pairs if given == name}) > 1:
                yield _error("query", name, "is given twice, with different values")
    given_values = [name for name, _ in {*headers} if name in _ONE_VALUE]
    for header, name in _ONE_VALUE.items():
        if given_values.count(header) > 1:
            yield _error("header", name, "is given twice, with different values")


def _nearly_keys(headers: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Errors for misspelt Idempotency-Keys: their senders rely on them against a second payment."""
    for name in headers:
        if b"idempoten" in name and name != b"idempotency-key":
            yield _error("header", name.decode("latin-1"), "not known here; did you mean Idempotency-Key?")


async def _unasked_body(request: Request, headers: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """Errors for a body that an endpoint does not take; an empty object or list is accepted."""
    announced = headers.get(b"content-length", b"") not in _NO_BODY or b"transfer-encoding" in headers
    if not announced or not (await request.body()).strip():
        return []
    try:
        body = exact_json(await request.body())
    except (ValueError, RecursionError):
        body = "no JSON"
    if isinstance(body, dict):
        return [_error("body", name, not_known(name, ())) for name in islice(body, MAX_ERRORS)]
    return [] if body in (None, []) else [_error("body", "body", "must be empty")]


def _error(where: str, name: str, message: str) -> dict[str, Any]:
    return {"type": "not_known", "loc": (where, name), "msg": message, "input": None}


def _named(errors: Iterable[Mapping[str, Any]], model: Any) -> list[Mapping[str, Any]]:
    """The errors, those about unknown fields with the nearest known name."""
    errors = list(errors)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"][:MAX_ERRORS]
    named = [{**one, "msg": not_known(str(one["loc"][-1]), _fields_at(one["loc"][1:-1], model))} for one in unknown]
    return named + [one for one in errors if one["type"] != "extra_forbidden"]


def _fields_at(location: tuple[int | str, ...], model: Any) -> list[str]:
    """The names of the fields at a location of the body."""
    annotations = [model]
    for name in location:
        inner = [one.model_fields[name].annotation for one in _models_of(annotations) if name in one.model_fields]
        annotations = inner or annotations  # the number of an item, or the name of one kind of several
    return [field.alias or name for one in _models_of(annotations) for name, field in one.model_fields.items()]


def _models_of(annotations: Iterable[Any]) -> Iterator[type[BaseModel]]:
    """The models that values of these types may be of, not those inside them."""
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        else:
            yield from _models_of(get_args(annotation))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a body may hold, at any depth."""
    for model in _models_of([annotation]):
        yield model
        for field in model.model_fields.values():
            yield from _models_in(field.annotation)


def _extra_of(model: type[BaseModel]) -> str:
    extra = model.model_config.get("extra")
    if extra is None:
        raise TypeError(f"{model.__name__} must say what becomes of a field that it does not know: derive it from Body")
    return extra
