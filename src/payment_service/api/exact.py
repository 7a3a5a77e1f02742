"""JSON read exactly: amounts as decimals, never as floats; no NaN, no field given twice."""

import json
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from payment_service.api import media


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


class _ExactRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            read = json.loads(body, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, ArithmeticError, RecursionError) as error:  # ArithmeticError: an exponent beyond any
            # FastAPI turns this one kind into a validation error.
            position = getattr(error, "pos", 0)
            raise json.JSONDecodeError(getattr(error, "msg", str(error)), "", position) from None
        # FastAPI reads the attributes of whatever is an object of Python: a Decimal would pass for an empty body.
        return str(read) if isinstance(read, Decimal) else read


class ExactRoute(APIRoute):
    """A route whose JSON body is read exactly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand FastAPI's own handler a request that reads JSON our way."""
        handler = super().get_route_handler()

        async def exactly(request: Request) -> Response:
            exact = _ExactRequest(request.scope, request.receive)
            if self.body_field is not None:
                await media.check(exact)
            return await handler(exact)

        return exactly
