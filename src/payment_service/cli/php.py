"""The table of shops as a PHP file that returns an array, for a site to use while the service is away."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = ("organization_bin", "device_token", "is_active", "provider", "name")


def php_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """PHP that returns ``shop_id => [organization_bin, device_token, is_active, provider, name]``.

    A row without a device token, or of an export without tokens, has null there.
    """
    lines = ["<?php", "// Written by payment-service shops export --format php. Do not change it by hand.", "return ["]
    for row in rows:
        fields = ", ".join(f"{_literal(name)} => {_literal(row.get(name))}" for name in _COLUMNS)
        lines.append(f"    {row['shop_id']:d} => [{fields}],")
    return "\n".join([*lines, "];", ""])


def _literal(value: str | bool | None) -> str:
    """A PHP literal. In single quotes only the backslash and the quote itself mean anything."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
