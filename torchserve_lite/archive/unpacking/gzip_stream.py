"""Reads the content of a gzip file forwards, in bounded memory, counting every byte it gives out.

Not ``gzip.GzipFile``: that one feeds zlib 8 KiB at a time (before Python 3.12), and fails on rubbish after
the end without saying so.
"""

from __future__ import annotations

import zlib
from io import BufferedReader

from torchserve_lite.archive.unpacking.entries import CHUNK, ArchiveError

_GZIP = 31  # zlib's window size for "gzip wrapper only"; zlib then checks CRC and length itself
_ADVICE = "Copy or build it again"


class GzipStream:
    """``read`` gives what was packed; ``allowance`` is the most it gives in all before it calls the file a bomb."""

    def __init__(self, file: BufferedReader, allowance: int) -> None:
        self._file = file
        self._left = allowance
        self._inflater = zlib.decompressobj(_GZIP)
        self._packed = b""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end."""
        pieces = []
        while size and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip_rest(self) -> None:
        """Reads to the end, so that the checksum there is checked."""
        while self._next(CHUNK):
            pass

    def _next(self, most: int) -> bytes:
        """At most so many bytes, none at the orderly end of the file."""
        while not self._inflater.eof or self._begin_next_member():
            self._packed = self._packed or self._file.read(CHUNK)
            if not self._packed:
                raise ArchiveError(f"ends in the middle of its compressed data (cut short while copied?). {_ADVICE}")
            try:
                piece = self._inflater.decompress(self._packed, most)
            except zlib.error as error:
                raise ArchiveError(f"is a damaged gzip file: {error}. {_ADVICE}") from error
            self._packed = self._inflater.unconsumed_tail
            self._left -= len(piece)
            if self._left < 0:
                raise ArchiveError("unpacks to far more than an archive of its size may (a decompression bomb?)")
            if piece:
                return piece
        return b""

    def _begin_next_member(self) -> bool:
        """gzip files may follow one another in one file (pigz, cat); tape padding of zeros may follow the last."""
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest and (more := self._file.read(CHUNK)):
            rest = more.lstrip(b"\0")
        if not rest:
            return False
        self._inflater, self._packed = zlib.decompressobj(_GZIP), rest
        return True
