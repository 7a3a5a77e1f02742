import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from payment_service.identifiers import (
    MASK,
    checked_bin,
    checked_device_token,
    checked_phone,
    looks_like_uuid,
    masked,
    new_id,
    new_short_code,
)

BINS = [
    "920317450731",
    "210440028324",
    "860214400107",
    "960514451575",
    "930201350766",
    "590915402028",
    "991011000048",
    "891027350515",
]
"""Those of docs/contract.md section 3."""
FIRST = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
SECOND = (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2)


def weighed(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits[:11], weights, strict=True)) % 11


def is_bin(text: str) -> bool:
    try:
        return checked_bin(text) == text
    except ValueError:
        return False


@st.composite
def bins(draw: st.DrawFn) -> str:
    """A valid BIN, made by the rule of docs/kaspi-api.md section 1."""
    digits = draw(st.text("0123456789", min_size=11, max_size=11))
    check = weighed(digits, FIRST)
    if check == 10:
        check = weighed(digits, SECOND)
    assume(check != 10 and digits.strip("0"))
    return f"{digits}{check}"


# --- BIN


@pytest.mark.parametrize("text", BINS)
def test_bins_of_the_shops_are_valid(text: str) -> None:
    assert checked_bin(text) == text


@given(bins())
def test_bin_made_by_the_rule_is_valid(text: str) -> None:
    assert is_bin(text)


@given(st.text("0123456789", min_size=11, max_size=11))
def test_eleven_digits_have_one_last_digit_at_most(digits: str) -> None:
    valid = [last for last in "0123456789" if is_bin(digits + last)]
    both_ten = weighed(digits, FIRST) == weighed(digits, SECOND) == 10
    assert len(valid) == (0 if both_ten or not digits.strip("0") else 1)


@given(bins(), st.integers(0, 11), st.integers(1, 9))
def test_a_wrong_digit_is_seen_where_the_checksum_can_see_it(text: str, at: int, by: int) -> None:
    """Always in the last place, and in the first ten as long as the first weights decide before and after.

    Not in the eleventh: its first weight is 11, which is nothing modulo 11. Where a first sum of 10 brings the second
    weights in, a wrong digit may pass by chance.
    """
    changed = text[:at] + str((int(text[at]) + by) % 10) + text[at + 1 :]
    by_first_weights = 10 not in {weighed(text, FIRST), weighed(changed, FIRST)}
    if at == 11 or (at < 10 and by_first_weights):
        assert not is_bin(changed)
    if at == 10 and by_first_weights:
        assert is_bin(changed)


def test_most_wrong_digits_of_the_shops_bins_are_seen() -> None:
    for text in BINS:
        changes = [
            text[:at] + digit + text[at + 1 :] for at in range(12) for digit in "0123456789" if digit != text[at]
        ]
        unseen = [changed for changed in changes if is_bin(changed)]
        assert len(changes) == 108
        assert len(unseen) <= 18
        assert sum(1 for changed in unseen if changed[10] == text[10]) <= 9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "92031745073",
        "9203174507310",
        " 920317450731",
        "920317450731\n",
        "92031745073\u0661",
        "\uff1920317450731",
        "abc",
    ],
)
def test_what_is_not_12_digits_is_no_bin(text: str) -> None:
    with pytest.raises(ValueError, match="12 digits"):
        checked_bin(text)


def test_wrong_checksum_is_told_apart_from_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="checksum"):
        checked_bin("920317450732")


def test_zeros_are_nobodys_bin() -> None:
    with pytest.raises(ValueError, match="zeros"):
        checked_bin("0" * 12)


# --- phone


@pytest.mark.parametrize(
    "text",
    [
        "77010203040",
        "+77010203040",
        "87010203040",
        "+7 701 020 30 40",
        "8 (701) 020-30-40",
        "8\u2011701\u2013020\u201430\u00a040",
        "7-701-020-3040",
        "7701020304\u0660",
        "\uff177010203040",
        "\u202a+7 701 020\u201130\u201140\u202c",
    ],
)
def test_phone_is_read_in_every_usual_spelling(text: str) -> None:
    assert checked_phone(text) == "77010203040"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7010203040",
        "7701020304",
        "770102030401",
        "+87010203040",
        "++77010203040",
        "97010203040",
        "79161234567",
        "7701020304a",
        "7701020304\u2070",
        "77010203040;77010203041",
        "7 701 020 30 40 ext 1",
        "77010203040&amount=1",
    ],
)
def test_what_is_no_kazakh_mobile_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="11 digits"):
        checked_phone(text)


@given(st.text() | st.from_regex(r"[+78][0-9 ()-]{8,16}", fullmatch=True))
def test_phone_is_eleven_plain_digits_or_refused(text: str) -> None:
    try:
        phone = checked_phone(text)
    except ValueError:
        return
    assert re.fullmatch(r"77[0-9]{9}", phone)
    digits = [unicodedata.decimal(sign, None) for sign in text]
    assert [digit for digit in digits if digit is not None][1:] == [int(digit) for digit in phone[1:]]
    assert checked_phone(phone) == phone


# --- device token


@given(st.from_regex(r"[A-Za-z0-9-]{8,50}", fullmatch=True))
def test_device_token_comes_through_unchanged_and_its_mask_is_none(token: str) -> None:
    assert checked_device_token(token) == token
    shown = masked(token).removesuffix(MASK)
    assert token.startswith(shown)
    assert len(shown) == min(8, len(token) // 3)
    with pytest.raises(ValueError, match="device token"):
        checked_device_token(masked(token))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234567",
        "x" * 51,
        "with space",
        "with_line",
        "токен-токен",
        "12345678\n",
        "1234567\u0668",
        f"12345678{MASK}",
    ],
)
def test_what_is_no_device_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="8 to 50"):
        checked_device_token(text)


@given(st.uuids())
def test_uuid_looks_like_a_kaspi_token_in_either_case(token: object) -> None:
    assert looks_like_uuid(str(token))
    assert looks_like_uuid(str(token).upper())


@pytest.mark.parametrize("token", ["your-device-token-uuid", "0" * 32, "{00000000-0000-4000-8000-000000000000}", ""])
def test_other_tokens_do_not_look_like_kaspis(token: str) -> None:
    assert not looks_like_uuid(token)


# --- our own


def test_our_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {made.version for made in ids} == {7}
    assert ids == sorted(set(ids))


def test_short_code_has_nothing_that_reads_like_something_else() -> None:
    codes = [new_short_code() for _ in range(1000)]
    assert all(re.fullmatch(r"[2-9A-HJKMNP-Z]{6}", code) for code in codes)
    assert len(set(codes)) > 990
