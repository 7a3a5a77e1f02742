"""Invoices to one phone: both limits hold, neither keeps a phone in memory."""

import pytest

from payment_service.errors import RateLimited
from payment_service.payments.phones import PhoneLimit
from payment_service.rates import Rate

PHONE = "77015211545"


def invoice(limit: PhoneLimit, phone: str | None = PHONE) -> None:
    limit.take(phone)


def test_day_holds_when_the_minute_would_allow_it_and_takes_nothing_from_it() -> None:
    limit = PhoneLimit(Rate(10, 60), Rate(2, 86400))
    invoice(limit)
    invoice(limit)
    for _ in range(20):
        with pytest.raises(RateLimited) as refused:
            invoice(limit)
        assert refused.value.rate.window_s == 86400
    limit.give_back(PHONE)
    invoice(limit)


def test_invoice_that_could_not_be_written_down_does_not_count() -> None:
    limit = PhoneLimit(Rate(1, 60), Rate(1, 86400))
    for _ in range(5):
        limit.take(PHONE)
        limit.give_back(PHONE)
    invoice(limit)


def test_links_are_not_counted() -> None:
    limit = PhoneLimit(Rate(1, 60), Rate(1, 86400))
    for _ in range(5):
        invoice(limit, None)


def test_no_phone_is_held() -> None:
    limit = PhoneLimit(Rate(1, 60), Rate(1, 86400))
    invoice(limit)
    held = [name for limiter in limit._limiters for name in limiter._full_at]
    assert len(held) == 2
    assert all(isinstance(name, bytes) and PHONE.encode() not in name for name in held)
