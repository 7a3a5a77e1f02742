"""``payment-service reconcile``: compare a period with the provider's status, and write the sums for the accountant."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from payment_service.almaty import ALMATY
from payment_service.cli.errors import sentence_of
from payment_service.cli.output import AsJson, show
from payment_service.cli.running import with_services
from payment_service.reconciliation.checkpoint import BadCheckpointError, Checkpoint, RunArguments
from payment_service.reconciliation.files import CannotWriteError, write_whole
from payment_service.reconciliation.findings import QUESTIONS, Finding, Kind
from payment_service.reconciliation.service import Period, ProviderAwayError, Reconciliation, Walk
from payment_service.reconciliation.turnover import Turnover, csv_of, line_of, tenge, total_of, turnovers_of

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer()
DIFFERS, NOT_FINISHED = 1, 2
SAVE_EVERY_S = 1.0
LOG_EVERY = 1000

_MEANINGS: Final = {
    Kind.PAID_THERE_OPEN_HERE: "the buyer paid, and it is still open here",
    Kind.PAID_THERE_ENDED_HERE: "the buyer paid, and it is failed or cancelled here",
    Kind.PAID_HERE_NOT_THERE: "ALARM: it is paid here and not at the provider",
    Kind.ENDED_THERE_OPEN_HERE: "it will not be paid any more, and it is still open here",
    Kind.OPEN_THERE_ENDED_HERE: "the buyer can still pay, and it is failed or cancelled here",
    Kind.OPEN_THERE_UNKNOWN_HERE: "it was made and can still be paid; we do not know that it was made",
    Kind.NOT_KNOWN_THERE: "the provider knows no such payment",
    Kind.UNHEARD_OF_WORD: "the provider reports an unknown status",
    Kind.UNKNOWN_WITHOUT_ID: "it is not known whether it was made: look for its code in the merchant cabinet",
    Kind.UNKNOWN_REFUND: "it is not known whether it was refunded: look for it in the merchant cabinet",
    Kind.AMOUNT_NOT_REPORTED: "paid, and in no sum: the client that made it never reported the amount",
    Kind.SENDING: "being sent at this moment",
    Kind.UNREAD: "the provider could not be asked: run again",
}


class _StoppedError(Exception):
    """Somebody wants the command to stop."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What a finished run shows."""

    period: Period
    walk: Walk
    turnovers: list[Turnover]


