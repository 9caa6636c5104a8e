"""Prometheus and its tool, as the machine has them, and the expressions that monitoring/ gives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.e2e.server import PATIENCE

MONITORING = Path(__file__).parent.parent / "monitoring"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="NOT TESTED: nothing has looked at metrics and rules, since promtool is not installed (Debian: prometheus)",
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="NOT TESTED: no Prometheus has read the metrics, since none is installed (Debian: prometheus)",
)

_CHOSEN = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*", "$model": ".*", "$version": ".*"}


def expressions() -> list[tuple[str, str]]:
    """Where each PromQL expression of monitoring/ stands, and the expression, with all that can be chosen chosen."""
    found = []
    for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]:
        found += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"]]
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        found += [(f"panel {panel['title']}", target["expr"]) for target in panel.get("targets", ())]
    found += [
        (f"marks {marks['name']}", marks["expr"]) for marks in dashboard["annotations"]["list"] if "expr" in marks
    ]
    return [(where, _with_choices(expression)) for where, expression in found]


def variables() -> list[tuple[str, str, str]]:
    """By variable of the dashboard: which label of what its choices are."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [
        (one["name"], one["query"]["query"]) for one in dashboard["templating"]["list"] if one["type"] == "query"
    ]
    found = []
    for name, query in queries:
        parts = re.fullmatch(r"label_values\((.*), (\w+)\)", _with_choices(query))
        assert parts, query
        found.append((name, parts[1], parts[2]))
    return found


def _with_choices(expression: str) -> str:
    for variable, choice in _CHOSEN.items():
        expression = expression.replace(variable, choice)
    return expression


class Prometheus:
    """One that runs, asked by its HTTP API."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, now."""
        found = await self._get("query", query=expression)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    async def value(self, expression: str) -> float:
        """Of the one series that there is."""
        ((_, value),) = await self.query(expression)
        return value

    async def until(self, expression: str, expected: float | None) -> None:
        """Waits for the scrape that brings this value of one series; None: no series is there any more."""
        wanted = [] if expected is None else [expected]
        found = [await self._values(expression)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while found[-1] != wanted:  # nothing tells us of a scrape
                    await asyncio.sleep(0.1)
                    found.append(await self._values(expression))
        assert found[-1] == wanted, f"{expression}: {found[-1]}"

    async def _values(self, expression: str) -> list[float]:
        return [value for _, value in await self.query(expression)]

    async def label_values(self, series: str, label: str) -> list[str]:
        values: list[str] = await self._get(f"label/{label}/values", **{"match[]": series})
        return values

    async def _get(self, what: str, **parameters: str) -> Any:
        async with self._client.get(f"{self._url}/api/v1/{what}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]


@asynccontextmanager
async def scraping(folder: Path, address: str) -> AsyncIterator[Prometheus]:
    """A Prometheus with monitoring's configuration and rules, which scrapes this address and evaluates each second."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "rules.yml")]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        "--web.listen-address=127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            async for line in process.stderr:
                lines.append(line.decode())
                if "Server is ready to receive web requests" in lines[-1]:
                    break
        listening = re.search(r'msg="Listening on" address=(\S+)', "".join(lines))
        assert listening, "".join(lines)
        async with aiohttp.ClientSession() as client:
            yield Prometheus(client, f"http://{listening[1]}")
    finally:
        process.terminate()
        await process.communicate()
