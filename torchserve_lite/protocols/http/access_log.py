"""The access log in TorchServe's layout, handed over in batches: a line costs microseconds, and waits for nobody."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

_FLUSH_EVERY = 0.5  # seconds a line may wait
_FLUSH_AT = 500  # lines
_QUERY_OF_URL = re.compile(r"([?&]url=[^&]*?)(?:\?.*|%3f[^&]*)", re.IGNORECASE)  # of the archive to register


class AccessLog:
    """Collects lines and hands them over as one text. ``write`` gets text that ends with a newline; it never blocks.

    ``as_json``: each line is an object.
    """

    def __init__(self, write: Callable[[str], None], *, as_json: bool = False) -> None:
        self._write = write
        self._as_json = as_json
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._second_text = ""
        self._millisecond = 0
        self._stamp = ""

    def add(self, peer: str, asked: str, status: int, seconds: float, request_id: str) -> None:
        """``peer`` and ``asked`` as ``peer_name`` and ``request_line`` give them."""
        if self._as_json:
            line = json.dumps(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "logger": "ACCESS_LOG",
                    "client": peer.removeprefix("/"),
                    "request": asked,
                    "status": status,
                    "milliseconds": round(seconds * 1000, 3),
                    "request_ids": [request_id],
                }
            )
        else:
            millisecond = int(time.time() * 1000)
            if millisecond != self._millisecond:
                self._set_stamp(millisecond)
            line = f'{self._stamp} - {peer} "{asked}" {status} {round(seconds * 1000)}'
        self._lines.append(line)
        if len(self._lines) >= _FLUSH_AT:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_EVERY, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            text, self._lines = "\n".join(self._lines) + "\n", []
            self._write(text)

    def _set_stamp(self, millisecond: int) -> None:
        """Local time as TorchServe writes it, made once for all answers of a millisecond: those of a batch. Calls of
        gRPC come one by one, and would each pay the 4 us of a second's text."""
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))
        self._millisecond = millisecond
        self._stamp = f"{self._second_text},{rest:03d}"


def peer_name(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return f"/{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "127.0.0.1"


def request_line(method: str, target: str) -> str:
    """The request target as it came, which has been checked to hold no line breaks. A quote would end the field, and
    bytes that are no UTF-8 have no place in a log at all; nor has the query of a signed URL, which is a secret."""
    if "url=" in target:
        target = _QUERY_OF_URL.sub(r"\1?...", target)
    if not target.isascii():
        target = "".join(c if c.isascii() else quote(c, errors="surrogateescape") for c in target)
    escaped = target.replace('"', "%22")
    return f"{method} {escaped} HTTP/1.1"
