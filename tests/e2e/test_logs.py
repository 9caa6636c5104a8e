"""What a handler says reaches the log as it was meant."""

from __future__ import annotations

import re
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
