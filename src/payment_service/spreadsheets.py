"""CSV files that people open in a spreadsheet."""

ENCODING = "utf-8-sig"
"""UTF-8 with a mark at its beginning: without it Excel takes Cyrillic letters for another encoding's."""


def cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
