"""Real programs between the service and the proxy: which repeat a call or keep a reply (docs/deploy.md)."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import foreign, free_port, is_free
from tests.support.rig import Rig
from tests.support.waiting import until

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.thorough]
ANSWER_LOST = "77015219027"
NGINX = """
daemon off;
user root root;  # who else may write to the folder of a test? Without root this says nothing
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    proxy_cache_path kept keys_zone=kept:1m;
    upstream kaspi {{ server 127.0.0.1:{upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://kaspi; proxy_http_version 1.1; proxy_set_header Connection ""; {more} }}
    }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 50s
  timeout server 50s
  retries 3
  option redispatch
  {more}
frontend front
  bind 127.0.0.1:{port}
  default_backend kaspi
backend kaspi
  server one 127.0.0.1:{upstream}
  server two 127.0.0.1:{upstream}
"""
MIDDLEBOXES = {"nginx": (NGINX, ["-p", "{folder}", "-c"]), "haproxy": (HAPROXY, ["-db", "-f"])}


@contextlib.contextmanager
def middlebox(program: str, more: str, folder: Path, upstream: int) -> Iterator[str]:
    """Run one before a port of this machine; yields its address."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {program})")
    text, words = MIDDLEBOXES[program]
    port, file = free_port(), folder / "configuration"
    file.write_text(text.format(port=port, upstream=upstream, more=more))
    words = [word.format(folder=folder) for word in words]
    process = foreign([path, *words, str(file)], folder / "written.log")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        assert is_free(port)


@pytest.mark.parametrize(
    ("program", "more", "invoices"),
    [
        ("nginx", "", 2),
        ("nginx", "proxy_next_upstream off;", 1),
        ("haproxy", "", 1),
        ("haproxy", "retry-on all-retryable-errors", 4),
    ],
)
async def test_invoices_of_one_call_whose_answer_is_lost(
    rig: Rig, tmp_path: Path, program: str, more: str, invoices: int
) -> None:
    """The service calls once and says that the outcome is unknown; the rest is what stands between."""
    with middlebox(program, more, tmp_path, rig.sandbox.port) as url:
        service = await rig.serve(PRODUCTION_API_URL=url)
        by, word = rig.client(service), rig.word()
        assert (await rig.create(by=by, message=rig.word())).status_code == 200  # nginx has a kept connection now
        assert (await rig.create(by=by, phone=ANSWER_LOST, message=word)).status_code == 202
        await asyncio.sleep(0.2)
        assert len(await rig.applied(word)) == invoices
        await service.stop()


async def test_refund_that_a_cache_answered_is_not_told_as_made(rig: Rig, tmp_path: Path) -> None:
    payment = await rig.paid()

    async def is_paid() -> bool:
        answer = await rig.api.get(f"/payments/kaspi/status/{payment['external_id']}")
        return bool(answer.json()["state"] == "paid")

    await until(is_paid)
    keeps = "proxy_cache kept; proxy_cache_valid 200 1m; add_header X-Cache-Status $upstream_cache_status;"
    with middlebox("nginx", keeps, tmp_path, rig.sandbox.port) as url:
        service = await rig.serve(PRODUCTION_API_URL=url)
        by = rig.client(service)
        await rig.queue("refund", "empty_applied")  # it names no operation, by which the second would be known
        told = [
            await rig.refund(payment["external_id"], by=by, key=f"cached-refund-{number}", amount=10)
            for number in range(2)
        ]
        assert [answer.status_code for answer in told] == [200, 202]
        made = await rig.ledger(op="refund", external_id=payment["external_id"], applied="true")
        assert len(made) == 1
        await service.stop()
