"""What every provider of payments offers, in the terms of this service and not of its wire format.

A money call (create, create-link, refund) never raises: it returns one of four outcomes. Unknown is the default of
every mapping; only a known fact makes an outcome anything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeAlias, TypeVar

from payment_service.money import Money


@dataclass(frozen=True, slots=True)
class Account:
    """The seller's side of a call: whose account, and the device token that opens it."""

    organization_bin: str
    device_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # The proxy pays its own default merchant when the BIN is missing: the wrong seller, silently.
        if not self.organization_bin:
            raise ValueError("a call to the provider needs an organisation BIN")


@dataclass(frozen=True, slots=True)
class PhonePayment:
    """Invoice a phone."""

    account: Account
    amount: Money
    phone: str = field(repr=False)
    message: str


@dataclass(frozen=True, slots=True)
class LinkPayment:
    """Make a payment link. The account needs its device token."""

    account: Account
    amount: Money
    message: str


@dataclass(frozen=True, slots=True)
class RefundOfPayment:
    """Pay back, whole or in part, to whoever paid. The account needs its device token."""

    account: Account
    amount: Money
    external_id: str


@dataclass(frozen=True, slots=True)
class PaymentReceipt:
    """What the provider returns for a payment that it accepted."""

    external_id: str
    status: str | None = None
    payment_link: str | None = None
    expire_date: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefundReceipt:
    """What the provider returns for a refund that it made."""

    provider_refund_id: str | None = None


Receipt = TypeVar("Receipt", covariant=True)  # noqa: PLC0105 - one letter more would say no more


class RefusedBy(StrEnum):
    """Who refused: the provider this request, or the proxy this service."""

    PROVIDER = "provider"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Accepted(Generic[Receipt]):
    """The provider confirmed that it did it."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider stated that it did not do it."""

    code: str
    message: str
    by: RefusedBy = RefusedBy.PROVIDER
    contradicts_record: bool = False
    """Of a refund: whether it contradicts our record of the payment, as by saying that it is not paid."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the request left this machine."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been done or not. It is never sent again and never becomes failed."""

    reason: str
    code: str | None = None
    external_id: str | None = None


Outcome: TypeAlias = Accepted[Receipt] | Rejected | NotSent | Unknown


class Meaning(StrEnum):
    """What a provider's status word means for a payment."""

    WAITING = "waiting"
    PAID = "paid"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNHEARD_OF = "unheard_of"


class Remedy(StrEnum):
    """What somebody has to do so that a provider does not refuse again."""

    CERTIFICATE = "certificate"
    """The proxy's owner: its certificate at the provider."""
    DEVICE = "device"
    """The seller registers the device anew, and its token is set here."""
    POINT_OF_SALE = "point_of_sale"
    """The seller creates or activates one in the provider's own app."""
    ROUTE = "route"
    """BIN and device token are not of one seller."""
    AMOUNT = "amount"
    BUYER = "buyer"
    """The buyer has no way to pay there."""


@dataclass(frozen=True, slots=True)
class StatusRead:
    """The provider's status of a payment, and what it means."""

    status: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class NoSuchPayment:
    """The provider does not know the payment."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StatusUnread:
    """The status could not be read. That says nothing about the payment."""

    reason: str
    refused_by_proxy: bool = False


Reading: TypeAlias = StatusRead | NoSuchPayment | StatusUnread


class Provider(Protocol):
    """A provider of payments."""

    async def create(self, payment: PhonePayment) -> Outcome[PaymentReceipt]:
        """Invoice a phone, at most once."""

    async def create_link(self, payment: LinkPayment) -> Outcome[PaymentReceipt]:
        """Make a payment link, at most once."""

    async def refund(self, refund: RefundOfPayment) -> Outcome[RefundReceipt]:
        """Pay back, at most once."""

    async def read_status(self, external_id: str) -> Reading:
        """Read the status of a payment. Safe to repeat."""

    def meaning_of(self, status: str | None) -> Meaning:
        """What a status word means; UNHEARD_OF for an unknown one."""

    async def close(self) -> None:
        """Close its connections."""


Providers: TypeAlias = Mapping[str, Provider]
