"""Reads a .tar.gz, .tgz or .model (a gzip-compressed tar) as entries.

Not ``tarfile``: it ends quietly at a damaged header as if the archive were over, reads extension headers of any size
into memory, and its patterns for them take quadratic time (before Python 3.11.10). The format is small enough to
read strictly: ustar, GNU long names and pax paths and sizes, which is what archivers, tar and git write.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader

from torchserve_lite.archive.unpacking.entries import (
    CHUNK,
    DESKTOP_FOLDER,
    MIB,
    ArchiveError,
    Entry,
    checked_parts,
    is_desktop_file,
    shown,
)
from torchserve_lite.archive.unpacking.gzip_stream import GzipStream

_BLOCK = 512
_LONGEST_EXTENSION = MIB
_MANIFEST_FOLDER = "MAR-INF"

_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_GNU_LONG_NAME, _GNU_LONG_LINK = b"L", b"K"
_PAX, _PAX_FOR_ALL = b"x", b"g"
_REFUSED = {
    b"1": "a hard link. Pack the file itself (tar --hard-dereference)",
    b"2": "a symbolic link. Pack the file it points to (tar --dereference)",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file. Pack it without --sparse",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    name: str
    size: int
    mode: int
    kind: bytes


def tar_entries(file: BufferedReader, allowance: int) -> Iterator[Entry]:
    """The entries in the order of the tape, each without the first folder of its name, as TorchServe has it."""
    stream = GzipStream(file, allowance)
    while header := _next_file(stream):
        yield _entry(stream, header)
    stream.skip_rest()


def _entry(stream: GzipStream, header: _Header) -> Entry:
    if reason := _REFUSED.get(header.kind):
        raise ArchiveError(f"its entry {shown(header.name)} is {reason}")
    if header.kind not in (*_FILES, _FOLDER):
        raise ArchiveError(f"its entry {shown(header.name)} is of the unknown kind {header.kind!r}")
    checked_parts(header.name)  # the whole name: the folder that is dropped below could be '..'
    name = _without_first_folder(header.name)
    if header.kind == _FOLDER:
        return Entry(name=name, folder=True)
    if header.name.endswith("/"):  # how the oldest tars write folders
        if header.size:
            raise ArchiveError(f"its entry {shown(header.name)} is a folder with content")
        return Entry(name=name, folder=True)
    return Entry(
        name=name,
        size=header.size,
        executable=bool(header.mode & stat.S_IXUSR),
        chunks=lambda: _content(stream, header),
    )


def _without_first_folder(name: str) -> str:
    """A tar made without a folder around it keeps its manifest; TorchServe would lose it.

    What a desktop put beside that folder goes into one that is left alone: it has the names of files within.
    """
    first, slash, rest = name.partition("/")
    if is_desktop_file(first):
        return name if slash else f"{DESKTOP_FOLDER}/beside/{name}"
    return rest if slash and first != _MANIFEST_FOLDER else name


def _content(stream: GzipStream, header: _Header) -> Iterator[bytes]:
    left = header.size
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise ArchiveError(f"ends in the middle of its entry {shown(header.name)}")
        yield chunk
        left -= len(chunk)
    _skip_padding(stream, header.size)


def _next_file(stream: GzipStream) -> _Header | None:
    """The header of the next file or folder, with what the extension headers before it say about it."""
    extensions: dict[str, str] = {}
    while header := _next_header(stream):
        if header.kind in (_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_FOR_ALL):
            if header.size > _LONGEST_EXTENSION:
                raise ArchiveError(f"is a damaged tar file: it has an extension header of {header.size:,} bytes")
            data = stream.read(header.size)
            if len(data) < header.size:
                raise ArchiveError("ends in the middle of an extension header")
            _skip_padding(stream, header.size)
            if header.kind == _GNU_LONG_NAME:
                extensions["path"] = _text(data.rstrip(b"\0"))
            elif header.kind == _PAX:
                extensions |= _pax_records(data)
            continue
        if any(key.startswith("GNU.sparse.") for key in extensions):
            raise ArchiveError(f"its entry {shown(header.name)} is {_REFUSED[b'S']}")
        size = extensions.get("size", str(header.size))
        if not (size.isascii() and size.isdigit() and len(size) < 20):
            raise ArchiveError(f"is a damaged tar file: its entry {shown(header.name)} has the size {shown(size)}")
        return replace(header, name=extensions.get("path", header.name), size=int(size))
    if extensions:
        raise ArchiveError("is a damaged tar file: it ends where a file should follow")
    return None


def _pax_records(data: bytes) -> dict[str, str]:
    """``length key=value\\n``, where length counts the whole record."""
    records, start = {}, 0
    while start < len(data):
        length, blank, _ = data[start : start + 21].partition(b" ")
        end = start + int(length) if blank and length.isdigit() else 0
        record = data[start + len(length) + 1 : end]
        if not record.endswith(b"\n") or end > len(data):
            raise ArchiveError("is a damaged tar file: it has an extension header that cannot be read")
        key, _, value = record[:-1].partition(b"=")
        records[_text(key)] = _text(value)
        start = end
    return records


def _next_header(stream: GzipStream) -> _Header | None:
    block = stream.read(_BLOCK)
    if not block.strip(b"\0"):
        return None  # the end mark; a tape without one ends with its data
    summed = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in summed)  # what some old tars wrote
    if len(block) < _BLOCK or _number(block[148:156]) not in (sum(summed), signed):
        raise ArchiveError("is a damaged tar file: it has a header whose checksum is wrong")
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    is_posix = block[257:263] == b"ustar\0"  # GNU's own format keeps other things where the prefix would be
    return _Header(
        name=_text(prefix + b"/" + name if is_posix and prefix else name),
        size=_number(block[124:136]),
        mode=_number(block[100:108]),
        kind=block[156:157],
    )


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: too large for octal digits, so binary
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = _until_nul(field).strip() or b"0"
    if digits.strip(b"01234567"):
        raise ArchiveError("is a damaged tar file: a field of its header is not a number")
    return int(digits, 8)


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _skip_padding(stream: GzipStream, size: int) -> None:
    stream.read(-size % _BLOCK)
