"""The access log: TorchServe's layout, whatever clients put into a request line."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.virtual_time import virtual_time
from torchserve_lite.protocols.http.access_log import AccessLog, peer_name, request_line


class Written:
    """What was handed over, and in how many pieces."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)

    @property
    def lines(self) -> list[str]:
        return "".join(self.texts).splitlines()


def add(
    log: AccessLog, status: int, seconds: float, target: str = "/predictions/m?x=1", peer: Any = ("127.0.0.1", 51346)
) -> None:
    transport: Any = SimpleNamespace(get_extra_info=lambda name: peer if name == "peername" else None)
    log.add(peer_name(transport), request_line("POST", target), status, seconds, "a1")


@virtual_time
async def test_line_has_torchserves_layout() -> None:
    written = Written()
    log = AccessLog(written)
    add(log, 500, 0.0184)
    log.flush()
    (line,) = written.lines
    layout = r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - /127\.0\.0\.1:51346 "POST /predictions/m\?x=1 HTTP/1\.1" 500 18'
    assert re.fullmatch(layout, line)


@virtual_time
async def test_json_line_says_the_same_as_an_object() -> None:
    written = Written()
    log = AccessLog(written, as_json=True)
    add(log, 500, 0.0184)
    log.flush()
    line = json.loads(written.lines[0])
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "logger": "ACCESS_LOG",
        "client": "127.0.0.1:51346",
        "request": "POST /predictions/m?x=1 HTTP/1.1",
        "status": 500,
        "milliseconds": 18.4,
        "request_ids": ["a1"],
    }


@pytest.mark.parametrize(
    ("now", "stamp"), [(1_795_350_988.253, r",253 - "), (1_795_350_988.0, r",000 - "), (1_795_350_988.9999, r",999 - ")]
)
@virtual_time
async def test_time_has_milliseconds_behind_a_comma(now: float, stamp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: now)
    written = Written()
    log = AccessLog(written)
    add(log, 200, 0.0)
    log.flush()
    assert stamp in written.lines[0]


@pytest.mark.parametrize("peer", ["", None])
@virtual_time
async def test_client_on_a_unix_socket_is_shown_as_torchserve_does(peer: object) -> None:
    written = Written()
    log = AccessLog(written)
    add(log, 200, 0.0, peer=peer)
    log.flush()
    assert ' - 127.0.0.1 "POST' in written.lines[0]


@pytest.mark.parametrize(
    "target",
    [
        pytest.param('/predictions/m" 200 1', id="quote"),
        pytest.param("/predictions/%0d%0aforged", id="encoded line break"),
        pytest.param("/predictions/\udcff\u2028", id="no text"),
    ],
)
@virtual_time
async def test_request_target_cannot_forge_a_line_or_a_field(target: str) -> None:
    written = Written()
    log = AccessLog(written)
    add(log, 404, 0.0, target)
    log.flush()
    (line,) = written.lines
    assert line.count('"') == 2
    assert line.isprintable()


@virtual_time
async def test_lines_are_written_together_and_soon() -> None:
    written = Written()
    log = AccessLog(written)
    for _ in range(3):
        add(log, 200, 0.0)
    assert written.texts == []
    await asyncio.sleep(0.5)
    assert [text.count("\n") for text in written.texts] == [3]


@virtual_time
async def test_many_lines_are_not_kept_waiting() -> None:
    written = Written()
    log = AccessLog(written)
    for _ in range(1000):
        add(log, 200, 0.0)
    assert [text.count("\n") for text in written.texts] == [500, 500]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        pytest.param(
            "/models?url=https%3A%2F%2Fh%2Fm.mar%3Fsig%3Dx%26t%3D1&model_name=m",
            "/models?url=https%3A%2F%2Fh%2Fm.mar?...&model_name=m",
            id="encoded",
        ),
        pytest.param(
            "/models/m?a=1&url=https://h/m.mar?sig=x&t=1", "/models/m?a=1&url=https://h/m.mar?...", id="plain"
        ),
        pytest.param("/models?url=m.mar&model_name=m", "/models?url=m.mar&model_name=m", id="no query"),
    ],
)
def test_query_of_a_signed_url_is_not_logged(target: str, shown: str) -> None:
    """The log of downloads left it out, and the access log had it."""
    assert request_line("POST", target) == f"POST {shown} HTTP/1.1"
