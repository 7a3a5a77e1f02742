"""PostgreSQL with a clock of its own (libfaketime), which steps while the service works and is set right again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from payment_service.payments.lifecycle import State
from tests.support.database import Server, start_postgres
from tests.support.rig import Rig
from tests.support.waiting import until

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.thorough]
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
NEVER_ANSWERED, WAITS = "77015219022", "77015219017"
HOUR = 3600


@dataclass(frozen=True, slots=True)
class SteppingServer:
    """A PostgreSQL whose clock is ahead of this machine's by what its file says."""

    server: Server
    file: Path

    async def step(self, ahead_s: int) -> None:
        """Set its clock; it looks once a second."""
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{ahead_s:+d}\n")
        draft.chmod(0o644)
        draft.rename(self.file)
        await asyncio.sleep(1.2)


@pytest.fixture
def stepping(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppingServer]:
    if LIBRARY is None:
        pytest.skip("libfaketime is not installed (Debian: apt-get install faketime)")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, PostgreSQL runs as somebody else
        file = Path(folder) / "clock"
        file.write_text("+0\n")
        file.chmod(0o644)
        with monkeypatch.context() as environment:
            for name, value in {
                "LD_PRELOAD": str(LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_CACHE_DURATION": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }.items():
                environment.setitem(os.environ, name, value)
            postgres = start_postgres(Path(folder) / "postgres")
        try:
            yield SteppingServer(Server(postgres.url()), file)
        finally:
            postgres.remove()


@pytest.fixture
async def stepping_rig(stepping: SteppingServer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path, await stepping.server.make("stepping")) as rig:
        await rig.serve_all(1)
        yield rig


async def test_nothing_waits_until_the_time_has_come_that_a_clock_was_ahead(
    stepping_rig: Rig, stepping: SteppingServer
) -> None:
    rig = stepping_rig
    await stepping.step(5 * HOUR)
    sending = asyncio.create_task(rig.create(phone=NEVER_ANSWERED, message=rig.word(), order_id="lost"))
    await until(lambda: _is_sent(rig))
    rig.services[0].signal(signal.SIGKILL)
    await asyncio.gather(sending, return_exceptions=True)
    await stepping.step(0)
    rig.clients[0] = rig.client(await rig.serve())
    lost = await rig.payment_of_order("lost")
    assert lost is not None
    assert (await rig.in_state(lost["id"], State.UNKNOWN))["state"] == "unknown"


async def test_open_payment_is_read_again_after_the_clock_was_days_ahead(
    stepping_rig: Rig, stepping: SteppingServer
) -> None:
    rig = stepping_rig
    payment = (await rig.create(phone=WAITS, message=rig.word())).json()
    await stepping.step(72 * HOUR)
    connection = await asyncpg.connect(rig.database_url)

    async def is_given_up() -> bool:
        return bool(await connection.fetchval("SELECT next_check_at IS NULL FROM payment WHERE id = $1", payment["id"]))

    await until(is_given_up)
    await connection.close()
    await stepping.step(0)
    (await rig.sandbox_client.post(f"/_payments/{payment['external_id']}/pay")).raise_for_status()
    await rig.in_state(payment["id"], "paid")


async def _is_sent(rig: Rig) -> bool:
    return bool(await rig.ledger(op="create"))
