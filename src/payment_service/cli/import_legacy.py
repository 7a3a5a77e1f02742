"""``payment-service import-legacy``: from the old service's database to this one."""

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from payment_service.access.service import FULL_ACCESS
from payment_service.cli.output import AsJson, fail, show
from payment_service.cli.running import with_services
from payment_service.legacy import service as legacy
from payment_service.legacy.service import Count, LogReport
from payment_service.money import Money
from payment_service.reports.adopting import Adoption, adopt_legacy
from payment_service.routing.importing import Planned

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer()


@app.command()
def import_legacy(
    dsn: Annotated[
        str,
        typer.Option(
            envvar="LEGACY_DATABASE_URL",
            show_envvar=True,
            help="The old database. It holds a password: set the variable rather than the option.",
        ),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be taken over.")] = False,
    skip: Annotated[list[int] | None, typer.Option(help="Leave out the routing of this shop. May be repeated.")] = None,
    adopt_days: Annotated[
        int,
        typer.Option(min=0, help="Also adopt the payments of the last so many days: they can be refunded here then."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Import the routing and the log of the old service. It can be repeated: a second run adds only what is new.

    The old database is only read. Shops that exist here keep their routing. A shop that is routed differently stops the
    import; leave it out with --skip after you have checked it.
    """

    async def work(services: "Services") -> tuple[list[Planned], list[str], LogReport, Adoption | None]:
        async with legacy.legacy_database(dsn) as old:
            shops, problems = await legacy.import_routing(old, services.routing, skip=skip or (), dry_run=dry_run)
            lines = await old.fetchval("SELECT count(*) FROM paymentlog")
            console = Console(stderr=True)
            with Progress(console=console, disable=not console.is_terminal) as progress:
                task = progress.add_task("Lines of the log", total=lines)
                advance = partial(progress.advance, task)
                nothing = dry_run or bool(problems)
                log = await legacy.import_log(old, services.database, dry_run=nothing, advance=advance)
            adoption = None
            if adopt_days and not nothing:
                advance = partial(progress.advance, progress.add_task("Payments", total=None))
                adoption = await adopt_legacy(services.reports, FULL_ACCESS, days=adopt_days, advance=advance)
        return shops, problems, log, adoption

    try:
        shops, problems, log, adoption = with_services(work)
    except legacy.LegacyDatabaseError as error:
        fail(str(error))
    trouble = [*problems, *log.problems, *(adoption.problems if adoption else ())]
    (_print_json if as_json else _print)(shops, log, adoption, trouble)
    if problems and not as_json:
        typer.echo("Nothing was taken over.", err=True)
    if trouble or (not dry_run and log.after != log.there):
        raise typer.Exit(1)


def _counts(log: LogReport) -> dict[str, Count]:
    return {"in the old log": log.there, "here before": log.before, "here now": log.after}


def _actions(shops: list[Planned]) -> list[dict[str, Any]]:
    return [{"shop_id": plan.shop_id, "action": plan.action} for plan in shops]


def _print_json(shops: list[Planned], log: LogReport, adoption: Adoption | None, trouble: list[str]) -> None:
    result = {
        "shops": _actions(shops),
        "log": {name.replace(" ", "_"): asdict(count) for name, count in _counts(log).items()},
        "adoption": adoption and asdict(adoption),
        "problems": trouble,
    }
    typer.echo(json.dumps(result, ensure_ascii=False, indent=2))


def _print(shops: list[Planned], log: LogReport, adoption: Adoption | None, trouble: list[str]) -> None:
    show(_actions(shops), as_json=False, empty="No shops.")
    for name, count in _counts(log).items():
        typer.echo(f"{count.lines} lines {name}, {Money(count.amount)} tenge.")
    if adoption:
        typer.echo(
            f"{adoption.adopted} payments adopted, {adoption.known} known already; "
            f"{adoption.without_account} cannot be refunded here: the old log names no BIN."
        )
    for problem in trouble:
        typer.echo(problem, err=True)