def moment(text: str) -> datetime:
    """Read a date or an ISO time, in Almaty (+05:00) unless it says another offset.

    Raises:
        ValueError: for anything else.
    """
    found = datetime.fromisoformat(text)
    try:
        return (found if found.tzinfo else found.replace(tzinfo=ALMATY)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("no payment was made then") from error


@app.command()
def reconcile(
    since: Annotated[
        datetime,
        typer.Option(
            parser=moment,
            metavar="TIME",
            help="Payments made at this time or later: a date, such as 2026-10-01, which begins in Almaty (+05:00), "
            "or an ISO time, which is in Almaty unless it says another offset.",
        ),
    ],
    until: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="TIME", help="Payments made before this time; before now if left out."),
    ] = None,
    shop: Annotated[int | None, typer.Option(min=1, help="Payments of this shop only.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the sums for the accountant here, when all is done.")
    ] = None,
    state: Annotated[Path, typer.Option(help="The file that keeps the progress until the run is done.")] = Path(
        "reconcile.state"
    ),
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Correct payments that differ, by the moves of any reading; audited.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that was stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the provider about every payment of a period again; print what differs, and the sums per shop and BIN.

    Nothing is changed without --apply. Ctrl-C stops it in order, and --resume continues it. The exit code is 0 when all
    agrees, 1 when something differs or needs a person, 2 when the run did not finish or not all could be read.
    """
    arguments = RunArguments(since, until, shop, apply)
    stopped = _load_stopped(state, arguments, resume=resume)
    if csv_file is not None and not _can_be_replaced(csv_file):  # checked before hours of reading
        _give_up(f"{csv_file} cannot be written: name a file in a folder that you may write to.")

    with _continued_by(state):
        report = with_services(lambda services: _compare(services, arguments, stopped, state), asks_provider=True)
        if csv_file is not None:
            write_whole(csv_file, csv_of(report.turnovers))
    (_print_json if as_json else _print)(report)
    state.unlink(missing_ok=True)
    raise typer.Exit(_code(report.walk.findings))


async def _compare(services: "Services", arguments: RunArguments, stopped: Checkpoint | None, state: Path) -> _Report:
    reconciliation = Reconciliation(services.database, services.providers, services.reading)
    checkpoint = stopped or await _begin(reconciliation, arguments)
    if not await reconciliation.knows(checkpoint.walk):
        _give_up(f"{state} was left by a run over another database.")
    await _walk(reconciliation, checkpoint, state)
    turnovers = await turnovers_of(services.database, checkpoint.period, checkpoint.walk.findings)
    return _Report(checkpoint.period, checkpoint.walk, turnovers)


@contextlib.contextmanager
def _continued_by(state: Path) -> Iterator[None]:
    """Whatever stops the run is said in a sentence, with the command that continues it."""
    try:
        yield
    except (_StoppedError, ProviderAwayError, CannotWriteError) as error:
        _give_up(str(error), state)
    except KeyboardInterrupt:
        _give_up("Stopped at once.", state)
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        _give_up(sentence, state)


def _load_stopped(state: Path, arguments: RunArguments, *, resume: bool) -> Checkpoint | None:
    """The stopped run to resume; none for a new run, which must not overwrite a stopped one."""
    if resume:
        try:
            return Checkpoint.load(state, arguments)
        except BadCheckpointError as error:
            _give_up(str(error))
    if state.exists():
        _give_up(f"{state} was left by a run that was stopped: continue it with --resume, or remove the file.")
    return None


def _can_be_replaced(file: Path) -> bool:
    """Whether a new file can replace it; a device, such as /dev/stdout, cannot be replaced."""
    return os.access(file.parent, os.W_OK) and (file.is_file() or not (file.exists() or file.is_symlink()))


def _give_up(sentence: str, state: Path | None = None) -> NoReturn:
    typer.echo(sentence, err=True)
    if state is not None and state.exists():
        words = [word for word in sys.argv[1:] if word != "--resume"]
        typer.echo(f"Continue it with: {shlex.join(['payment-service', *words, '--resume'])}", err=True)
    raise typer.Exit(NOT_FINISHED)


# --- the walk


async def _begin(reconciliation: Reconciliation, arguments: RunArguments) -> Checkpoint:
    now = await reconciliation.now()
    period = Period(arguments.since, min(arguments.until or now, now), arguments.shop_id)
    if period.since >= period.until:
        _give_up("The period is empty: --since must be before --until and not in the future.")
    return Checkpoint(arguments, period, Walk())


async def _walk(reconciliation: Reconciliation, checkpoint: Checkpoint, state: Path) -> None:
    """Walk to the end of the period, and save the progress."""
    period, walk = checkpoint.period, checkpoint.walk
    checkpoint.save(state)
    saved_at = -SAVE_EVERY_S  # the first payment is saved at once
    total = await reconciliation.count(period)
    with _stop_by_signal() as stopping, _Progress(total) as progress:

        def moved_on() -> None:
            nonlocal saved_at
            progress.show(walk)
            if time.monotonic() - saved_at >= SAVE_EVERY_S:
                checkpoint.save(state)
                saved_at = time.monotonic()

        progress.show(walk)
        try:
            ended = await reconciliation.run(
                period, walk, apply=checkpoint.asked.apply, stopping=stopping, moved_on=moved_on
            )
        except ProviderAwayError as error:
            raise ProviderAwayError(
                f"The provider no longer answers ({error}); {walk.done} of {total} payments were compared."
            ) from error
        finally:
            checkpoint.save(state)
    if not ended:
        raise _StoppedError(f"Stopped: {walk.done} of {total} payments were compared, and no sums were written.")


@contextlib.contextmanager
def _stop_by_signal() -> Iterator[asyncio.Event]:
    """The first signal stops in order, the second at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def remove_handlers() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def stop() -> None:
        typer.echo("Stopping when the readings under way have ended; press again to stop at once.", err=True)
        stopping.set()
        remove_handlers()

    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield stopping
    finally:
        remove_handlers()


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._logged = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[found]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("Asking", total=total, found="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def show(self, walk: Walk) -> None:
        """Show the progress of the walk."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=walk.done, found=f"{len(walk.findings)} found")
        elif walk.done // LOG_EVERY > self._logged:
            self._logged = walk.done // LOG_EVERY
            typer.echo(f"{walk.done} of {self._total} payments compared, {len(walk.findings)} found", err=True)


# --- printing


def _code(findings: list[Finding]) -> int:
    if any(finding.differs or finding.kind in QUESTIONS for finding in findings):
        return DIFFERS
    return NOT_FINISHED if any(finding.kind is Kind.UNREAD for finding in findings) else 0


def _print(report: _Report) -> None:
    findings = report.walk.findings
    if findings:
        show([_row(finding) for finding in findings], as_json=False, title="What was found")
        for kind, count in Counter(finding.kind for finding in findings).items():
            typer.echo(f"{kind} ({count}): {_MEANINGS[kind]}.")
        typer.echo("docs/reconcile.md says what to do about each.\n")
    lines = [line_of(turnover) for turnover in (*report.turnovers, total_of(report.turnovers))]
    show(lines, as_json=False, title="Sums in tenge")
    period, differing = report.period, sum(finding.differs for finding in findings)
    corrected = sum(finding.became is not None for finding in findings)
    typer.echo(
        f"{report.walk.done} payments made from {_time(period.since)} until {_time(period.until)}: "
        f"{differing} differ, {corrected} were put right, "
        f"{sum(finding.kind in QUESTIONS for finding in findings)} only people can tell, "
        f"{sum(finding.kind is Kind.UNREAD for finding in findings)} could not be read."
    )


def _print_json(report: _Report) -> None:
    shown: dict[str, Any] = {
        "since": report.period.since.isoformat(),
        "until": report.period.until.isoformat(),
        "payments": report.walk.done,
        "findings": [
            {**asdict(finding), "amount": _tenge(finding), "differs": finding.differs}
            for finding in report.walk.findings
        ],
        "turnovers": [line_of(turnover) for turnover in report.turnovers],
        "total": line_of(total_of(report.turnovers)),
    }
    typer.echo(json.dumps(shown, ensure_ascii=False, indent=2, default=_json))


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "found": finding.kind,
        "shop": finding.shop_id,
        "organization_bin": finding.organization_bin,
        "payment": finding.payment_id,
        "external_id": finding.external_id,
        "code": finding.short_code,
        "made_in_almaty": f"{finding.created_at.astimezone(ALMATY):%Y-%m-%d %H:%M:%S}",
        "amount": _tenge(finding),
        "here": finding.here,
        "there": finding.there,
        "became": finding.became,
    }


def _tenge(finding: Finding) -> str | None:
    return None if finding.amount is None else tenge(finding.amount)


def _time(when: datetime) -> str:
    return when.astimezone(ALMATY).isoformat(" ", "seconds")
