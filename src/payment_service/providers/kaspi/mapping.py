"""What Kaspi's status words and codes mean. Data from docs/kaspi-api.md sections 3 and 4; pure.

Anything that is not listed means unknown.
"""

from types import MappingProxyType
from typing import Final

from payment_service.providers.interface import Meaning, Remedy

MEANINGS: Final = MappingProxyType(
    {
        "QrTokenCreated": Meaning.WAITING,
        "RemotePaymentCreated": Meaning.WAITING,
        "Wait": Meaning.WAITING,
        "QrTokenScanned": Meaning.WAITING,
        "PaymentConfirmation": Meaning.WAITING,
        "RemotePaymentProcessing": Meaning.WAITING,
        "Processed": Meaning.PAID,
        "Paid": Meaning.PAID,
        "RemotePaymentPaid": Meaning.PAID,
        "Error": Meaning.FAILED,
        "Expired": Meaning.FAILED,
        "QrTokenDiscarded": Meaning.FAILED,
        "RemotePaymentExpired": Meaning.FAILED,
        "RemotePaymentRejected": Meaning.FAILED,
        "NotConfirmedByUser": Meaning.FAILED,
        "ProcessingFailed": Meaning.FAILED,
        "Rejected": Meaning.FAILED,
        "InsufficientFunds": Meaning.FAILED,
        "RemotePaymentCanceled": Meaning.CANCELLED,
        "CancelledByUser": Meaning.CANCELLED,
        "CancelledByExternalSource": Meaning.CANCELLED,
    }
)

NO_MONEY_MOVED: Final = frozenset(
    {
        "-10000",
        "-1501",
        "-1502",
        "-1503",
        "-1601",
        "-99000001",
        "-14000002",
        "-99000002",
        "-99000003",
        "-99000005",
        "-99000011",
        "-99000020",
        # Seen with both signs (docs/kaspi-api.md section 4).
        "990000018",
        "-990000018",
        "990000026",
        "-990000026",
        "990000028",
        "-990000028",
        "990000033",
        "-990000033",
    }
)
"""Codes that say for certain that no money was moved."""

CONTRADICTS_A_REFUND: Final = frozenset({"-1601", "-99000001", "-99000003", "-99000005", "-99000011"})
"""Refusals of a refund by which the payment does not exist, is of another account, has less left or is not paid."""

NO_SUCH_PAYMENT: Final = frozenset({"-1601", "-99000001"})

REMEDIES: Final = MappingProxyType(
    {
        "-10000": Remedy.CERTIFICATE,
        "-1501": Remedy.DEVICE,
        "-1502": Remedy.DEVICE,
        "-1503": Remedy.DEVICE,
        "-14000002": Remedy.POINT_OF_SALE,
        "-99000002": Remedy.POINT_OF_SALE,
        "990000018": Remedy.POINT_OF_SALE,
        "990000026": Remedy.POINT_OF_SALE,
        "-99000003": Remedy.ROUTE,
        "990000028": Remedy.AMOUNT,
        "990000033": Remedy.BUYER,
    }
)
"""What helps against a refusal, where the code says it; by the code without the sign that some are seen with."""

REFUSED_BY_PROXY: Final = frozenset({401, 403, 404, 405, 429})
"""HTTP statuses with which the proxy itself refuses, before anything reaches Kaspi."""


def meaning_of(status: str | None) -> Meaning:
    """What a status word means. An unknown word is never read as failed."""
    return MEANINGS.get(status or "", Meaning.UNHEARD_OF)


def remedy_of(code: str | None) -> Remedy | None:
    """What helps against a refusal with this code; none for a code that does not say it."""
    return REMEDIES.get(code or "") or REMEDIES.get((code or "").removeprefix("-"))
