"""The canonical form: the bytes of a row and of a seal that are hashed. Pure; docs/audit.md documents it.

A form is never changed, only followed by the next one, since its hashes are kept for good: whoever adds a column to
``payment_log`` adds a form that holds it, and seals of earlier forms stay valid. Under those the column must be empty,
because it did not exist when they were made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

FORMS: Final[dict[int, frozenset[str]]] = {
    1: frozenset(
        {
            "id",
            "shop_id",
            "organization_bin",
            "operation_type",
            "external_id",
            "amount",
            "status",
            "state",
            "error_message",
            "provider",
            "payment_id",
            "refund_id",
            "actor",
            "source",
            "request_id",
            "reason",
            "report_id",
            "created_at",
        }
    )
}
FORMS[2] = FORMS[1] | {"subject", "content"}
"""The columns of ``payment_log`` that each form holds."""
MAX_ROWS: Final = 1000
"""Of one seal."""
GENESIS: Final = "0" * 64
"""What the first seal is chained to."""

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def canonical(content: Mapping[str, object]) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8; for what the record holds, the same as RFC 8785.

    Values are text, whole numbers and null: times and UUIDs come as text. Anything else raises TypeError.
    """
    return _encode(content).encode()


def newest_form() -> int:
    """The form that new seals are made in."""
    return max(FORMS)


def covered(row: Mapping[str, Any], form: int) -> dict[str, Any]:
    """The columns of a row that a form holds, and later ones that are not empty: none can be filled unnoticed."""
    columns = FORMS.get(form, frozenset(row))
    return {name: value for name, value in row.items() if name in columns or value is not None}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the record, as it is hashed."""

    id: int
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Seal:
    """A link of the chain. It covers the rows with ``after_id < id <= last_id``."""

    seq: int
    form: int
    previous: str
    after_id: int
    last_id: int
    count: int
    created_at: str
    rows: list[tuple[int, str]]
    """Id and digest of each row, by id."""
    hash: str = ""

    @property
    def content(self) -> dict[str, object]:
        """Everything but its hash."""
        return {
            "seq": self.seq,
            "form": self.form,
            "previous": self.previous,
            "after_id": self.after_id,
            "last_id": self.last_id,
            "count": self.count,
            "created_at": self.created_at,
            "rows": self.rows,
        }

    def computed_hash(self) -> str:
        """SHA-256 of the canonical form, in hex: what ``hash`` must be."""
        return sha256(canonical(self.content)).hexdigest()
