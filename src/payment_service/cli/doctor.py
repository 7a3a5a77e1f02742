"""``payment-service doctor``: prints all checks, with what to do about each fault."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from payment_service.checkup.service import Finding, Level, run_checks
from payment_service.cli.output import AsJson, show
from payment_service.cli.running import with_services

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer()


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Check everything and say what to do: settings, database, provider, workers, waiting work.

    It changes nothing and moves no money. Exit code 1 when something is bad. What it prints holds no secret and no
    buyer: send it along when you ask for help.
    """

    async def work(services: "Services") -> list[Finding]:
        return [finding async for finding in run_checks(services)]

    findings = with_services(work)
    show([asdict(finding) for finding in findings], as_json=as_json)
    if any(finding.level is Level.BAD for finding in findings):
        raise typer.Exit(1)
