"""What every HTTP protocol takes from a request in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from torchserve_lite.core.requests import Envelope, Headers, InferenceRequest, Part, Verb
from torchserve_lite.errors import BadRequest, MethodNotAllowed

INFER_METHODS = ("POST", "PUT", "GET")
READ = ("GET", "HEAD")
REQUEST_ID = web.RequestKey("x-request-id", str)
TIMEOUT = "X-Request-Timeout-Ms"


def wire_headers(request: web.Request) -> Headers:
    """All headers in the client's own spelling."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers])


def header(request: web.Request, name: str) -> str:
    """A header's text, empty when it is absent; all of them when it is repeated. aiohttp smuggles bytes that are no
    UTF-8 through as surrogates, which nothing can encode again: such a text is read as Latin-1, as in
    ``wire_headers``."""
    value = ", ".join(request.headers.getall(name, ()))
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")


def is_json(request: web.Request) -> bool:
    kind = media_type(request)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def media_type(request: web.Request) -> str:
    """The content type without its parameters, as the client wrote it."""
    return header(request, "Content-Type").partition(";")[0].strip()


def check_method(request: web.Request) -> None:
    """A crawler's GET without a body, or a HEAD, must not run a model."""
    method = request.method
    if method in ("POST", "PUT") or (method == "GET" and (request.can_read_body or request.query_string)):
        return
    raise MethodNotAllowed(INFER_METHODS)


@dataclass(frozen=True, slots=True)
class Target:
    """What the path of an inference request asks for. ``content_type``: what its body is, whatever the client says."""

    model: str
    version: str | None = None
    verb: Verb = Verb.PREDICT
    envelope: Envelope = Envelope.NONE
    content_type: str | None = None
    more_headers: Headers = ()


def make_request(request: web.Request, target: Target, parts: Iterable[Part]) -> InferenceRequest:
    return InferenceRequest(
        request[REQUEST_ID],
        target.model,
        target.version,
        target.verb,
        tuple(parts),
        (*wire_headers(request), *target.more_headers),
        target.envelope,
        timeout_of(header(request, TIMEOUT)) if TIMEOUT in request.headers else None,
        header(request, "traceparent"),
    )


def timeout_of(text: str) -> float:
    """The seconds that the client is ready to wait."""
    try:
        milliseconds = float(text) if text.isascii() and "_" not in text else -1
    except ValueError:
        milliseconds = -1
    if not 0 < milliseconds < float("inf"):
        raise BadRequest(f"{TIMEOUT} is {text!r}; it must be a number of milliseconds above 0.")
    return milliseconds / 1000
