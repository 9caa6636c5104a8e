"""Compressed bodies of KServe's protocols: unpacked within a limit, and answers packed for those who ask for it."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest, BodyTooLarge

_CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LARGE = 64 * 1024  # bytes that are worth a thread
_QUICKLY = 1  # zlib's level


async def unpacked(body: Buffer, coding: str, limit: int) -> Buffer:
    """``coding``: the Content-Encoding. BodyTooLarge when more than ``limit`` bytes come out."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _CODINGS:
        raise BadRequest(f"Content-Encoding is {coding!r:.80}; what is understood is gzip and deflate.")
    if len(body) < _LARGE and limit < 16 * _LARGE:
        return _unpacked(body, coding, limit)
    return await asyncio.to_thread(_unpacked, body, coding, limit)


def _unpacked(body: Buffer, coding: str, limit: int) -> bytes:
    pieces: list[bytes] = []
    room = limit
    rest = bytes(body)
    bits = _CODINGS[coding]
    if coding == "deflate" and rest and (rest[0] & 0x0F != 8 or int.from_bytes(rest[:2]) % 31):
        bits = -zlib.MAX_WBITS  # without zlib's header, as some clients understand the word
    while rest or not pieces:  # gzip may have several members
        unpacking = zlib.decompressobj(bits)
        try:
            piece = unpacking.decompress(rest, room + 1)
        except zlib.error as error:
            raise BadRequest(f"The body is not the {coding} that its Content-Encoding says: {error}.") from error
        if len(piece) > room:
            raise BodyTooLarge(limit)
        if not unpacking.eof:
            raise BadRequest(f"The body ends within its {coding}.")
        pieces.append(piece)
        room -= len(piece)
        rest = unpacking.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def packed(answer: InferenceResponse, accepted: str) -> InferenceResponse:
    """The answer in the coding that a client asks for by accepting no other (``accepted``: its Accept-Encoding), as
    Triton's does. Most libraries accept several unasked; those get it as it is, which costs less than packing it."""
    coding = accepted.partition(";")[0].strip().lower()
    names_a_coding = any(name.lower() == "content-encoding" for name, _ in answer.headers)
    if coding not in _CODINGS or "," in accepted or answer.stream is not None or names_a_coding:
        return answer
    if len(answer.body) < _LARGE:
        body = _packed(answer.body, coding)
    else:
        body = await asyncio.to_thread(_packed, answer.body, coding)
    return replace(answer, body=body, headers=(*answer.headers, ("Content-Encoding", coding)))


def _packed(body: Buffer, coding: str) -> bytes:
    packing = zlib.compressobj(_QUICKLY, wbits=_CODINGS[coding])
    return packing.compress(body) + packing.flush()
