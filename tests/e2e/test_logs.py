"""What a handler says reaches the log as it was meant."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.e2e.server import running, write_model

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


async def test_sighup_opens_log_files_anew_and_ends_nothing(tmp_path: Path) -> None:
    """As logrotate does it: the file is moved away, the server told. Also to the whole group, as a script may do."""
    store = tmp_path / "store"
    write_model(store, "m", TALKATIVE)
    logs, moved = tmp_path / "logs", tmp_path / "moved"
    async with running(tmp_path, store, {}) as server:
        await server.post("/predictions/m", b"speak")
        await server.line("to stderr")
        logs.rename(moved)
        logs.mkdir()
        pids = await server.worker_pids("m")
        os.killpg(server.process.pid, signal.SIGHUP)
        await server.line("log files have been opened anew")
        said = len(server.lines)
        assert (await server.post("/predictions/m", b"speak"))[0] == 200
        await server.line("to stderr", after=said)
        assert await server.worker_pids("m") == pids
        assert await server.stop() == 0
    for name in ("ts_log.log", "model_log.log", "access_log.log"):
        assert (logs / name).stat().st_size, name
    assert (logs / "model_log.log").read_text().count("to stderr") == 1
    assert (moved / "model_log.log").read_text().count("to stderr") == 1
