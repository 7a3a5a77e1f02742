"""The bodies and headers of requests for payments."""

import json
from typing import Annotated, Any, Literal

from fastapi import Header
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from payment_service.api.fields import Body, Phone, ShopId, Tenge, Text
from payment_service.identifiers import checked_order_id

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{8,128}$",
        description="8 to 128 visible ASCII characters. The same key and the same request give the same answer, "
        "and are never executed twice.",
    ),
]
MAX_METADATA_BYTES = 8192


def _no_empty_list(value: Any) -> Any:
    """PHP writes an empty map as a list."""
    return {} if value == [] else value


def _small_enough(metadata: dict[str, str]) -> dict[str, str]:
    # As jsonb is written, since the database counts those bytes.
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"is {size} bytes as JSON in UTF-8; at most {MAX_METADATA_BYTES} are allowed")
    return metadata


def _tenge_only(value: Any) -> Any:
    if value != "KZT":
        raise ValueError("all amounts are in tenge: send KZT, or leave it out")
    return value


Currency = Annotated[Literal["KZT"], BeforeValidator(_tenge_only)]
Metadata = Annotated[
    dict[
        Annotated[Text, StringConstraints(min_length=1, max_length=40)],
        Annotated[Text, StringConstraints(max_length=500)],
    ],
    BeforeValidator(_no_empty_list),
    AfterValidator(_small_enough),
    Field(
        max_length=20, description="Up to 20 of your own texts, stored with the payment: at most 8192 bytes as JSON."
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {"type": "string", "maxLength": 500},
                    "propertyNames": {"minLength": 1, "maxLength": 40},
                    "maxProperties": 20,
                },
                {"type": "array", "maxItems": 0},
            ]
        }
    ),
]


class CreateLink(Body):
    """A payment by link."""

    shop_id: ShopId
    amount: Tenge
    message: Annotated[Text, StringConstraints(max_length=200)] = Field(
        default="", description="Shown to the buyer, followed by the payment's short code.", examples=["Test payment"]
    )
    order_id: (
        Annotated[Text, StringConstraints(min_length=1, max_length=64), AfterValidator(checked_order_id)] | None
    ) = Field(
        default=None,
        description="Your order id, without invisible characters. An order has at most one open payment.",
        examples=["12345"],
    )
    metadata: Metadata = Field(default={})
    currency: Currency | None = Field(default=None, description="The currency of the amount, always KZT.")


class Create(CreateLink):
    """A payment by invoice to a phone."""

    phone: Phone
