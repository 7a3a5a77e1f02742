"""Money: whole tiyn inside (1 tenge = 100 tiyn), tenge at the edges, a float nowhere."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

TIYN_PER_TENGE = 100
MAX_TIYN = 99_999_999_99  # 99 999 999.99 tenge, the largest amount of docs/contract.md
_MAX_TENGE = Decimal(MAX_TIYN).scaleb(-2)
_CENT = Decimal("0.01")
_PLAIN_DECIMAL = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")


@dataclass(frozen=True, order=True, slots=True)
class Money:
    """An amount of tenge, held as whole tiyn. Zero is allowed (nothing refunded yet); less is not."""

    tiyn: int

    def __post_init__(self) -> None:
        if type(self.tiyn) is not int:
            raise TypeError(f"tiyn are whole numbers, not {type(self.tiyn).__name__}")
        if not 0 <= self.tiyn <= MAX_TIYN:
            raise ValueError("an amount is between 0 and 99 999 999.99 tenge")

    @classmethod
    def from_tenge(cls, tenge: Decimal | int | str) -> Self:
        """Read tenge with at most two decimals.

        Raises:
            TypeError: for a float (or a bool): it may have lost the amount already.
            ValueError: for more than two decimals, a negative or too large amount, or no number at all.
        """
        if isinstance(tenge, bool) or not isinstance(tenge, Decimal | int | str):
            raise TypeError(f"tenge come as Decimal, int or text, not {type(tenge).__name__}")
        if isinstance(tenge, str) and not _PLAIN_DECIMAL.fullmatch(tenge):
            raise ValueError("an amount is written in digits with a decimal point, such as 100 or 99.50")
        exact = Decimal(tenge)
        # Compared before anything is computed: arithmetic rounds to 28 digits, comparison is exact.
        if not (exact.is_finite() and 0 <= exact <= _MAX_TENGE):
            raise ValueError("an amount is between 0 and 99 999 999.99 tenge")
        rounded = exact.quantize(_CENT)
        if rounded != exact:
            raise ValueError("an amount has at most two decimals")
        return cls(int(rounded.scaleb(2)))

    @property
    def tenge(self) -> Decimal:
        """The amount in tenge, exact, with two decimals."""
        return Decimal(self.tiyn).scaleb(-2)

    @property
    def number(self) -> int | float:
        """The amount in tenge as the number that JSON shows: 50, or 50.5.

        Only for writing JSON: the nearest double of an amount with two decimals below 10**8 prints those very
        decimals. Nobody computes with it.
        """
        whole, rest = divmod(self.tiyn, TIYN_PER_TENGE)
        return float(self.tenge) if rest else whole

    def __str__(self) -> str:
        """Fixed point, as the provider wants it: ``100.00``."""
        return f"{self.tenge:.2f}"

    def __add__(self, other: Self) -> Self:
        return type(self)(self.tiyn + other.tiyn)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.tiyn - other.tiyn)
