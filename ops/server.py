"""A real Prometheus on 127.0.0.1, with our rules and docs/deploy.md's configuration, and what its HTTP API answers."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import yaml

from ops import alerts
from tests.support.processes import foreign, free_port
from tests.support.waiting import until

PROGRAM: Final = shutil.which("prometheus")
"""None where it is not installed: Debian's package prometheus."""
EVERY: Final = "1s"
"""How often it scrapes, and evaluates the rules."""
RATE_OVER: Final = "15s"
"""What Grafana would put in the place of ``$__rate_interval`` here."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels, and its values by their time, in Unix seconds."""

    labels: Mapping[str, str]
    values: tuple[tuple[float, float], ...]


class Prometheus:
    """One Prometheus. Use as an asynchronous context.

    ``targets`` are the addresses that it scrapes, by what they are called, and ``token`` what it shows them.
    """

    def __init__(self, folder: Path, targets: Mapping[str, str], token: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        folder.mkdir()
        (folder / "token").write_text(token)
        job = {
            "job_name": "payment-service",
            "authorization": {"credentials_file": str(folder / "token")},
            "static_configs": [
                {"targets": [address], "labels": {"instance": name}} for name, address in targets.items()
            ],
        }
        configuration = {
            "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
            "scrape_configs": [job],
            "rule_files": [str(alerts.RULES)],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    async def __aenter__(self) -> Self:
        words = [
            str(PROGRAM),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
        ]
        words += [f"--web.listen-address={self.url.removeprefix('http://')}"]
        self._process = foreign(words, self._folder / "output.log")
        self._client = httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20)
        try:
            await until(self._is_ready, "Prometheus is ready", within_s=60)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        self._process.terminate()

        async def ended() -> bool:
            return self._process.poll() is not None

        await until(ended, "Prometheus ends", within_s=60)

    async def query(self, query: str) -> list[Series]:
        """What a query gives now.

        Raises:
            RuntimeError: Prometheus refuses it.
        """
        found = await self._ask("query", query=_filled(query))
        return [Series(one["metric"], (_point(one["value"]),)) for one in found["result"]]

    async def over(self, query: str, seconds: float, *, points: int = 120) -> list[Series]:
        """What a query gave in the last seconds, at so many points.

        Raises:
            RuntimeError: Prometheus refuses it.
        """
        now = await self._now()
        asked = {"start": now - seconds, "end": now, "step": seconds / points}
        found = await self._ask("query_range", query=_filled(query), **asked)
        return [Series(one["metric"], tuple(map(_point, one["values"]))) for one in found["result"]]

    async def alerts(self) -> dict[str, str]:
        """The alerts whose condition holds: ``pending`` until it has held long enough, then ``firing``."""
        found = await self._ask("alerts")
        return {one["labels"]["alertname"]: one["state"] for one in found["alerts"]}

    async def troubles(self) -> list[str]:
        """What Prometheus says of rules that it could not evaluate and of targets that it could not read."""
        groups = (await self._ask("rules"))["groups"]
        targets = (await self._ask("targets"))["activeTargets"]
        said = [f"{rule['name']}: {rule.get('lastError')}" for group in groups for rule in _not_ok(group["rules"])]
        return said + [f"{one['scrapeUrl']}: {one['lastError']}" for one in _not_ok(targets, wanted="up")]

    async def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"Prometheus ended at its start:\n{(self._folder / 'output.log').read_text()}")
        try:
            return (await self._client.get("/-/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def _now(self) -> float:
        [_at, value] = (await self._ask("query", query="time()"))["result"]
        return float(value)

    async def _ask(self, what: str, **asked: Any) -> Any:
        answer = (await self._client.get(f"/api/v1/{what}", params=asked)).json()
        if answer["status"] != "success":
            raise RuntimeError(f"{asked}: {answer['error']}")
        return answer["data"]


def _filled(query: str) -> str:
    return query.replace("$__rate_interval", RATE_OVER)


def _point(pair: tuple[float, str]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _not_ok(found: Sequence[Mapping[str, Any]], *, wanted: str = "ok") -> list[Mapping[str, Any]]:
    return [one for one in found if one["health"] not in {wanted, "unknown"}]
