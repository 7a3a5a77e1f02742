"""``payment-service import-legacy``: from the old service's database to this one."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from payment_service.access.service import FULL_ACCESS
from payment_service.cli.output import AsJson, fail, show
from payment_service.cli.progress import progress
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
    try:
        done = with_services(
            lambda services: _import(services, dsn, skip=skip or (), adopt_days=adopt_days, dry_run=dry_run)
        )
    except legacy.LegacyDatabaseError as error:
        fail(str(error))
    (_print_json if as_json else _print)(done)
    if done.trouble or (not dry_run and done.log.after != done.log.there):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Imported:
    """What was taken over, or would be."""

    shops: list[Planned]
    problems: list[str]
    """What is wrong with the routing, so that nothing was taken over."""
    log: LogReport
    adoption: Adoption | None

    @property
    def trouble(self) -> list[str]:
        return [*self.problems, *self.log.problems, *(self.adoption.problems if self.adoption else ())]

    @property
    def actions(self) -> list[dict[str, Any]]:
        return [{"shop_id": plan.shop_id, "action": plan.action} for plan in self.shops]

    @property
    def counts(self) -> dict[str, Count]:
        return {"in the old log": self.log.there, "here before": self.log.before, "here now": self.log.after}


async def _import(
    services: "Services", dsn: str, *, skip: Collection[int], adopt_days: int, dry_run: bool
) -> _Imported:
    async with legacy.legacy_database(dsn) as old:
        shops, problems = await legacy.import_routing(old, services.routing, skip=skip, dry_run=dry_run)
        nothing = dry_run or bool(problems)
        lines = await old.fetchval("SELECT count(*) FROM paymentlog")
        with progress("Lines of the log", lines) as advance:
            log = await legacy.import_log(old, services.database, dry_run=nothing, advance=advance)
    adoption = None
    if adopt_days and not nothing:
        with progress("Payments", None) as advance:
            adoption = await adopt_legacy(services.reports, FULL_ACCESS, days=adopt_days, advance=advance)
    return _Imported(shops, problems, log, adoption)


def _print_json(done: _Imported) -> None:
    result = {
        "shops": done.actions,
        "log": {name.replace(" ", "_"): asdict(count) for name, count in done.counts.items()},
        "adoption": done.adoption and asdict(done.adoption),
        "problems": done.trouble,
    }
    typer.echo(json.dumps(result, ensure_ascii=False, indent=2))


def _print(done: _Imported) -> None:
    show(done.actions, as_json=False, empty="No shops.")
    for name, count in done.counts.items():
        typer.echo(f"{count.lines} lines {name}, {Money(count.amount)} tenge.")
    if adoption := done.adoption:
        typer.echo(
            f"{adoption.adopted} payments adopted, {adoption.known} known already; "
            f"{adoption.without_account} cannot be refunded here: the old log names no BIN."
        )
    for problem in done.trouble:
        typer.echo(problem, err=True)
    if done.problems:
        typer.echo("Nothing was taken over.", err=True)
