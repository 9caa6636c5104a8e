"""What is printed, asked and named cannot forge a log line, and a handler that prints without end harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import Server, running, write_model

FORGED = "2026-11-22T12:36:28,253 [ERROR] main forged - "
HOSTILE = [
    f"a\r\n{FORGED}1",
    f"b\x1b[2J\x1b]0;title\x07\x1b[31m{FORGED}2",
    f"c\u2028{FORGED}3\u2029\x85\x0b\x0c\x1c\x1d",
    f"d\x1e40\x1f{FORGED}4\x1eRforged\x1f{FORGED}5",
    'e\n{"level": "ERROR", "logger": "forged"}',
    "f\udcff\ufffe\x00\x9b31m",
]
HANDLER = """
import logging, os, sys

def handle(data, context):
    if data is None:
        return None
    text = bytes(data[0]["body"]).decode("utf-8", "surrogateescape")
    name = context.get_request_header(0, "x-name") or ""
    if text == "flood":
        os.write(1, b"half a line, ")
        for _ in range(64):
            sys.stdout.write("x" * 1023 + "\\n" * 1)
            os.write(1, b"\\xff\\xfe binary \\r\\n" * 65536)
        return ["flooded"]
    for say in (print, logging.warning):
        say(text.encode("utf-8", "backslashreplace").decode())
        say(repr(name))
    sys.stderr.buffer.write(os.fsencode(text) + b"\\n")
    sys.stderr.buffer.flush()
    if text.startswith("a"):
        raise ValueError(text)
    return ["said"]
"""
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} (\[[A-Z]+ *\] (main|W-\S+) [\w.]+ - |- )")
DISPLAYED = re.compile(
    r"torchserve-lite |warning: |console: |listening: |loading: |ready: |try: |Model server started|Stopping: "
)


async def ask_for_everything(server: Server) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    for text in HOSTILE:
        data = text.encode("utf-8", "surrogateescape")
        await server.post("/predictions/m", data)
        for target in (b"/predictions/%s" % data, b"/predictions/m?q=%s" % data, b"/models?url=%s" % data):
            await raw(host, int(port), b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        for header in (b"User-Agent", b"x-request-id", b"X-Forwarded-For", b"Host", data):
            head = b"POST /predictions/none HTTP/1.1\r\nContent-Length: 0\r\n" + header + b": " + data + b"\r\n\r\n"
            await raw(host, int(port), head)
        for name in (text, f"m/{text}"):
            encoded = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogateescape"))
            await server.post(f"/predictions/{encoded}")
            await server.post(f"/models?url={encoded}.mar&model_name={encoded}")
        await server.post("/models", {"url": text.encode("utf-8", "replace").decode(), "model_name": "x\n" + FORGED})
        await server.post("/predictions/m", data)


async def raw(host: str, port: int, request: bytes) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_that_is_printed_asked_or_named_forges_a_line(form: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "m", HANDLER)
    settings = {"log_format": form, "enable_model_api": "true", "log_request_ids": "true"}
    async with running(tmp_path, store, settings) as server:
        await ask_for_everything(server)
        assert (await server.post("/predictions/m", b"the end"))[0] == 200
        await server.line("the end")
        assert await server.stop() == 0
    for name in ("ts_log.log", "model_log.log", "access_log.log"):
        data = (tmp_path / "logs" / name).read_bytes()
        assert data, name
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", data), name
        for line in data.decode().splitlines():  # which ends lines at every character that some reader might
            if form == "json":
                told = json.loads(line)
                assert told["logger"] != "forged"
            else:
                assert LINE.match(line) or line.startswith("    "), line
                assert "main forged" not in line[:60], line
    output = "\n".join(server.lines[:-1])
    if form == "text":
        for line in output.splitlines():
            assert LINE.match(line) or line.startswith("    ") or DISPLAYED.match(line), line


async def test_handler_that_prints_without_end_harms_nobody(tmp_path: Path) -> None:
    """64 MB, invalid UTF-8 and line ends of Windows among them: answered, bounded in files and memory, and said."""
    store = tmp_path / "store"
    write_model(store, "m", HANDLER)
    write_model(store, "quiet", "def handle(data, context):\n    return None if data is None else ['here']\n")
    async with running(tmp_path, store, {}) as server:
        front = psutil.Process(server.process.pid)
        before = front.memory_info().rss
        flooding = asyncio.create_task(server.post("/predictions/m", b"flood"))
        asked = 0
        while not flooding.done():
            assert await server.post("/predictions/quiet") == (200, b"here")
            asked += 1
        assert await flooding == (200, b"flooded")
        await server.line("lines were left out here: a worker may write")
        assert front.memory_info().rss - before < 64 * 2**20
        assert asked
    log = tmp_path / "logs" / "model_log.log"
    assert log.stat().st_size < 32 * 2**20
    assert b"\\ufffd" in log.read_bytes() or "\ufffd" in log.read_text()


async def test_metrics_in_log_files_have_torchserves_form(tmp_path: Path) -> None:
    """``metrics_mode=log`` with a real server: contract of ts_metrics.log and model_metrics.log."""
    store = tmp_path / "store"
    code = (
        "def handle(data, context):\n    if data is None:\n        return None\n"
        "    context.metrics.add_counter('Digits', 1)\n"
        "    return ['fine']\n"
    )
    write_model(store, "m", code)
    settings = {
        "metrics_mode": "log",
        "model_metrics_auto_detect": "true",
        "disable_system_metrics": "false",
        "metric_time_interval": 1,
    }
    where = {"METRICS_LOCATION": str(tmp_path / "metrics")}
    async with running(tmp_path, store, settings, environment=where) as server:
        for _ in range(3):
            assert (await server.post("/predictions/m", b"x"))[0] == 200
        await server.line("MemoryUsed")
        await server.line("Digits")
    host = re.escape(socket.gethostname())
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - "
    server_lines = (tmp_path / "metrics" / "ts_metrics.log").read_text().splitlines()
    labels = r"(?:[^|]*Level:(?:Host|Model)[^|]*|model_name:[^|]*)"  # TorchServe's metrics have a level, ours a model
    form = rf"{stamp}\w+\.\w+:[\d.eE+-]+\|#{labels}\|#hostname:{host},timestamp:\d+"
    assert [line for line in server_lines if not re.fullmatch(form, line)] == []
    names = [line.split(" - ")[1].partition(".")[0] for line in server_lines]
    assert names.count("Requests2XX") >= 3
    assert "MemoryUsed" in names
    form = rf"{stamp}\w+\.\w+:[\d.eE+-]+\|#[^|]*Level:Model[^|]*\|#hostname:{host},(requestID:[\w,-]+,)?timestamp:\d+"
    model_lines = (tmp_path / "metrics" / "model_metrics.log").read_text().splitlines()
    assert any("Digits.Count:1" in line and "ModelName:m" in line for line in model_lines)
    assert [line for line in model_lines if "Digits" in line and not re.fullmatch(form, line)] == []
    assert "Digits" not in (tmp_path / "logs" / "ts_log.log").read_text()
