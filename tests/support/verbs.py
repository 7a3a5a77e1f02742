"""The three money calls, each with what goes out, what comes back and how it is read."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from payment_service.money import Money
from payment_service.providers.interface import (
    Accepted,
    Account,
    LinkPayment,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    RefundOfPayment,
    RefundReceipt,
)
from payment_service.providers.kaspi import wire
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.kaspi.settings import KaspiSettings

ACCESS_TOKEN: Final = "access-token-that-nobody-may-read"
DEVICE_TOKEN: Final = "0c0ffee0-1111-4222-8333-444455556666"
PHONE: Final = "77010203040"
BIN: Final = "920317450731"
ID: Final = "12800627774"
AMOUNT: Final = Money(10050)
MESSAGE: Final = "Розы & тюльпаны #1 +50%?"
PAY_HERE: Final = "https://pay.kaspi.kz/pay/abc123"
ACCOUNT: Final = Account(BIN, DEVICE_TOKEN)
SECRETS: Final = (ACCESS_TOKEN, DEVICE_TOKEN, PHONE, PHONE[1:], "access_token=", "organizationBin", "?")
"""None of these may be told: the last three would mean that an address was."""

AnyOutcome: TypeAlias = Outcome[PaymentReceipt] | Outcome[RefundReceipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One money call."""

    operation: str
    call: Callable[[KaspiClient], Awaitable[AnyOutcome]]
    query: Mapping[str, str]
    data: Mapping[str, Any]
    id_key: str
    read: Callable[[wire.Reply], AnyOutcome]
    accepted: AnyOutcome

    def success(self, **changes: Any) -> bytes:
        """The reply to a call that was done; ``id`` stands for this verb's name of it, an Ellipsis leaves it out."""
        data = {**self.data, **{self.id_key if name == "id" else name: value for name, value in changes.items()}}
        return json.dumps({"status": True, "data": {name: v for name, v in data.items() if v is not ...}}).encode()

    def __str__(self) -> str:
        return self.operation


CREATE: Final = Verb(
    operation="create",
    call=lambda client: client.create(PhonePayment(ACCOUNT, AMOUNT, PHONE, MESSAGE)),
    query={"phone": PHONE, "amount": "100.50", "message": MESSAGE, "organizationBin": BIN, "deviceToken": DEVICE_TOKEN},
    data={"externalId": int(ID), "status": "Wait"},
    id_key="externalId",
    read=lambda reply: wire.read_payment(reply, wants_link=False),
    accepted=Accepted(PaymentReceipt(ID, "Wait")),
)
LINK: Final = Verb(
    operation="create-link",
    call=lambda client: client.create_link(LinkPayment(ACCOUNT, AMOUNT, MESSAGE)),
    query={"amount": "100.50", "message": MESSAGE, "organizationBin": BIN, "deviceToken": DEVICE_TOKEN},
    data={"paymentLink": PAY_HERE, "paymentId": ID, "expireDate": "2025-10-22T15:00:00.500+05:00"},
    id_key="paymentId",
    read=lambda reply: wire.read_payment(reply, wants_link=True),
    accepted=Accepted(
        PaymentReceipt(ID, payment_link=PAY_HERE, expire_date=datetime(2025, 10, 22, 10, 0, 0, 500_000, tzinfo=UTC))
    ),
)
REFUND: Final = Verb(
    operation="refund",
    call=lambda client: client.refund(RefundOfPayment(ACCOUNT, AMOUNT, ID)),
    query={"externalId": ID, "amount": "100.50", "organizationBin": BIN, "deviceToken": DEVICE_TOKEN},
    data={"externalId": int(ID), "returnOperationId": 15, "refundedAmount": 100.5},
    id_key="externalId",
    read=lambda reply: wire.read_refund(reply, external_id=ID, amount=AMOUNT),
    accepted=Accepted(RefundReceipt("15")),
)
VERBS: Final = (CREATE, LINK, REFUND)


def client_of(
    url: str,
    *,
    deadline_s: float = 10,
    connect_timeout_s: float = 5,
    max_calls: int = 5,
    connections_ahead: int = 0,
) -> KaspiClient:
    """A client of the proxy at this address; patient, where a test is not about time. It connects when it calls."""
    return KaspiClient(
        KaspiSettings(
            url,
            ACCESS_TOKEN,
            deadline_s=deadline_s,
            connect_timeout_s=connect_timeout_s,
            max_calls=max_calls,
            max_readings=max_calls,
            connections_ahead=connections_ahead,
            breaker_failures=0,  # a test of the breaker says otherwise
        )
    )
