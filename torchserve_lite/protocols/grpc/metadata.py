"""Metadata: what handlers see of a client's, as HTTP's headers, and what a client gets of the headers that they set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from torchserve_lite.core.requests import Headers
from torchserve_lite.ipc.messages import encoded_headers
from torchserve_lite.protocols.http.raw_response import one_line
from torchserve_lite.protocols.http.requests import timeout_of

Metadata = tuple[tuple[str, str | bytes], ...]
"""As gRPC gives it: names in lower case; bytes are the values of names that end in ``-bin``."""

_OF_GRPC = "grpc-"
_NAME = re.compile(r"[0-9a-z_.-]+")
# fmt: off
_NOT_OF_HANDLERS = frozenset({
    "connection", "content-length", "content-type", "host", "keep-alive", "te", "trailer", "transfer-encoding",
    "upgrade", "user-agent", "x-request-id",
})
# fmt: on
_MOST_TOLD = 4000  # bytes, half of what clients take unless they were told to take more
_OVERHEAD = 32  # bytes of an entry besides its name and value, as HTTP/2 counts


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """``headers`` are the handler's: all but what is gRPC's own, the client's token, and bytes. ``timeout`` is what
    ``x-request-timeout-ms`` says."""

    headers: Headers
    encoded_headers: bytes
    authorization: str
    timeout: str | None
    trace_context: str

    @property
    def seconds(self) -> float | None:
        """BadRequest when it is no time."""
        return None if self.timeout is None else timeout_of(self.timeout)


@lru_cache(maxsize=256)  # a client sends the same again and again; gRPC bounds its size
def client_metadata(metadata: Metadata) -> ClientMetadata:
    texts = [(name, value) for name, value in metadata if isinstance(value, str)]
    headers = tuple([pair for pair in texts if pair[0] != "authorization" and not pair[0].startswith(_OF_GRPC)])
    first = dict(reversed(texts))
    return ClientMetadata(
        headers,
        encoded_headers(headers),
        first.get("authorization", ""),
        first.get("x-request-timeout-ms"),
        first.get("traceparent", ""),
    )


def told_to_client(headers: Headers) -> list[tuple[str, str]]:
    """A handler's headers as trailing metadata: gRPC would fail the whole call for a name or a value that it cannot
    send, and clients for too many of them."""
    told, size = [], 0
    for name, value in headers:
        name, value = name.lower(), one_line(value)
        if not _NAME.fullmatch(name) or name in _NOT_OF_HANDLERS or name.startswith(_OF_GRPC) or name.endswith("-bin"):
            continue
        if not value.isascii():
            value = "".join(c if c.isascii() else quote(c) for c in value)
        size += len(name) + len(value) + _OVERHEAD
        if size > _MOST_TOLD:
            break
        told.append((name, value))
    return told
