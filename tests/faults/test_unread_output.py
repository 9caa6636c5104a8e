"""Nobody reads what the server and its handlers say, or not at that pace: everybody is answered all the same, and what
is left out of the log is counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import aiohttp
import pytest

from tests.e2e.server import PATIENCE, environment_for, running, write_config, write_model

TALKATIVE = """
import sys

def handle(data, context):
    if data is None:
        return None
    request = bytes(data[0]["body"]).decode()
    if request == "flood":
        sys.stdout.write("x\\n" * 10_000_000)
    elif request == "line":
        print("y" * 100_000)
    elif request == "speak":
        print("spoken on", file=sys.stderr)
    return [request]
"""
LEFT_OUT_OF_A_WORKER = r"([\d,]+) lines were left out here"
LEFT_OUT_OF_THE_LOG = r"([\d,]+) log lines were left out here"
MORE_THAN_IS_KEPT = 6 * 1024 * 1024  # bytes: a place of the log keeps 4 MiB that nobody takes, and pipes some more


@pytest.mark.parametrize("reading", [True, False], ids=["log is read", "nobody reads"])
async def test_flood_of_a_handler_costs_nobody_an_answer(reading: bool, tmp_path: Path) -> None:
    """20 MB of lines of two bytes; other workers of that model and other models answer meanwhile."""
    store = tmp_path / "store"
    write_model(store, "flooding", TALKATIVE, config="minWorkers: 2\nmaxWorkers: 2\n")
    write_model(store, "other", TALKATIVE)
    async with running(tmp_path, store, {}) as server:
        if not reading:
            server.reading.clear()
        flood = asyncio.create_task(server.post("/predictions/flooding", b"flood"))
        for _ in range(20):
            assert await server.post("/predictions/other", b"a") == (200, b"a")
            assert await server.post("/predictions/flooding", b"b") == (200, b"b")
        assert await flood == (200, b"flood")
        server.reading.set()
        await server.line(LEFT_OUT_OF_A_WORKER)
        assert await server.post("/predictions/other", b"speak") == (200, b"speak")
        await server.line("spoken on")
    shown = len([line for line in server.lines if line.endswith(" - x")])
    assert shown < 100_000
    assert shown + told(LEFT_OUT_OF_A_WORKER, server.lines) == 10_000_000


async def test_log_that_was_not_read_goes_on_and_counts_what_it_lacks(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "m", TALKATIVE)
    async with running(tmp_path, tmp_path / "store", {}) as server:
        server.reading.clear()
        log = tmp_path / "logs" / "model_log.log"
        while not log.exists() or log.stat().st_size < MORE_THAN_IS_KEPT:
            assert await server.post("/predictions/m", b"line") == (200, b"line")
        server.reading.set()
        await server.line(LEFT_OUT_OF_THE_LOG)
        assert await server.post("/predictions/m", b"speak") == (200, b"speak")
        await server.line("spoken on")
    assert missing(server.lines, tmp_path / "logs") == told(LEFT_OUT_OF_THE_LOG, server.lines) > 0


@pytest.mark.parametrize("output", ["nobody reads", "reader gone"])
async def test_server_serves_and_stops_when_its_output_is_not_taken(output: str, tmp_path: Path) -> None:
    """Its standard output from when it is ready, its standard error from the start."""
    write_model(tmp_path / "store", "m", TALKATIVE)
    errors, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x")
    os.set_blocking(write_end, True)
    if output == "reader gone":
        os.close(errors)
    with _started(tmp_path, write_end) as process:
        assert process.stdout is not None
        os.close(write_end)
        try:
            url = await asyncio.to_thread(_ready, process.stdout)
            if output == "reader gone":
                process.stdout.close()
            async with aiohttp.ClientSession() as client:
                for _ in range(10):  # a megabyte, where a pipe holds 64 KiB
                    async with client.post(f"{url}/predictions/m", data=b"line") as response:
                        assert (response.status, await response.read()) == (200, b"line")
            process.terminate()
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        finally:
            process.kill()
    if output == "nobody reads":
        os.close(errors)
    logs = tmp_path / "logs"
    assert (logs / "model_log.log").read_text().count("y") == 1_000_000
    if output == "reader gone":
        assert "Log lines cannot be written to <stdout> (Broken pipe)" in (logs / "ts_log.log").read_text()


def told(pattern: str, lines: Iterable[str]) -> int:
    """How many lines the log says it lacks."""
    return sum(int(said[1].replace(",", "")) for line in lines if (said := re.search(pattern, line)))


def missing(shown: Iterable[str], logs: Path) -> int:
    """How many lines of the log files were not shown."""
    written = Counter(
        line for name in ("ts_log.log", "access_log.log") for line in (logs / name).read_text().splitlines()
    )
    return (written - Counter(shown)).total()


def _started(folder: Path, errors: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config"]
    return subprocess.Popen(
        [*command, str(write_config(folder, folder / "store", {}))],
        cwd=folder,
        env=environment_for(folder, {}),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def _ready(output: IO[str]) -> str:
    """Reads until the models are ready; the inference address."""
    url = ""
    for line in output:
        if line.startswith("listening: inference"):
            url = line.split()[-1]
        if line.startswith("Model server started."):
            return url
    raise AssertionError("the server ended")
