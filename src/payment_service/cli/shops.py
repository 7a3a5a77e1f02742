"""``payment-service shops``: the routing of shops from the command line."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, assert_never

import typer

from payment_service.access.service import FULL_ACCESS
from payment_service.cli.output import AsJson, Reason, asked_for, fail, show
from payment_service.cli.php import php_table
from payment_service.cli.running import with_database, with_secrets
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.identifiers import looks_like_uuid
from payment_service.postgres.database import Database
from payment_service.postgres.vault import Vault
from payment_service.routing import importing
from payment_service.routing.sellers import set_same_seller
from payment_service.routing.service import Routing, ShopConfig
from payment_service.routing.tokens import DeviceTokens, Unreadable
from payment_service.routing.views import ConfigAnswer
from payment_service.spreadsheets import cell

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_shops(*, as_json: AsJson = False) -> None:
    """List every shop, with its device token masked."""
    show([_line(config) for config in _configs()], as_json=as_json, empty="No shops yet: payment-service shops import")


@app.command("import")
def import_shops(
    file: Annotated[
        Path | None, typer.Argument(help="A CSV file. Left out: those of the packaged seven shops that are not there.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    reason: Reason = "import",
    as_json: AsJson = False,
) -> None:
    """Import the routing of a CSV file: all of it, or nothing when any row is wrong.

    Columns: shop_id and organization_bin, and if wanted name, city, description, provider, is_active, device_token.
    With the column version, which 'export' writes, no shop is changed that has changed since.
    Shops that the file does not name stay as they are; an empty device_token or provider leaves what is there.
    """
    rows = _parsed(file)

    async def work(database: Database, vault: Vault) -> list[importing.Planned]:
        routing = await _written(database, vault)
        # What the package knows of a shop is of long ago: another seller may have it today.
        return await importing.apply(routing, rows, reason=reason, dry_run=dry_run, new_only=file is None)

    try:
        planned = with_secrets(work)
    except importing.BadFileError as error:
        _refuse(error)
    if as_json:
        show([asdict(plan) for plan in planned], as_json=True)
        return
    show([line for plan in planned for line in _changes(plan)], as_json=False)
    for plan in planned:
        for warning in plan.warnings:
            typer.echo(f"Warning: shop {plan.shop_id}: {warning}", err=True)
    changed = sum(plan.action != "keep" for plan in planned)
    typer.echo(f"{changed} of {len(planned)} shops {'would change' if dry_run else 'changed'}.")


def _parsed(file: Path | None) -> list[importing.Row]:
    try:
        return importing.parse(importing.packaged_shops() if file is None else file.read_text("utf-8"))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8 text: save it as CSV in UTF-8.")
    except importing.BadFileError as error:
        _refuse(error)


def _changes(plan: importing.Planned) -> Iterator[dict[str, Any]]:
    """A line for each field that changes, or one for a shop that stays as it is."""
    for field, (before, after) in (plan.changes or {"": (None, None)}).items():
        yield {"shop_id": plan.shop_id, "action": plan.action, "field": field, "from": before, "to": after}


def _refuse(error: importing.BadFileError) -> NoReturn:
    fail("\n".join([*error.problems, "Nothing was imported."]))


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    PHP = "php"
    JSON = "json"


@app.command("export")
def export_shops(
    *,
    with_tokens: Annotated[
        bool, typer.Option("--with-tokens", help="Write the device tokens too: the file is then a secret.")
    ] = False,
    written_as: Annotated[
        ExportFormat,
        typer.Option("--format", help="csv, which 'import' reads; php, the table that a site falls back on; or json."),
    ] = ExportFormat.CSV,
    as_json: AsJson = False,
) -> None:
    """Write the routing of all shops to standard output."""
    columns = [name for name in importing.COLUMNS if with_tokens or name != "device_token"]
    configs = _configs()
    lost = [config.row.shop_id for config in configs if isinstance(config.device_token, Unreadable)]
    if lost and with_tokens:
        fail(f"ENCRYPTION_KEYS do not open the device token of shop {', '.join(map(str, lost))}: set-token first.")
    rows = [
        {name: config.device_token if name == "device_token" else getattr(config.row, name) for name in columns}
        for config in configs
    ]
    match ExportFormat.JSON if as_json else written_as:
        case ExportFormat.JSON:
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        case ExportFormat.CSV:
            out = io.StringIO()
            writer = csv.DictWriter(out, columns, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                written = {**row, "is_active": str(row["is_active"]).lower()}
                writer.writerow({name: cell(value) for name, value in written.items()})
            sys.stdout.write(out.getvalue())
        case ExportFormat.PHP:
            sys.stdout.write(php_table(rows))
        case never:
            assert_never(never)


@app.command("set-token")
def set_token(
    shop_id: Annotated[int, typer.Argument(help="The shop, as 'list' shows it.")],
    *,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Set the device token of a shop. It is asked for, or read from standard input, so that no shell history has it."""
    token = asked_for("Device token")
    if not looks_like_uuid(token):
        typer.echo("Warning: this is no UUID, and Kaspi's device tokens are.", err=True)

    async def work(database: Database, vault: Vault) -> tuple[ShopConfig, list[str]]:
        routing = await _written(database, vault)
        config = await routing.update(FULL_ACCESS, shop_id, {"device_token": token}, reason=reason)
        async with database.reading() as session:
            return config, await routing.earlier_bins(session, token, config.row.organization_bin)

    config, earlier = with_secrets(work)
    for organization_bin in earlier:
        typer.echo(f"Warning: shop {shop_id}: {importing.earlier_bin_warning(organization_bin)}", err=True)
    show([_line(config)], as_json=as_json)


@app.command("same-seller")
def same_seller(
    shop_id: Annotated[int, typer.Argument(help="The shop, as 'list' shows it.")],
    earlier_bin: Annotated[str, typer.Argument(help="A BIN that the shop had before.")],
    present_bin: Annotated[str, typer.Argument(help="The BIN that the shop has today.")],
    *,
    no_longer: Annotated[bool, typer.Option("--no", help="It is not: take back what was said.")] = False,
    reason: Reason = "",
) -> None:
    """Say that a shop's seller is the same as under an earlier BIN.

    Without it, a shop with another BIN is another seller's: keys, accounts, webhooks and chats of the shop alone do not
    show the payments of the earlier BIN, and do not refund them. Those of all shops do.
    """

    async def work(database: Database) -> None:
        await set_same_seller(database, shop_id, earlier_bin, present_bin, is_same=not no_longer, reason=reason)

    with_database(work)
    are = "are of different sellers" if no_longer else "are of the same seller"
    typer.echo(f"For shop {shop_id}, {earlier_bin} and {present_bin} {are}.")


_COLUMNS = ("shop_id", "name", "city", "organization_bin", "device_token", "is_active", "provider", "version")


def _configs() -> list[ShopConfig]:
    return with_secrets(lambda database, vault: Routing(database, DeviceTokens(vault)).configs(FULL_ACCESS))


async def _written(database: Database, vault: Vault) -> Routing:
    """The routing, for a command that writes device tokens: with other keys than the service it could not read them.

    Raises:
        VaultError: when the ENCRYPTION_KEYS are not those of this database.
    """
    await Fingerprints(database, vault).of()
    return Routing(database, DeviceTokens(vault))


def _line(config: ShopConfig) -> dict[str, Any]:
    view = ConfigAnswer.of(config, reveal=False).model_dump(mode="json")
    return {name: view[name] for name in _COLUMNS}
