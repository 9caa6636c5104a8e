"""The two encodings of HTML forms, read from a body that is there as a whole: pure functions, in linear time.

aiohttp's multipart reader wants a stream. It would check the limit part by part, so that a preamble or headers without
end stay uncounted, and hold each part in memory a second time while it grows.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from torchserve_lite.core.requests import Part
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest

_MOST_FIELDS = 1000
_LONGEST_BOUNDARY = 70  # characters, by the standard
_LONGEST_HEADERS = 8190  # bytes of one part's headers, as aiohttp allows a request's header
_PARAMETER = re.compile(r';\s*(?P<name>[^\s=;"]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^;"\s]*))\s*', re.S)


def urlencoded(body: bytes | bytearray) -> list[Part]:
    if body.count(b"&") >= 2 * _MOST_FIELDS or len(fields := [f for f in body.split(b"&") if f]) > _MOST_FIELDS:
        raise BadRequest(f"The form, or the query, has more than {_MOST_FIELDS} fields.")
    pairs = (bytes(field).replace(b"+", b" ").partition(b"=") for field in fields)
    return [Part(_text(unquote_to_bytes(name)), unquote_to_bytes(value)) for name, _, value in pairs]


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a multipart content type names, None when it names none."""
    boundary = _parameters(content_type, "Content-Type").get("boundary")
    if boundary is None:
        return None
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise BadRequest(f"The multipart boundary has {len(boundary)} characters; it must have 1 to 70.")
    return boundary.encode("latin-1", "replace")


def multipart(body: bytes | bytearray, boundary: bytes) -> list[Part]:
    """Every part, in order, also of one name: views of the body, which may be large. Preamble and epilogue are passed
    over, as the standard says."""
    whole = memoryview(body)
    line = rb"--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\Z)"
    delimiter = re.compile(rb"\r\n" + line)  # begins with fixed bytes, for which a search is fast
    found = re.compile(line).match(body) or delimiter.search(body)
    parts: list[Part] = []
    while found is not None and found[1] is None:
        if len(parts) == _MOST_FIELDS:
            raise BadRequest(f"The multipart body has more than {_MOST_FIELDS} parts.")
        begin = found.end()
        if body.startswith(b"\r\n", begin):  # no headers at all
            head_end = begin - 2
        else:
            head_end = body.find(b"\r\n\r\n", begin, begin + _LONGEST_HEADERS)
            if head_end < 0:
                raise BadRequest(
                    f"Part {len(parts) + 1} of the multipart body has no end of its headers within "
                    f"{_LONGEST_HEADERS} bytes."
                )
        found = delimiter.search(body, head_end + 2)
        if found is not None:
            head = bytes(whole[begin : max(begin, head_end)])
            parts.append(_part(head, whole[head_end + 4 : found.start()], len(parts) + 1))
    if found is None:
        raise BadRequest("The multipart body cannot be read: its boundary is missing, or the one that ends it is.")
    return parts


def _part(head: bytes, data: memoryview, number: int) -> Part:
    headers: dict[str, str] = {}
    for line in re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n") if head else ():
        name, colon, value = _text(line).partition(":")
        if not colon or not name.strip():
            raise BadRequest(f"A header of part {number} of the multipart body is no header: it has no name and colon.")
        if headers.setdefault(name.strip().lower(), value.strip()) != value.strip():
            raise BadRequest(f"Part {number} of the multipart body has two headers {name.strip()!r:.80}.")
    disposition = _parameters(headers.get("content-disposition", ""), f"Content-Disposition of part {number}")
    kind = headers.get("content-type", "application/octet-stream").partition(";")[0].strip()
    if kind.lower().startswith("multipart/"):
        raise BadRequest(
            f"Part {number} of the multipart body is a multipart body itself: send its parts side by side."
        )
    # Only a part with a file name keeps its content type, as in TorchServe; others reach the handler as bytes
    is_file = "filename" in disposition or "filename*" in disposition
    name = disposition.get("name", "")
    return Part(name, _decoded(data, headers.get("content-transfer-encoding", ""), number), kind if is_file else "")


def _decoded(data: memoryview, encoding: str, number: int) -> Buffer:
    try:
        match encoding.lower():
            case "" | "binary" | "8bit" | "7bit":
                return data
            case "base64":
                return base64.b64decode(b"".join(bytes(data).split()), validate=True)
            case "quoted-printable":
                return binascii.a2b_qp(data)
    except ValueError as error:
        raise BadRequest(f"Part {number} of the multipart body is no {encoding}: {error}.") from error
    raise BadRequest(
        f"Part {number} of the multipart body has the Content-Transfer-Encoding {encoding!r}; binary, base64 and "
        "quoted-printable are understood."
    )


def _parameters(value: str, where: str) -> dict[str, str]:
    """What follows the first semicolon of a header's value."""
    found: dict[str, str] = {}
    position = value.find(";")
    while 0 <= position < len(value):
        match = _PARAMETER.match(value, position)
        if match is None:
            if value[position:].strip("; \t"):
                raise BadRequest(f"The {where} of the form cannot be read: {value[position : position + 80]!r}.")
            break
        text = match["plain"] if match["quoted"] is None else re.sub(r'\\(["\\])', r"\1", match["quoted"])
        if found.setdefault(match["name"].lower(), text) != text:
            raise BadRequest(f"The {where} of the form has {match['name']!r:.80} twice.")
        position = match.end()
    if "name*" in found:  # RFC 5987: charset'language'percent-encoded
        found["name"] = _text(unquote_to_bytes(found["name*"].rpartition("'")[2]))
    return found


def _text(raw: bytes) -> str:
    """UTF-8 or else Latin-1: always something that can be encoded again."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
