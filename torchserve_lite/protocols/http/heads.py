"""What is wrong with the head of a request, before anything else is looked at."""

from __future__ import annotations

import re

from aiohttp import HttpVersion10, HttpVersion11, web

from torchserve_lite.errors import BadRequest, MalformedRequest, UnknownCoding
from torchserve_lite.protocols.http.requests import header

HOST = re.compile(r"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)  # RFC 3986: a name or an address, and a port


def check_head(request: web.Request) -> None:
    """What aiohttp lets through and a proxy before us may read in another way; and the target, of which model names and
    versions are made: it must be text that can be encoded again."""
    if request.version not in (HttpVersion10, HttpVersion11):
        raise MalformedRequest(
            f"HTTP/{request.version.major}.{request.version.minor} is not understood: send HTTP/1.1."
        )
    if "Transfer-Encoding" in request.headers:
        codings = header(request, "Transfer-Encoding")
        if codings.lower() != "chunked":
            raise UnknownCoding(codings)
        if request.version == HttpVersion10:
            raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding: send Content-Length, or HTTP/1.1.")
    if not HOST.fullmatch(host := header(request, "Host")):
        raise MalformedRequest(f"The header Host is {host!r:.80}, which is no host.")
    target = request.raw_path
    if not target.isascii():
        try:
            target.encode()
        except UnicodeEncodeError:
            raise BadRequest(
                "The request target has bytes that are no UTF-8: percent-encode what is not ASCII in path and query."
            ) from None
