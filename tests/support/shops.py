"""The seven shops of the tests: their BINs, their made-up device tokens, and the key that encrypts these."""

ENCRYPTION_KEY = "dGhpcyBpcyBhIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ="
SHOPS = {
    121038: "920317450731",
    576631: "210440028324",
    75509: "860214400107",
    69292: "960514451575",
    49237: "930201350766",
    56195: "590915402028",
    71691: "991011000048",
}


def device_token_of(shop_id: int) -> str:
    """The made-up device token of a shop."""
    return f"{shop_id:08d}-0000-4000-8000-000000000000"


def bin_with_checksum(first_eleven: str) -> str:
    """A made-up BIN, whole."""
    digits = [int(digit) for digit in first_eleven]
    for weights in (range(1, 12), (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2)):
        last = sum(weight * digit for weight, digit in zip(weights, digits, strict=True)) % 11
        if last < 10:
            return f"{first_eleven}{last}"
    raise ValueError("no BIN begins like this: take other digits")
