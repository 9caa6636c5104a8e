"""A real Prometheus reads a real server, and its answers are those that the clients' own counts give."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from tests.e2e.server import Server, running, write_archive
from tests.prometheus import Prometheus, expressions, needs_prometheus, scraping, variables
from torchserve_lite.core.metrics import MODEL_METRICS, SERVER_METRICS
from torchserve_lite.telemetry.families import SECONDS

pytestmark = needs_prometheus

HANDLER = """
import time

def handle(data, context):
    if data is None:
        return None
    context.mark_stage("inference", -1)
    time.sleep(float(bytes(data[0]["body"])))
    return ["done"] * len(data)
"""
FIRST, SECOND = 'model_name="m",model_version="1.0"', 'model_name="m",model_version="2.0"'
SLOW = 0.3  # seconds: between two bounds of the histograms


class Clients:
    """Ask the default version one after the other, and keep count."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.longest = 0.0  # seconds of an answer

    async def ask(self, times: int, body: bytes, expected: int = 200) -> None:
        for _ in range(times):
            begun = time.monotonic()
            status, answer = await self._server.post("/predictions/m", body)
            self.longest = max(self.longest, time.monotonic() - begun)
            assert status == expected, answer


async def test_prometheus_counts_what_clients_counted(tmp_path: Path) -> None:
    """Also after a worker's death, another default version, and the end of a version."""
    store = tmp_path / "store"
    store.mkdir()
    for version in ("1.0", "2.0"):
        write_archive(store, f"m{version}.mar", "m", version, HANDLER)
    settings = {"disable_system_metrics": "false", "metric_time_interval": 1, "enable_model_api": "true"}
    async with running(tmp_path, store, settings) as server, scraping(tmp_path, server.metrics_address) as prometheus:
        await server.put("/models/m/1.0/set-default")
        await prometheus.until("count(ts_inference_requests_total)", 2)
        clients = Clients(server)
        await clients.ask(20, b"0")
        await clients.ask(5, str(SLOW).encode())
        await clients.ask(5, b"no number", 503)
        await _counts(prometheus, FIRST, requests=30, answers=25, failures=5)
        await _rates_and_quantiles(prometheus, clients.longest)

        (pid,) = await server.worker_pids("m/1.0")
        os.kill(pid, signal.SIGKILL)
        await prometheus.until(f'ts_worker_failures_total{{{FIRST},reason="WorkerKilled"}}', 1)
        await prometheus.until(f'ts_workers{{{FIRST},state="ready"}}', 1)
        await clients.ask(10, b"0")
        await _counts(prometheus, FIRST, requests=40, answers=35, failures=5)
        assert await prometheus.value(f"resets(ts_inference_requests_total{{{FIRST}}}[5m])") == 0

        await server.put("/models/m/2.0/set-default")
        await clients.ask(7, b"0")
        await _counts(prometheus, SECOND, requests=7, answers=7, failures=0)
        await _counts(prometheus, FIRST, requests=40, answers=35, failures=5)
        await _what_monitoring_asks_has_answers(prometheus)

        assert (await server.delete("/models/m/1.0"))[0] == 200
        await prometheus.until(f'count({{__name__=~"ts_.*",{FIRST}}})', None)
        assert await prometheus.value(f"max_over_time(ts_inference_requests_total{{{FIRST}}}[5m])") == 40
        await _counts(prometheus, SECOND, requests=7, answers=7, failures=0)
        await _promtool_complains_of_old_names_only(await server.metrics())


async def _counts(prometheus: Prometheus, version: str, *, requests: int, answers: int, failures: int) -> None:
    await prometheus.until(f"ts_inference_requests_total{{{version}}}", requests)
    assert await prometheus.value(f"ts_inference_seconds_count{{{version}}}") == answers
    assert await prometheus.value(f"sum(ts_inference_errors_total{{{version}}})") == failures
    assert await prometheus.value(f'ts_inference_errors_total{{{version},code="PredictionFailed"}}') == failures
    assert await prometheus.value(f"sum(ts_batches_total{{{version}}})") == requests


async def _rates_and_quantiles(prometheus: Prometheus, longest: float) -> None:
    """Prometheus takes a rate to go on for half a scrape after the last one."""
    grown = await prometheus.value(f"increase(ts_inference_requests_total{{{FIRST}}}[5m])")
    failed = await prometheus.value(f'increase(ts_inference_errors_total{{{FIRST},code="PredictionFailed"}}[5m])')
    assert 30 <= grown < 60
    assert 5 <= failed < 10
    quantile = "histogram_quantile({}, sum by (le) (rate(ts_inference_seconds_bucket{{{}}}[5m])))"
    median, slow = [await prometheus.value(quantile.format(share, FIRST)) for share in ("0.5", "0.95")]
    assert 0 < median < SLOW
    assert max(bound for bound in SECONDS if bound < SLOW) < slow <= min(bound for bound in SECONDS if bound >= longest)


async def _what_monitoring_asks_has_answers(prometheus: Prometheus) -> None:
    """Alerts are asked without the bound that makes them alerts: that they are silent is right."""
    silent = []
    for where, expression in expressions():
        if not await prometheus.query(re.sub(r" (>|==) [\d.]+$", "", expression)):
            silent.append(where)
    assert silent == ["panel GPUs"] * 2
    choices = {name: await prometheus.label_values(series, label) for name, series, label in variables()}
    assert (choices["model"], choices["version"]) == (["m"], ["1.0", "2.0"])


async def _promtool_complains_of_old_names_only(page: str) -> None:
    """TorchServe's names, which dashboards made for it ask for."""
    process = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(page.encode())
    names = {line.split()[0] for line in said.decode().splitlines()}
    assert names <= {metric.name for metric in (*SERVER_METRICS, *MODEL_METRICS)}, said.decode()
