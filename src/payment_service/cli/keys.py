"""``payment-service keys``: API keys, their scopes and shops."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from payment_service.access.models import ApiKey
from payment_service.access.service import Access, NewKey, Scope
from payment_service.access.views import KeyView
from payment_service.cli.output import AsJson, completing, fail, show, show_once
from payment_service.cli.running import with_database, with_secrets
from payment_service.postgres.database import Database
from payment_service.postgres.vault import Vault
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.routing.service import Routing
from payment_service.routing.tokens import DeviceTokens

app = typer.Typer(no_args_is_help=True)


@app.command()
def create(
    name: Annotated[
        str,
        typer.Argument(
            help="Who will use it. A key that replaces another has the same name: equal requests are known by it."
        ),
    ],
    scope: Annotated[
        list[str],
        typer.Option(help=f"What it may do, once per scope: {', '.join(Scope)}.", autocompletion=completing(Scope)),
    ],
    shop: Annotated[list[int] | None, typer.Option(help="A shop it may touch, once per shop; all if left out.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Expires after this many days; never if left out.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once, now; only its digest is kept."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None

    async def work(database: Database, vault: Vault) -> NewKey:
        await Routing(database, DeviceTokens(vault)).require_all(shop or ())
        return await Access(database).create(
            name, scope, shops=frozenset(shop) if shop else ALL_SHOPS, expires_at=expires_at
        )

    made = with_secrets(work)
    show_once(_line(made.row), "key", made.key, as_json=as_json)


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List every key, the revoked ones too. The keys themselves cannot be shown again."""
    rows = with_database(lambda database: Access(database).all())
    show([_line(row) for row in rows], as_json=as_json, empty="No keys yet: payment-service keys create")


@app.command()
def revoke(
    key_id: Annotated[int, typer.Argument(help="The id that 'list' shows.")], *, as_json: AsJson = False
) -> None:
    """Revoke a key, at once and for ever."""
    row = with_database(lambda database: Access(database).revoke(key_id))
    if row is None:
        fail(f"There is no key {key_id}: 'payment-service keys list' shows them.")
    show([_line(row)], as_json=as_json)


def _line(row: ApiKey) -> dict[str, Any]:
    return KeyView.of(row).model_dump(mode="json")
