"""What a server is doing, by two looks at its metrics."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import sys
import termios
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.cli.operators.conftest import Command, FakeServer, heed_interruption
from torchserve_lite.cli.operators.figures import Look, between, server_memory
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.rates import Figures, percentile

_M = ("m", "1.0")


def _page(answers: int, slow: int = 0, errors: int = 0, state: str = "ready") -> str:
    """``answers`` took up to 10 ms and ``slow`` of them up to 100 ms; two to a batch."""
    labels = 'model_name="m",model_version="1.0"'
    return f"""ts_build_info{{version="1",python="3"}} 1.0
ts_inference_seconds_bucket{{{labels},le="0.01"}} {answers - slow}
ts_inference_seconds_bucket{{{labels},le="0.1"}} {answers}
ts_inference_seconds_bucket{{{labels},le="+Inf"}} {answers}
ts_inference_seconds_count{{{labels}}} {answers}
ts_batch_size_sum{{{labels}}} {answers}
ts_batch_size_count{{{labels}}} {answers // 2}
ts_inference_errors_total{{{labels},code="500"}} {errors}
ts_inference_errors_total{{{labels},code="503"}} {errors}
ts_queue_length{{{labels}}} 3
ts_running_requests{{{labels}}} 1
ts_workers{{{labels},state="{state}"}} 2
ts_workers{{{labels},state="starting"}} 0
ts_process_memory_bytes{{model_name="",model_version="",worker=""}} 5
ts_process_memory_bytes{{{labels},worker="a"}} 10
ts_process_memory_bytes{{{labels},worker="b"}} 20
"""


def _between(before: str, now: str, seconds: float = 2.0) -> Figures:
    return between(Look(10.0, before), Look(10.0 + seconds, now))[_M]


def test_figures_are_of_the_time_between_two_looks() -> None:
    assert _between(_page(100, slow=100, errors=1), _page(140, slow=100, errors=3)) == Figures(
        rate=20.0,
        errors=2.0,
        latencies=pytest.approx((0.005, 0.0095, 0.0099)),  # type: ignore[arg-type]
        batch_size=2.0,
        queued=3,
        running=1,
        workers={"ready": 2},
        memory=30.0,
    )


def test_nothing_is_made_up_when_nothing_was_answered() -> None:
    figures = _between(_page(100), _page(100))
    assert (figures.rate, figures.latencies, figures.batch_size) == (0.0, None, None)


def test_server_that_was_started_anew_counts_from_its_start() -> None:
    assert _between(_page(100), _page(10)).rate == 5.0


@pytest.mark.parametrize(
    ("share", "found"),
    [pytest.param(0.5, 0.00625, id="inside a bucket"), pytest.param(0.99, 0.1, id="beyond the last bound")],
)
def test_percentile_is_reckoned_from_buckets(share: float, found: float) -> None:
    buckets = [(0.01, 80.0), (0.1, 90.0), (float("inf"), 100.0)]
    assert percentile(buckets, share) == pytest.approx(found)


def test_servers_own_memory_has_no_model() -> None:
    assert server_memory(Look(0, _page(1))) == 5


def test_every_family_that_is_read_is_one_of_the_servers() -> None:
    families = ServerMetrics(MetricsConfig()).registry.render()
    for line in _page(2).splitlines():
        name = line.partition("{")[0]
        for suffix in ("_bucket", "_count", "_sum"):
            name = name.removesuffix(suffix)
        assert f"# TYPE {name} " in families


async def test_one_frame_is_shown(server: FakeServer, command: Command) -> None:
    server.answers["GET /metrics"] = (200, _page(10))
    outcome = await command("top", "--once", "--interval", "0.01", "--url", server.url)
    assert outcome.code == 0
    assert "2 ready" in outcome.out


async def test_one_frame_is_json_for_programs(server: FakeServer, command: Command) -> None:
    server.answers["GET /metrics"] = (200, _page(10))
    outcome = await command("top", "--once", "--json", "--interval", "0.01", "--url", server.url)
    (model,) = json.loads(outcome.out)["models"]
    assert (model["model"], model["queued"], model["workers"]) == ("m", 3, {"ready": 2})


async def test_page_that_is_not_ours_is_said_so(server: FakeServer, command: Command) -> None:
    server.answers["GET /metrics"] = (200, "up 1")
    outcome = await command("top", "--once", "--url", server.url)
    assert outcome.code == 3
    assert "metrics_mode=prometheus" in outcome.err


async def test_table_is_not_drawn_where_there_is_no_terminal(server: FakeServer, command: Command) -> None:
    outcome = await command("top", "--url", server.url)
    assert outcome.code == 1
    assert "--once" in outcome.err


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
async def test_key_ends_it_and_the_terminal_is_as_before(key: bytes, server: FakeServer, folder: Path) -> None:
    asked_twice, asked = asyncio.Event(), 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:  # by now keys are heard
            asked_twice.set()
        return web.Response(text=_page(asked))

    server.holding = answer
    terminal, its_end = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torchserve_lite", "top", "--interval", "0.05", "--url", server.url),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        env=environ,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(its_end)
    drawn = asyncio.create_task(asyncio.to_thread(_read_all, terminal))
    await asked_twice.wait()
    os.write(terminal, key)
    assert await process.wait() == 0
    output = await drawn
    assert b"2 ready" in output
    assert output.index(b"\x1b[?1049h") < output.rindex(b"\x1b[?1049l")  # the screen from before is back


def _take_terminal() -> None:
    heed_interruption()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_all(terminal: int) -> bytes:
    output = b""
    try:
        while piece := os.read(terminal, 65536):
            output += piece
    except OSError:  # EIO: the end of a terminal
        pass
    os.close(terminal)
    return output
