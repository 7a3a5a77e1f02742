"""Answers, written once: a view by its own serializer."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel


def json_response(view: BaseModel, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """The view as an answer, for endpoints that add headers or another status. Any other returns the view itself."""
    return Response(view.__pydantic_serializer__.to_json(view), status, headers, "application/json")
