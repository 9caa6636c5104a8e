"""Reads a .mar (zip) as entries, refusing what two zip readers could understand differently.

``zipfile`` finds and inflates the entries and checks their CRC. What it leaves open is closed here before it is asked:
it builds an object per entry before anyone can count them, cuts names at a NUL byte, compares only the name of an
entry's two headers, and (before Python 3.11.8) reads entries that share their bytes, which is how a small file can
unpack to petabytes.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import pairwise

from torchserve_lite.archive.unpacking.entries import CHUNK, ArchiveError, Entry, UnpackLimits, shown

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s24x3H12x")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_UNKNOWN_32 = 0xFFFFFFFF  # "see the zip64 extra field"

_ENCRYPTED = 0x1
_SIZES_FOLLOW = 0x8  # streamed: the local header knows neither CRC nor sizes
_UTF_8_NAME = 0x800
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all that TorchServe reads
_ADVICE = "Copy or build it again"
_BAD_DIRECTORY = "the table of contents at its end does not hold together"


def zip_entries(file: BufferedReader, limits: UnpackLimits) -> Iterator[Entry]:
    """All is checked that can be checked without inflating, then the entries come in the order of the directory."""
    with _zip_errors_translated():
        entries = _count_entries(file, limits.entries)
        archive = zipfile.ZipFile(file)
        if len(archive.infolist()) != entries:
            raise ArchiveError(f"is a damaged zip file: it has two tables of contents. {_ADVICE}")
        for info in archive.infolist():
            if reason := _why_unreadable(info):
                raise ArchiveError(f"its entry {shown(info.orig_filename)} is {reason}")
        spans = sorted(
            (info.header_offset, _end_of_data(file, info), info.orig_filename) for info in archive.infolist()
        )
        spans.append((archive.start_dir, archive.start_dir, ""))
        for (_, end, name), (start, _, _) in pairwise(spans):
            if end > start:
                raise ArchiveError(f"its entry {shown(name)} overlaps other parts of the archive, as in a zip bomb")
    return (_entry(archive, info) for info in archive.infolist())


@contextmanager
def _zip_errors_translated() -> Iterator[None]:
    """Everything that ``zipfile`` may say about a damaged file becomes one ArchiveError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, OverflowError, RuntimeError) as error:
        raise ArchiveError(f"is a damaged zip file: {error}. {_ADVICE}") from error


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    return Entry(
        name=info.orig_filename,
        size=info.file_size,
        folder=_is_folder(info),
        executable=bool(info.external_attr >> 16 & stat.S_IXUSR),
        chunks=lambda: _content(archive, info),
    )


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with _zip_errors_translated(), archive.open(info) as content:
        while chunk := content.read(CHUNK):
            yield chunk


def _why_unreadable(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "a symbolic link. Pack the file it points to"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither a file nor a folder"
    if _is_folder(info) and info.file_size:
        return "a folder with content"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted. Pack it without a password"
    if info.compress_type not in _METHODS:
        return f"compressed by method {info.compress_type}, not deflate. Pack it again with torch-model-archiver"
    return ""


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _count_entries(file: BufferedReader, most: int) -> int:
    """Walks the headers of the central directory, keeping nothing."""
    start, end = _central_directory(file)
    if start < 0:
        raise zipfile.BadZipFile(_BAD_DIRECTORY)
    file.seek(start)
    entries = 0
    while file.tell() < end:
        signature, *lengths = _CENTRAL.unpack(_read_exactly(file, _CENTRAL.size))
        if signature != b"PK\1\2":
            raise zipfile.BadZipFile(_BAD_DIRECTORY)
        file.seek(sum(lengths), os.SEEK_CUR)
        entries += 1
        if entries > most:
            raise ArchiveError(f"has more than {most:,} entries")
    return entries


def _central_directory(file: BufferedReader) -> tuple[int, int]:
    """Where the directory begins and ends. As zipfile does, its end is where the end record lies."""
    tail_size = min(file.seek(0, os.SEEK_END), _END.size + _LONGEST_COMMENT)
    tail_start = file.seek(-tail_size, os.SEEK_END)
    tail = file.read(tail_size)
    last = len(tail) - _END.size
    found = tail.rfind(b"PK\5\6")
    if last >= 0 and tail[last:].startswith(b"PK\5\6") and tail.endswith(b"\0\0"):
        found = last  # like zipfile: a record without a comment wins over one that a comment could imitate
    if not 0 <= found <= last:
        raise ArchiveError(
            "is not a whole zip file: the table of contents at its end is missing (cut short while copied?)"
        )
    end, size = tail_start + found, _END.unpack_from(tail, found)[5]
    end64, size64 = _zip64(file, end)
    return (end64 - size64, end64) if end64 >= 0 else (end - size, end)


def _zip64(file: BufferedReader, end: int) -> tuple[int, int]:
    """Position of the zip64 end record and the size of its directory; (-1, 0) in an ordinary zip."""
    at = end - _END64_LOCATOR.size
    if at < _END64.size:
        return -1, 0
    file.seek(at)
    if not file.read(_END64_LOCATOR.size).startswith(b"PK\6\7"):
        return -1, 0
    record = at - _END64.size
    file.seek(record)
    signature, *_, size, _offset = _END64.unpack(_read_exactly(file, _END64.size))
    return (record, size) if signature == b"PK\6\6" else (-1, 0)


def _end_of_data(file: BufferedReader, info: zipfile.ZipInfo) -> int:
    if info.header_offset < 0:
        raise zipfile.BadZipFile(_BAD_DIRECTORY)
    file.seek(info.header_offset)
    fields: tuple[int, ...] = _LOCAL.unpack(_read_exactly(file, _LOCAL.size))
    name_length, extra_length = fields[9:]
    name = _read_exactly(file, name_length)
    if not _headers_agree(info, fields, name):
        raise ArchiveError(
            f"the two headers of its entry {shown(info.orig_filename)} disagree: each zip reader would see another file"
        )
    return info.header_offset + _LOCAL.size + name_length + extra_length + info.compress_size


def _headers_agree(info: zipfile.ZipInfo, local: tuple[int, ...], name: bytes) -> bool:
    _, _, flags, method, _, _, crc, packed, unpacked, _, _ = local
    raw_name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8_NAME else "cp437")
    if name != raw_name or method != info.compress_type or flags & _ENCRYPTED:
        return False
    absent = (0, _UNKNOWN_32) if flags & _SIZES_FOLLOW else (_UNKNOWN_32,)
    pairs = ((crc, info.CRC), (packed, info.compress_size), (unpacked, info.file_size))
    return all(here == there or here in absent for here, there in pairs)


def _read_exactly(file: BufferedReader, size: int) -> bytes:
    if len(data := file.read(size)) < size:
        raise zipfile.BadZipFile("it ends in the middle of a header")
    return data
