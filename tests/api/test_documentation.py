"""``/docs`` holds Swagger UI as its makers published it."""

import gzip
import hashlib
from importlib.resources import files
from typing import Any

import httpx
import pytest

from payment_service.services import Services
from tests.api.test_operations import app_with

# Of swagger-ui-dist 5.35.0 from the npm registry.
PUBLISHED = {
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
}
FOLDER = files("payment_service.api") / "swagger_ui"


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("swagger-ui-bundle.js", "gzip"), ("swagger-ui.css", "gzip"), ("swagger-ui.css", "identity")],
)
async def test_file_is_the_published_one(name: str, accepted: str, services: Services, client_of: Any) -> None:
    client: httpx.AsyncClient = client_of(app_with(services, docs_enabled=True))
    answer = await client.get(f"/docs/{name}", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding", "identity") == accepted
    assert hashlib.sha256(answer.content).hexdigest() == PUBLISHED[name]


def test_files_come_with_their_licences_and_stay_small() -> None:
    names = {file.name: len(file.read_bytes()) for file in FOLDER.iterdir()}
    assert {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"} <= set(names)
    assert sum(names.values()) < 512 * 1024
    assert all(gzip.decompress((FOLDER / f"{name}.gz").read_bytes()) for name in PUBLISHED)
