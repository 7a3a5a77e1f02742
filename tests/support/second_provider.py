"""A second provider, as small as the interface allows: it takes on everything and says of a payment what it is told."""

from dataclasses import dataclass, field

from payment_service.providers.interface import (
    Accepted,
    LinkPayment,
    Meaning,
    NoSuchPayment,
    PaymentReceipt,
    PhonePayment,
    Reading,
    RefundOfPayment,
    RefundReceipt,
    StatusRead,
)

NAME = "second"
WORDS = {"open": Meaning.WAITING, "settled": Meaning.PAID}


@dataclass
class SecondProvider:
    """Numbers its payments from ``next_id``."""

    next_id: int
    words: dict[str, str] = field(default_factory=dict)
    """Its word for each payment that it knows."""
    refunds: list[RefundOfPayment] = field(default_factory=list)

    async def create(self, _payment: PhonePayment | LinkPayment) -> Accepted[PaymentReceipt]:
        external_id = str(self.next_id)
        self.next_id += 1
        self.words[external_id] = "open"
        return Accepted(PaymentReceipt(external_id, "open"))

    create_link = create

    async def refund(self, refund: RefundOfPayment) -> Accepted[RefundReceipt]:
        self.refunds.append(refund)
        return Accepted(RefundReceipt())

    async def read_status(self, external_id: str) -> Reading:
        if external_id not in self.words:
            return NoSuchPayment("404", "not here")
        word = self.words[external_id]
        return StatusRead(word, self.meaning_of(word))

    def meaning_of(self, status: str | None) -> Meaning:
        return WORDS.get(status or "", Meaning.UNHEARD_OF)

    async def close(self) -> None:
        """Nothing is held open."""
