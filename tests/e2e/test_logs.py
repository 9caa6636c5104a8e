"""What a handler says reaches the log as it was meant; whoever does not read it holds nobody up."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

import aiohttp
import pytest

from tests.e2e.server import PATIENCE, environment_for, running, write_config, write_model

TALKATIVE = """
import logging, sys
print("printed while it was imported")
log = logging.getLogger(__name__)

def handle(data, context):
    if data is None:
        return None
    request = bytes(data[0]["body"]).decode()
    if request == "flood":
        sys.stdout.write("x\\n" * 5_000_000)
    elif request == "speak":
        print("50%", end="", flush=True)
        log.error("an error\\nof two lines")
        log.warning("a warning")
        log.getChild("quiet").debug("not asked for")
        print("printed")
        print("to stderr", file=sys.stderr)
    elif request == "line":
        print("y" * 100_000)
    return [request]
"""


async def test_lines_of_a_handler_have_their_level_and_are_whole(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "m", TALKATIVE)
    async with running(tmp_path, store, {}) as server:
        await server.post("/predictions/m", b"speak")
        await server.line("to stderr")
        await server.line("MODEL_LOG - printed$")
    log = (tmp_path / "logs" / "model_log.log").read_text()
    lines = re.findall(r"\[(\w+) *\] W-\S+-(std\w+) MODEL_LOG - (.*)", log)
    assert [line for line in lines if line[1] == "stdout"] == [
        ("INFO", "stdout", "printed while it was imported"),
        ("INFO", "stdout", "50%"),
        ("ERROR", "stdout", "an error"),
        ("ERROR", "stdout", "of two lines"),
        ("WARN", "stdout", "a warning"),
        ("INFO", "stdout", "printed"),
    ]
    assert ("WARN", "stderr", "to stderr") in lines


async def test_flood_of_a_handler_is_left_out_and_counted_while_others_are_answered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "m", TALKATIVE)
    write_model(store, "other", TALKATIVE)
    async with running(tmp_path, store, {}) as server:
        flood = asyncio.create_task(server.post("/predictions/m", b"flood"))
        for _ in range(20):
            assert await server.post("/predictions/other", b"hello") == (200, b"hello")
        assert await flood == (200, b"flood")
        await server.line("lines were left out here")
        assert len([line for line in server.lines if line.endswith(" - x")]) < 50_000


@pytest.mark.parametrize("stdout", ["nobody reads", "reader gone"])
async def test_server_serves_and_stops_when_its_output_is_not_taken(stdout: str, tmp_path: Path) -> None:
    write_model(tmp_path / "store", "m", TALKATIVE)
    with _started(tmp_path) as process:
        assert process.stdout is not None
        url = _ready(process.stdout)
        if stdout == "reader gone":
            process.stdout.close()
        async with aiohttp.ClientSession() as client:
            for _ in range(10):  # a megabyte, where a pipe holds 64 KiB
                async with client.post(f"{url}/predictions/m", data=b"line") as response:
                    assert (response.status, await response.read()) == (200, b"line")
        process.terminate()
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        process.kill()
    log = (tmp_path / "logs" / "model_log.log").read_text()
    assert log.count("y") == 1_000_000
    if stdout == "reader gone":
        assert "Log lines cannot be written to <stdout> (Broken pipe)" in (tmp_path / "logs" / "ts_log.log").read_text()


def _started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config"]
    return subprocess.Popen(
        [*command, str(write_config(folder, folder / "store", {}))],
        cwd=folder,
        env=environment_for(folder, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
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
