"""Routing from a CSV file: names every bad row, shows what would change, and changes all or nothing."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.characters import checked_text
from payment_service.errors import InvalidInput
from payment_service.identifiers import looks_like_uuid
from payment_service.routing.models import PaymentConfig
from payment_service.routing.service import Routing, checked_fields
from payment_service.routing.tokens import masked_token
from payment_service.routing.versions import ROUTING_FIELDS
from payment_service.spreadsheets import value_of

COLUMNS = (
    "shop_id",
    "organization_bin",
    "name",
    "city",
    "description",
    "provider",
    "is_active",
    "device_token",
    "version",
)
_REQUIRED = ("shop_id", "organization_bin")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_OTHER_MARKS = {";": "';'", "\t": "tabs"}
_NUMBER = re.compile(r"[0-9]{1,10}")
_LONGEST = {"name": 200, "city": 100, "description": 500}


class BadFileError(Exception):
    """The file cannot be imported; ``problems`` names every row that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Row:
    """One shop of the file. Only the columns that the file has are in ``fields``."""

    line: int
    shop_id: int
    fields: Mapping[str, Any] = field(repr=False)
    version: int | None = None
    """Of the routing that was exported; none where the file does not say."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What the import does, or would do, to one shop."""

    shop_id: int
    action: str
    """``create``, ``change`` or ``keep``."""
    changes: Mapping[str, tuple[object, object]]
    """From and to, by field; a device token is shown masked."""
    warnings: list[str]
    """What a person should look at before money moves."""


def packaged_shops() -> str:
    """The seven shops that ship with the package, as CSV; no tokens in it."""
    return (files("payment_service.routing") / "shops.csv").read_text("utf-8")


