"""Whether a page can be used by everybody: axe-core 4.14.1 (npm, MPL-2.0, as published) asked in the browser."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Page

SHA256: Final = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of ``axe.min.js`` as the package ``axe-core`` 4.14.1 holds it."""
_RUN: Final = """async (rules) => {
    const found = await axe.run(document, {
        resultTypes: ["violations"],
        ...(rules ? {runOnly: {type: "rule", values: rules}} : {}),
    });
    const where = (node) => `${node.target} ${node.html.slice(0, 120)}`;
    return found.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map(where).join(" | ")}`);
}"""


@cache
def source() -> str:
    """The library. It is given to the page by the browser's tools, which no policy of the page concerns."""
    text = (Path(__file__).parent / "axe.min.js").read_text("utf-8")
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256
    return text


async def violations(page: Page, *rules: str) -> list[str]:
    """What axe finds wrong with a page as it is shown now: by these rules, or by all."""
    if not await page.evaluate("typeof axe !== 'undefined'"):
        await page.evaluate(source())
    found: Any = await page.evaluate(_RUN, list(rules) or None)
    return list(found)
