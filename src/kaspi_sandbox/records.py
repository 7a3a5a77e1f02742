"""The things a ledger is made of: calls, entries, payments, refunds. Plain data in whole tiyn and Unix seconds.

A device token is kept only as a mask and a hash.
"""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from kaspi_sandbox import rules
from kaspi_sandbox.rules import Course, Step

#: How long a link can be used, seconds.
LINK_LIFE_S = 180

_KAZAKHSTAN = timezone(timedelta(hours=5))


def kaspi_time(moment: float) -> str:
    """ISO-8601 with milliseconds and +05:00, from Unix seconds."""
    return datetime.fromtimestamp(moment, _KAZAKHSTAN).isoformat(timespec="milliseconds")


def tenge(amount: int) -> str:
    """Tiyn as a decimal string of tenge with two places."""
    return f"{amount // 100}.{amount % 100:02d}"


def masked(device_token: str) -> str:
    """The first eight characters: enough to recognise a token, not to use it."""
    return device_token[:8] + "…"


def token_hash(device_token: str) -> str:
    """SHA-256 in hex: lets a test compare tokens without seeing them."""
    return hashlib.sha256(device_token.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as it came in; what it did not say is None."""

    op: str
    organization_bin: str | None
    device_token: str | None
    #: Tiyn; None also when the text was no amount.
    amount: int | None
    phone: str | None
    message: str | None
    external_id: str | None
    #: The call named no BIN, so the BIN here is the proxy's own.
    default_merchant_used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One call in the ledger."""

    sequence: int
    op: str
    time: float
    organization_bin: str | None
    device_token: str | None
    device_token_sha256: str | None
    amount: int | None
    phone: str | None
    message: str | None
    external_id: str | None
    return_operation_id: int | None
    course: str
    applied: bool
    #: Why it was refused: Kaspi's code, `http_403` or `invalid`; None when nothing refused it.
    refusal: str | None
    default_merchant_used: bool

    def shown(self) -> dict[str, Any]:
        """The entry as `GET /_ledger` shows it: amount in tenge, time in ISO-8601."""
        amount = None if self.amount is None else tenge(self.amount)
        return asdict(self) | {"amount": amount, "time": kaspi_time(self.time)}


@dataclass(slots=True, kw_only=True)
class Payment:
    """A payment that was made. Its status follows from its plan and the time; nothing has to run for it to move."""

    external_id: str
    op: str
    created: float
    amount: int
    organization_bin: str
    #: None when it was made without a token.
    device_token_sha256: str | None
    phone: str | None
    message: str
    course: Course
    plan: tuple[Step, ...]
    refunded: int = 0

    @property
    def expires(self) -> float:
        """Until when a link can be used."""
        return self.created + LINK_LIFE_S

    def status(self, now: float) -> str:
        """The provider's word for where the payment stands."""
        age = now - self.created
        return next((step.status for step in reversed(self.plan) if step.after_s <= age), self.plan[0].status)

    def pending(self, now: float) -> bool:
        """Whether a person may still pay or decline it."""
        return self.status(now) not in rules.FINAL

    def shown(self, now: float) -> dict[str, Any]:
        """The payment as `GET /_payments` shows it; `next` is the step that will end it by itself."""
        age = now - self.created
        ending = next((step for step in self.plan if step.after_s > age and step.status in rules.FINAL), None)
        return {
            "external_id": self.external_id,
            "op": self.op,
            "status": self.status(now),
            "pending": self.pending(now),
            "amount": tenge(self.amount),
            "refunded": tenge(self.refunded),
            "organization_bin": self.organization_bin,
            "phone": self.phone,
            "message": self.message,
            "course": self.course.name,
            "created_at": kaspi_time(self.created),
            "next": ending and {"status": ending.status, "in_s": round(ending.after_s - age, 1)},
        }


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund that was made."""

    external_id: str
    return_operation_id: int
    amount: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Kaspi's no: nothing moved."""

    code: int
