"""What is shown to those who integrate is done: the Bruno collection, and the phones of docs/llms.txt."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from tests.repository.test_llms import PHONES
from tests.support.bruno import filled, requests
from tests.support.rig import Rig

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.thorough]


def at(answer: httpx.Response, path: str) -> Any:
    """``status``, ``body.NAME`` or ``body.NAME.length`` of an answer, as Bruno's tests name them."""
    if path == "status":
        return answer.status_code
    value = answer.json()
    for name in path.removeprefix("body.").split("."):
        value = len(value) if name == "length" else value[name]
    return value


async def test_bruno_collection_runs_from_top_to_bottom(rig: Rig) -> None:
    variables = {"url": "", "shop_id": "121038", "key": rig.key, "run": re.sub(r"\W", "", rig.word())}
    for request in requests():
        body = None if request.body is None else json.loads(filled(request.body, variables))
        headers = {name: filled(value, variables) for name, value in request.headers.items()}
        answer = await rig.api.request(request.method, filled(request.url, variables), json=body, headers=headers)
        assert {path: at(answer, path) for path in request.expected} == request.expected, (request.name, answer.text)
        variables |= {name: str(answer.json()[field]) for name, field in request.remembers.items()}


async def test_phones_of_the_llms_file_do_what_it_says(rig: Rig) -> None:
    async def see(phone: str) -> tuple[str, str, str]:
        answer = await rig.create(phone=phone, message=rig.word())
        said = answer.json()
        status = "" if answer.status_code == 200 else str(answer.status_code)
        return phone, status, said.get("code") or said["state"]

    assert list(await asyncio.gather(*(see(phone) for phone, _, _ in PHONES))) == PHONES
