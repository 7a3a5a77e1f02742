"""The port of a worker."""

import resource
import time
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from payment_service.notifications.service import messages_waiting_since
from payment_service.programs import watching
from payment_service.programs.start import observed
from payment_service.services import Services, build
from payment_service.settings import Settings
from payment_service.worker.service import worker_over
from tests.support.database import Server
from tests.support.processes import free_port
from tests.support.rig import Rig
from tests.support.waiting import until

TOKEN = "token-of-the-metrics"


def asking(services: Services, *, sweep_age_s: float = 0, **changes: object) -> httpx.AsyncClient:
    worker = worker_over(services)
    worker.swept_at = time.monotonic() - sweep_age_s
    app = watching.app_over(worker, services.settings.model_copy(update=changes))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker.test")


@pytest.mark.parametrize(("sweep_age_s", "status"), [(0, 200), (59, 200), (61, 503)])
async def test_worker_that_sweeps_no_more_is_not_healthy(services: Services, sweep_age_s: float, status: int) -> None:
    async with asking(services, sweep_age_s=sweep_age_s) as client:
        assert (await client.get("/health")).status_code == status


def test_program_that_crashes_leaves_no_memory_on_the_disk(settings_once: Settings) -> None:
    with observed(settings_once, "worker"):
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


async def test_metrics_are_for_those_who_hold_the_token(services: Services) -> None:
    async with asking(services, metrics_token=SecretStr(TOKEN)) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer another"})).status_code == 401
        shown = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert shown.status_code == 200
    assert "payment_service_worker_last_sweep_timestamp_seconds" in shown.text
    async with asking(services, metrics_public=False) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_scrape_reads_no_row(server: Server, worker_id: str, settings: Settings) -> None:
    url = await server.make(f"scraped_{worker_id}")  # of its own: what others read would be counted too
    services = build(settings.model_copy(update={"database_url": SecretStr(url)}))
    sql = await asyncpg.connect(url)
    try:
        async with asking(services, metrics_public=True) as client:
            for _ in range(5):
                assert (await client.get("/metrics")).status_code == 200
        async with services.database.reading() as session:
            await messages_waiting_since(session)  # this does read
        await services.close()  # a session's counters are there when it has ended

        async def counted() -> bool:
            return "notify_chat" in await tables_read(sql)

        await until(counted)
        assert await tables_read(sql) == {"notify_chat"}
    finally:
        await sql.close()


async def tables_read(sql: asyncpg.Connection) -> set[str]:
    """The tables that were scanned, whole or by an index."""
    await sql.execute("SELECT pg_stat_clear_snapshot()")
    rows = await sql.fetch("SELECT relname FROM pg_stat_user_tables WHERE seq_scan + coalesce(idx_scan, 0) > 0")
    return {row["relname"] for row in rows}


async def test_worker_listens_where_it_is_told_and_ends_in_order(
    server: Server, worker_id: str, tmp_path: Path
) -> None:
    async with Rig(tmp_path, await server.make(f"watching_{worker_id}")) as rig:
        port = free_port()
        worker = rig.start(
            rig.program, "worker", name="worker", port=port, WORKER_PORT=str(port), METRICS_PUBLIC="true"
        )
        await worker.ready("/health")
        async with httpx.AsyncClient(base_url=worker.url) as client:

            async def has_swept() -> bool:
                shown = (await client.get("/metrics")).text
                assert "payment_service_build_info{version=" in shown
                return 'payment_service_oldest_due_seconds{kind="deliveries"}' in shown

            await until(has_swept)
        taken = rig.run("worker", WORKER_PORT=str(port))
        assert taken.returncode == 1
        assert "another WORKER_PORT" in taken.stderr
        assert await worker.stop() == 0