def parse(text: str) -> list[Row]:
    """Read a CSV file.

    Raises:
        BadFileError: with every problem of every row, and no word of the file: it may hold secrets in any place.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), restkey="", strict=True)
    try:
        header = list(reader.fieldnames or ())
        found = [(reader.line_num, raw) for raw in reader]
    except csv.Error as error:
        raise BadFileError([f"This is no CSV file: {error}."]) from error
    problems = [f"Column {name} is missing." for name in _REQUIRED if name not in header]
    # By its place: a file of something else may begin with a device token.
    problems += [
        f"Column {place} of the first line is not known; there are {', '.join(COLUMNS)}."
        for place, name in enumerate(header, 1)
        if name not in COLUMNS
    ]
    problems += [
        f"The columns are separated by {called}: save the file with commas."
        for mark, called in _OTHER_MARKS.items()
        if set(_REQUIRED) <= set(",".join(header).split(mark))
    ]
    problems += [f"Column {name!r} is there twice." for name in COLUMNS if header.count(name) > 1]
    if problems:
        raise BadFileError(problems)
    if not found:
        raise BadFileError(["The file holds no shops."])
    rows: list[Row] = []
    # As numbers: 08 is 8.
    shop_ids = [(raw["shop_id"] or "").strip().lstrip("0") for _, raw in found]
    times = Counter(shop_ids)
    for shop_id, (line, raw) in zip(shop_ids, found, strict=True):
        if times[shop_id] > 1:
            problems.append(f"Line {line}: its shop_id stands in the file {times[shop_id]} times.")
        try:
            rows.append(_row(line, raw))
        except InvalidInput as error:
            problems.append(f"Line {line}: {error.detail}")
    if problems:
        raise BadFileError(problems)
    return rows


def _row(line: int, raw: Mapping[str, str | None]) -> Row:
    values = {name: value_of((value or "").strip()) for name, value in raw.items() if name}
    if "" in raw:
        raise InvalidInput("row", "has more cells than there are columns")
    if not (_NUMBER.fullmatch(values["shop_id"]) and 0 < int(values["shop_id"]) < 2**31):
        raise InvalidInput("shop_id", "is a whole number above zero")
    version = values.get("version") or None
    if version is not None and not _NUMBER.fullmatch(version):
        raise InvalidInput("version", "is a whole number: that of 'shops export'")
    fields: dict[str, Any] = {name: value for name, value in values.items() if name not in {"shop_id", "version"}}
    if "is_active" in fields:
        if fields["is_active"].lower() not in _TRUTH:
            raise InvalidInput("is_active", "is true or false")
        fields["is_active"] = _TRUTH[fields["is_active"].lower()]
    # An empty cell changes nothing, so that a file without tokens or providers never removes any.
    for name in ("device_token", "provider"):
        if not fields.get(name, ""):
            fields.pop(name, None)
    for name, longest in _LONGEST.items():
        if len(fields.get(name, "")) > longest:
            raise InvalidInput(name, f"is longer than {longest} characters")
        try:
            checked_text(fields.get(name, ""))
        except ValueError as error:
            raise InvalidInput(name, str(error)) from error
    return Row(line, int(values["shop_id"]), checked_fields(fields), version and int(version))


async def apply(
    routing: Routing, rows: list[Row], *, reason: str, dry_run: bool, new_only: bool = False
) -> list[Planned]:
    """Bring the routing to what the file says, in one transaction; a dry run makes the same changes and commits none.

    ``new_only``: shops that are there keep their routing.

    Raises:
        BadFileError: when it would change a shop that has changed since it was exported.
        TokenOfAnotherBin: for a device token that is used with another BIN.
    """
    async with routing.database.reading() if dry_run else routing.database.transaction() as session:
        existing = await routing.lock_all(session)
        planned = await write(routing, session, rows, existing, reason=reason, new_only=new_only)
    routing.cache.forget_all()
    return planned


async def write(
    routing: Routing,
    session: AsyncSession,
    rows: list[Row],
    existing: Mapping[int, PaymentConfig],
    *,
    reason: str,
    new_only: bool,
) -> list[Planned]:
    """Write what differs from the ``existing`` routing, which the caller's transaction has locked."""
    bins = {shop_id: config.organization_bin for shop_id, config in existing.items()}
    bins |= {row.shop_id: row.fields["organization_bin"] for row in rows if not (new_only and row.shop_id in bins)}
    planned: list[Planned] = []
    stale: list[str] = []
    for row in rows:
        config = existing.get(row.shop_id)
        if config is not None and new_only:
            planned.append(Planned(row.shop_id, "keep", {}, []))
            continue
        same_bin = [shop_id for shop_id, of_shop in bins.items() if of_shop == bins[row.shop_id]]
        planned.append(plan(routing, row, config, same_bin))
        if "device_token" in planned[-1].changes:
            earlier = await routing.earlier_bins(session, row.fields["device_token"], bins[row.shop_id])
            planned[-1].warnings.extend(map(earlier_bin_warning, earlier))
        if config is not None and planned[-1].action == "change" and row.version not in {None, config.version}:
            stale.append(f"Line {row.line}: shop {row.shop_id} has changed since this file was exported.")
            continue
        if planned[-1].action == "create":
            await routing.insert(session, row.shop_id, row.fields, reason=reason)
        elif config is not None and planned[-1].action == "change":
            await routing.change(session, config, row.fields, reason=reason)
    if stale:
        raise BadFileError([*stale, "Export again, and change that; or leave the column version out."])
    return planned


def earlier_bin_warning(organization_bin: str) -> str:
    """What is said of a device token that stood with this BIN before."""
    return f"its device token stood with BIN {organization_bin} before: is it not that seller's?"


def plan(routing: Routing, row: Row, config: PaymentConfig | None, same_bin: Collection[int] = ()) -> Planned:
    """What a row of the file does to a shop. ``same_bin``: the shops that have its BIN afterwards."""
    before: dict[str, Any] = {}
    if config is not None:
        before = {name: getattr(config, name) for name in ROUTING_FIELDS}
        before["device_token"] = routing.opened(config).device_token
    changes = {
        name: (before.get(name), value) for name, value in row.fields.items() if config is None or before[name] != value
    }
    warnings = []
    others = sorted({*same_bin} - {row.shop_id})
    if others and "organization_bin" in changes:
        warnings.append(f"its BIN is also that of shop {', '.join(map(str, others))}: are they of one seller?")
    if "device_token" in changes:
        old, new = changes["device_token"]
        if not looks_like_uuid(new):
            warnings.append("its device token is no UUID, and Kaspi's are: check it.")
        changes["device_token"] = (masked_token(old), masked_token(new))
    action = "create" if config is None else "change" if changes else "keep"
    return Planned(row.shop_id, action, changes, warnings)
