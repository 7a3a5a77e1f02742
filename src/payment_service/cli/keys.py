"""``payment-service keys``: who may call."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from payment_service.access.models import ApiKey
from payment_service.access.service import NewKey, Scope
from payment_service.access.views import KeyView
from payment_service.cli.output import AsJson, fail, in_house, show
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services

app = typer.Typer(no_args_is_help=True, help="API keys: who may call, for what and for which shops.")


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="Who will use it; several keys may share a name while one replaces another.")
    ],
    scope: Annotated[list[str], typer.Option(help=f"What it may do, once per scope: {', '.join(Scope)}.")],
    shop: Annotated[list[int] | None, typer.Option(help="A shop it may touch, once per shop; all if left out.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Ends after so many days; never if left out.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once, now; only its digest is kept."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None

    async def work(services: Services) -> NewKey:
        return await services.access.create(
            name, scope, shops=frozenset(shop) if shop else ALL_SHOPS, expires_at=expires_at
        )

    made = in_house(work)
    if as_json:
        show([{**_line(made.row), "key": made.key}], as_json=True)
        return
    show([_line(made.row)], as_json=False)
    typer.echo(f"Key (shown only now): {made.key}")


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List every key, the revoked ones too. The keys themselves cannot be shown again."""

    async def work(services: Services) -> list[ApiKey]:
        return await services.access.all()

    show([_line(row) for row in in_house(work)], as_json=as_json, empty="No keys yet: payment-service keys create")


@app.command()
def revoke(
    key_id: Annotated[int, typer.Argument(help="The id that 'list' shows.")], *, as_json: AsJson = False
) -> None:
    """End a key, at once and for good."""

    async def work(services: Services) -> ApiKey | None:
        return await services.access.revoke(key_id)

    row = in_house(work)
    if row is None:
        fail(f"There is no key {key_id}: 'payment-service keys list' shows them.")
    show([_line(row)], as_json=as_json)


def _line(row: ApiKey) -> dict[str, Any]:
    return KeyView.of(row).model_dump(mode="json")
