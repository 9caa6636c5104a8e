"""What is plain: a list of all that a request may be which is answered without aiohttp.

Of such a request nothing but its path, its length and a few headers counts, and every parser reads it in the same way.
What is not on the list is not plain, whatever it is.

Clients on a kept connection send the same head again and again: one that has come before is looked up, and of another
one only the lines that are new are read. A parser written in C costs more than that, since it calls for each header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from torchserve_lite.core.requests import Headers, InferenceRequest, Part
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.ipc.messages import encoded_headers
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.access_log import request_line
from torchserve_lite.protocols.http.events import accepts_events
from torchserve_lite.protocols.http.heads import HOST
from torchserve_lite.protocols.http.requests import Target, timeout_of
from torchserve_lite.protocols.http.routing import PlainRoute

_LONGEST_HEAD = 8000  # bytes; what aiohttp's limits could concern is left to it
_MOST_HEADERS = 64

_REQUEST_LINE = re.compile(r"(POST|PUT) ((?:/[A-Za-z0-9_:~-][A-Za-z0-9_:~.-]*)+/?) HTTP/1\.1")
_RULES = {  # for the headers that change how a request is read, or answered
    "connection": re.compile("keep-alive", re.IGNORECASE),
    "content-length": re.compile("0|[1-9][0-9]{0,9}"),
    "content-type": re.compile(
        "(?!multipart/form-data|application/x-www-form-urlencoded|application/cloudevents).*", re.IGNORECASE
    ),
    "host": HOST,
}
# fmt: off
_OTHERS = frozenset({  # handlers see them; of the others only the guard looks at authorization
    "accept", "accept-charset", "accept-encoding", "accept-language", "authorization", "baggage", "cache-control",
    "cookie", "date", "dnt", "from", "origin", "pragma", "priority", "referer", "sec-fetch-dest", "sec-fetch-mode",
    "sec-fetch-site", "sec-fetch-user", "traceparent", "tracestate", "user-agent", "via",
})
# fmt: on
_OWN_NAME = re.compile("x-[a-z0-9-]+")  # nor at these, but for x-request-timeout-ms


@lru_cache(maxsize=1024)
def _header(line: str) -> tuple[str, tuple[str, str]] | None:
    """The name in lower case, and name and value as they came. None where a plain request has no such line."""
    name, _, value = line.partition(": ")
    lower = name.lower()
    rule = _RULES.get(lower)
    known = lower in _OTHERS or _OWN_NAME.fullmatch(lower) if rule is None else rule.fullmatch(value)
    if not known or not value or not value.isprintable() or value != value.strip():
        return None
    return lower, (name, value)


@dataclass(slots=True)
class Head:
    """The head of a plain request, read. Nobody changes it (see ``core/requests.py``)."""

    raw: bytes  # as it came, with the empty line at its end
    size: int  # of this, and of all that belongs to the request
    whole: int
    target: Target
    form: ErrorForm
    content_type: str
    headers: Headers
    encoded_headers: bytes
    timeout: float | None
    trace_context: str
    authorization: str
    wants_events: bool  # where the answer streams
    asked: str  # for the log

    def request(self, request_id: str, body: Buffer) -> InferenceRequest:
        target = self.target
        return InferenceRequest(
            request_id,
            target.model,
            target.version,
            target.verb,
            (Part("body", body, self.content_type),),
            self.headers,
            target.envelope,
            self.timeout,
            self.trace_context,
            self.encoded_headers,
        )


class PlainHeads:
    """``head`` reads those of one listener. ``routes``: on which requests can be plain."""

    def __init__(self, routes: Iterable[PlainRoute], max_request_size: int) -> None:
        self._routes = [(_pattern(route.path), route) for route in routes]
        self._longest_body = max_request_size
        self._known_head = lru_cache(maxsize=256)(self._read)
        self._known_line = lru_cache(maxsize=256)(self._read_line)

    def head(self, data: bytes) -> Head | None:
        """The head of the plain request that begins here; None where it is not plain, or has not come whole."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD)
        return self._known_head(data[: end + 4]) if end > 0 and self._routes else None

    def _read(self, raw: bytes) -> Head | None:
        if not raw.isascii():
            return None
        first, *lines = raw[:-4].decode().split("\r\n")
        line = self._known_line(first)
        if line is None or len(lines) > _MOST_HEADERS:
            return None
        pairs: list[tuple[str, str]] = []
        values: dict[str, str] = {}
        for text in lines:
            header = _header(text)
            if header is None or header[0] in values:
                return None
            name, pair = header
            pairs.append(pair)
            values[name] = pair[1]
        length = int(values.get("content-length", self._longest_body + 1))
        if length > self._longest_body or "host" not in values:
            return None
        try:
            timeout = timeout_of(values["x-request-timeout-ms"]) if "x-request-timeout-ms" in values else None
        except ServingError:
            return None
        target, form, asked = line
        content_type = target.content_type
        if content_type is None:
            content_type = values.get("content-type", "").partition(";")[0].strip()
        headers = (*pairs, *target.more_headers)
        trace_context = values.get("traceparent", "")
        size = len(raw)
        facts = (target, form, content_type, headers, encoded_headers(headers), timeout, trace_context)
        wants_events = accepts_events(values.get("accept", ""))
        return Head(raw, size, size + length, *facts, values.get("authorization", ""), wants_events, asked)

    def _read_line(self, line: str) -> tuple[Target, ErrorForm, str] | None:
        """What the first line asks for, in which form errors are told, and how it is logged."""
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            return None
        method, path = match.groups()
        for pattern, route in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            try:
                target = route.target_of(found.groupdict())
            except ServingError:
                return None
            return None if target is None else (target, route.form, request_line(method, path))
        return None


def _pattern(path: str) -> re.Pattern[str]:
    """A route's path in aiohttp's notation, as aiohttp understands it."""
    return re.compile(re.sub(r"\{(\w+)(?::([^{}]+))?\}", lambda m: f"(?P<{m[1]}>{m[2] or '[^{}/]+'})", path))
