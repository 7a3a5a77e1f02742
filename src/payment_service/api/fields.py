"""Kinds of fields that several resources share, with their checks, units and examples."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from payment_service.identifiers import checked_bin, checked_device_token, checked_phone
from payment_service.money import Money


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - Pydantic turns ValueError into a field's problem
    return value


def _tenge(value: Any) -> Money:
    try:
        money = Money.from_tenge(value)
    except TypeError as error:
        raise ValueError("an amount is a number or a decimal text of tenge") from error
    if not money.tiyn:
        raise ValueError("an amount is more than zero")
    return money


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


ShopId = Annotated[
    int, BeforeValidator(_whole_number), Field(ge=1, le=2_147_483_647, description="The shop.", examples=[121038])
]
Tenge = Annotated[
    Money,
    BeforeValidator(_tenge),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 99999999.99, "multipleOf": 0.01},
                {"type": "string", "pattern": r"^[0-9]{1,8}(\.[0-9]{1,2})?$"},
            ],
            "description": "Tenge, more than zero, at most two decimals: a number or a decimal text.",
            "examples": [100],
        }
    ),
]
Phone = Annotated[
    str,
    StringConstraints(max_length=30),
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
Text = Annotated[str, AfterValidator(_printable)]
ExternalId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,50}$"),
    Field(description="The provider's id of the payment.", examples=["12800627774"]),
]
JsonTenge = Annotated[int | float, Field(description="Tenge.", examples=[100])]
