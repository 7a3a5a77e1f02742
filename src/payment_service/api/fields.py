"""Kinds of fields that several resources share, with their checks, units and examples."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from payment_service.characters import checked_text
from payment_service.identifiers import checked_bin, checked_device_token, checked_phone
from payment_service.money import Money

_ABOUT = frozenset({"title", "description", "default", "examples"})
"""What a schema says of a field besides what its values may be."""
_EXACT = 2**53
"""From here on doubles lose digits: an id that large may be another payment's."""
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")
_NUMBER = re.compile(r"\s*[+-]?[0-9._]*(e[+-]?[0-9]+)?\s*", re.IGNORECASE)
_DAY = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")
_SPACE_FOR_PLUS = re.compile(r"(:[0-9]{2}(?:[.,][0-9]+)?) ([0-9]{2}:?[0-9]{2})$")


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value)):
        raise ValueError("must be a whole number")
    return value


def whole(value: Any) -> Any:
    """A whole number as such: PHP writes one that it computed, or that is large, as ``12800627774.0``."""
    is_whole = isinstance(value, Decimal) and abs(value) < _EXACT and value == int(value)
    return int(value) if is_whole else value


def digits(value: Any) -> Any:
    """Old clients send ids as numbers."""
    number = whole(value)
    is_id = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _EXACT
    return str(number) if is_id else value


def _tenge(value: Any) -> Money:
    try:
        money = Money.from_tenge(value)
    except TypeError as error:
        raise ValueError("an amount is a number or a decimal text of tenge") from error
    if not money.tiyn:
        raise ValueError("an amount must be more than zero")
    return money


def _written_out(value: Any) -> Any:
    """Refuse a number as a time: a year would be read as seconds since 1970.

    In a query a plus sign that is not percent-encoded arrives as a space.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        raise ValueError("is a time in the form of ISO 8601, such as 2025-10-22T10:00:00+05:00")
    return _SPACE_FOR_PLUS.sub(r"\1+\2", value)


def _day(value: Any) -> Any:
    """Refuse what is not written as a day from 2000 on."""
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("is a day from 2000 on, such as 2026-10-31")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
Day = Annotated[date, BeforeValidator(_day), Field(description="A day in Almaty.")]
ShopId = Annotated[
    int, Field(ge=1, le=2_147_483_647, description="The shop.", examples=[121038]), BeforeValidator(_whole_number)
]
Tenge = Annotated[
    Money,
    BeforeValidator(_tenge),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 99999999.99, "multipleOf": 0.01},
                {"type": "string", "pattern": r"^(?!0+(\.0+)?$)0{0,22}[0-9]{1,8}(\.[0-9]{1,2}0{0,28})?$"},
            ],
            "description": "Tenge, more than zero, at most two decimals: a number or a decimal text.",
            "examples": [100],
        }
    ),
]
Phone = Annotated[
    str,
    StringConstraints(max_length=60),
    AfterValidator(checked_phone),
    Field(description="A Kazakh mobile number, in any common spelling.", examples=["77015211545"]),
]
Bin = Annotated[
    str,
    AfterValidator(checked_bin),
    Field(description="BIN or IIN: 12 digits with a checksum.", examples=["920317450731"]),
]
DeviceTokenText = Annotated[
    str,
    AfterValidator(checked_device_token),
    Field(description="8 to 50 letters, digits and dashes; Kaspi's are UUIDs.", examples=["your-device-token-uuid"]),
]
Text = Annotated[str, AfterValidator(checked_text)]
_ID_PATTERN = r"^[A-Za-z0-9_-]{1,50}$"
ExternalId = Annotated[
    str,
    StringConstraints(pattern=_ID_PATTERN),
    Field(description="The provider's id of the payment.", examples=["12800627774"]),
]
SentId = Annotated[
    str,
    BeforeValidator(digits),
    StringConstraints(pattern=_ID_PATTERN),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _ID_PATTERN},
                {"type": "integer", "minimum": 0, "maximum": _EXACT - 1},
            ],
            "description": "The provider's id of the payment.",
            "examples": ["12800627774"],
        }
    ),
]
"""The same in a body, where it may come as a number."""


Item = TypeVar("Item")
Cursor = Annotated[str | None, Query(max_length=200)]


class Listed(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Pass it to get the next page; null on the last page.")


class Body(BaseModel):
    """The body of a request.

    An unknown field is refused by name (``strict``). Null for an optional field counts as leaving it out, unless null
    is a value of that field (``null_says``).
    """

    model_config = ConfigDict(extra="forbid")
    null_says: ClassVar[frozenset[str]] = frozenset()
    """Fields for which null is a value."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()} - cls.null_says
        return {name: value for name, value in given.items() if value is not None or name not in optional}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        document = handler.resolve_ref_schema(reference)
        for name, field in document["properties"].items():
            if name not in document.get("required", ()):
                document["properties"][name] = or_else(field, {"type": "null"})
        return reference


def or_else(field: dict[str, Any], kind: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that accepts values of another kind, too."""
    kinds = field.get("anyOf") or [{name: value for name, value in field.items() if name not in _ABOUT}]
    about = {name: value for name, value in field.items() if name in _ABOUT}
    return {"anyOf": kinds if kind in kinds else [*kinds, kind], **about}


class Changes(Body):
    """What to change; a field that is not given, or null, stays as it is, unless null is a value of it."""

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return self.model_dump(include=self.model_fields_set)
