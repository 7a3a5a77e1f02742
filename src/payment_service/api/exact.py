"""Requests read exactly: amounts as decimals, no NaN, nothing given twice, and nothing dropped in silence.

Every endpoint's route is an ``ExactRoute``. It refuses what the endpoint does not know, by name and with the nearest
name that it does know: query parameters, fields of the body at any depth, and a body where none is asked for. An
endpoint whose model of the body takes more than its own fields (``extra``) is not refused a query parameter either.
"""

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, get_args

from fastapi import Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from payment_service.api import media
from payment_service.api.numbers import exact_decimal, exact_int

MAX_TOLD: Final = 20
"""Names that one answer complains of: to find the nearest name takes time, and anybody may ask."""
_LONGEST_NAME: Final = 60
_NO_BODY: Final = ("", "0")
"""Values of Content-Length that announce none."""


def not_known(name: str, known: Iterable[str]) -> str:
    """What is said of a name that is none of those that are known."""
    plain = {_plain(one): one for one in known}
    near = get_close_matches(_plain(name[:_LONGEST_NAME]), plain, n=1)
    if near:
        return f"not known here; did you mean {plain[near[0]]}?"
    return f"not known here; known: {', '.join(plain.values())}" if plain else "not known here: none is taken"


def _plain(name: str) -> str:
    """The same for orderId, order-id, OrderID and order_id."""
    return "".join(filter(str.isalnum, name.lower()))


def unknown_parameters(request: Request, known: Iterable[str]) -> dict[str, str]:
    """The first query parameters that are not known, each with what is said of it."""
    names = list(known)
    unknown = (name for name in request.query_params if name not in names)
    return {name: not_known(name, names) for name in islice(unknown, MAX_TOLD)}


class ExactRoute(APIRoute):
    """A route whose requests are read exactly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand FastAPI's own handler a request that reads JSON our way, once nothing stands against it.

        Raises:
            TypeError: when the endpoint's body does not say what becomes of a field that it does not know.
        """
        handler = super().get_route_handler()
        model = self.body_field.field_info.annotation if self.body_field else None
        strict = all(_extra_of(one) == "forbid" for one in _models_in(model))
        query = [one.alias for one in get_flat_params(self.dependant) if isinstance(one.field_info, params.Query)]

        async def exactly(request: Request) -> Response:
            exact = _ExactRequest(request.scope, request.receive)
            errors = [*_given_twice(request, query)]
            if strict:
                errors += [_error("query", name, said) for name, said in unknown_parameters(request, query).items()]
            if model is None:
                errors += await _unasked_body(exact)
            if errors:
                raise RequestValidationError(errors[:MAX_TOLD])
            if model is not None:
                await media.check(exact)
            try:
                return await handler(exact)
            except RequestValidationError as error:
                raise RequestValidationError(_named(error.errors(), model), body=error.body) from None

        return exactly


class _ExactRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            read = json.loads(
                body,
                parse_int=exact_int,
                parse_float=exact_decimal,
                parse_constant=_refuse_constant,
                object_pairs_hook=_unique,
            )
        except (ValueError, RecursionError) as error:
            # FastAPI turns this one kind into a validation error.
            position = getattr(error, "pos", 0)
            raise json.JSONDecodeError(getattr(error, "msg", str(error)), "", position) from None
        # FastAPI reads the attributes of whatever is an object of Python: a Decimal would pass for an empty body.
        return str(read) if isinstance(read, Decimal) else read


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {name[:_LONGEST_NAME]} is given twice")
        found[name] = value
    return found


def _given_twice(request: Request, query: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A value that must be one, and is two: nobody can know which was meant."""
    for name in query:
        if len(set(request.query_params.getlist(name))) > 1:
            yield _error("query", name, "is given twice, with different values")
    if len(set(request.headers.getlist("idempotency-key"))) > 1:
        yield _error("header", "Idempotency-Key", "is given twice, with different values")


async def _unasked_body(request: _ExactRequest) -> list[dict[str, Any]]:
    """What stands in the body of a request to an endpoint that asks for none; an empty object or list says nothing."""
    announced = request.headers.get("content-length", "") not in _NO_BODY or "transfer-encoding" in request.headers
    if not announced or not (await request.body()).strip():
        return []
    try:
        body = await request.json()
    except ValueError:
        body = "no JSON"
    if isinstance(body, dict):
        return [_error("body", name, not_known(name, ())) for name in islice(body, MAX_TOLD)]
    return [] if body in (None, []) else [_error("body", "body", "is not asked for here: leave it empty")]


def _error(where: str, name: str, message: str) -> dict[str, Any]:
    return {"type": "not_known", "loc": (where, name), "msg": message, "input": None}


def _named(errors: Iterable[Mapping[str, Any]], model: Any) -> list[Mapping[str, Any]]:
    """The errors, and those about fields that are not known with the nearest known name."""
    errors = list(errors)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"][:MAX_TOLD]
    named = [{**one, "msg": not_known(str(one["loc"][-1]), _fields_at(one["loc"][1:-1], model))} for one in unknown]
    return named + [one for one in errors if one["type"] != "extra_forbidden"]


def _fields_at(location: tuple[int | str, ...], model: Any) -> list[str]:
    """The names of the fields at a place of the body."""
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
