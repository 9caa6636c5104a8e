"""Makes the archives nobody should send: each function returns the path of one."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from torchserve_lite.core.shutdown import Interruption

MANIFEST = (
    '{"createdOn": "x", "runtime": "python", "model": {"modelName": "m", "handler": "h.py"}, "archiverVersion": "1"}'
)


def zip_of(folder: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    """A .mar with these entries and an honest manifest, whatever the names."""
    path = folder / "bad.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
    return path


def tar_of(folder: Path, *members: tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path = folder / "bad.tar.gz"
    with tarfile.open(path, "w:gz", format=form) as tape:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tape.addfile(info, io.BytesIO(data))
    return path


def with_manifest(folder: Path, manifest: bytes | str) -> Path:
    path = folder / "bad.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("h.py", "")
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
    return path


def zip_entry(name: str, *, mode: int = 0o100644, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.flag_bits |= flags
    return info


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def renamed_in_directory_only(folder: Path) -> Path:
    """The local header says h.py, the central directory evil."""
    path = zip_of(folder, ("h.py", b"pass"))
    return changed(path, lambda data: b"evil".join(data.rsplit(b"h.py", 1)))


def other_size_in_local_header(folder: Path) -> Path:
    path = zip_of(folder, ("h.py", b"pass"))
    return changed(path, lambda data: data[:22] + struct.pack("<L", 99) + data[26:])


def other_size_in_both_headers(folder: Path) -> Path:
    """Content and checksum are right for four bytes; the headers agree on 99."""

    def claim(data: bytes) -> bytes:
        central = data.index(b"PK\1\2")
        data = data[:22] + struct.pack("<L", 99) + data[26:]
        return data[: central + 24] + struct.pack("<L", 99) + data[central + 28 :]

    return changed(zip_of(folder, ("h.py", b"pass")), claim)


def name_of_nothing(folder: Path) -> Path:
    """A tar whose last header is the long name of a file that does not follow."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5
    return raw_tar(folder, info.tobuf(tarfile.GNU_FORMAT), b"m/x\0\0".ljust(512, b"\0"))


def bytes_flipped_in_content(folder: Path) -> Path:
    path = folder / "bad.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("weights.pt", "honest weights")
    return changed(path, lambda data: data.replace(b"honest", b"broken"))


def encrypted(folder: Path) -> Path:
    def set_flags(data: bytes) -> bytes:
        central = data.rindex(b"PK\1\2")
        data = data[:6] + b"\1\0" + data[8:]
        return data[: central + 8] + b"\1\0" + data[central + 10 :]

    path = folder / "bad.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h.py", "pass")
    return changed(path, set_flags)


def overlapping(folder: Path) -> Path:
    """Two entries of the directory with the same bytes behind them, as in Fifield's bomb."""
    path = zip_of(folder, ("aaaa", b"x" * 1000))
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[0]
        twin = zipfile.ZipInfo("aaaa")
        for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type", "flag_bits"):
            setattr(twin, name, getattr(first, name))
        archive.filelist.append(twin)
        archive._didModify = True  # type: ignore[attr-defined]  # so that close() writes the directory
    return path


def zip_of_zeros(folder: Path, size: int) -> Path:
    path = folder / "bad.mar"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("weights.pt", "w", force_zip64=True) as w,
    ):
        for _ in range(size // 2**20):
            w.write(bytes(2**20))
    return path


def tar_of_zeros(folder: Path, size: int) -> Path:
    info = tarfile.TarInfo("m/weights.pt")
    info.size = size
    path = folder / "bad.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf())
        for _ in range(size // 2**20):
            packed.write(bytes(2**20))
    return path


def empty_entries(folder: Path, count: int) -> Path:
    path = folder / "bad.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}", b"")
    return path


def directory_larger_than_it_says(folder: Path, count: int) -> Path:
    """``count`` headers in the directory, while the record at the end speaks of one."""
    path = empty_entries(folder, count)
    return changed(path, lambda data: data[:-14] + struct.pack("<HH", 1, 1) + data[-10:])


def pax_header(records: Mapping[str, str], member: tarfile.TarInfo) -> bytes:
    member.pax_headers = dict(records)
    return member.tobuf(tarfile.PAX_FORMAT)


def raw_tar(folder: Path, *blocks: bytes) -> Path:
    path = folder / "bad.tar.gz"
    path.write_bytes(gzip.compress(b"".join(blocks) + bytes(1024)))
    return path


def huge_extension_header(folder: Path) -> Path:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**31
    return raw_tar(folder, info.tobuf(tarfile.GNU_FORMAT))


def wrong_tar_checksum(folder: Path) -> Path:
    block = bytearray(tarfile.TarInfo("m/second").tobuf())
    block[0:1] = b"X"
    return raw_tar(folder, tarfile.TarInfo("m/first").tobuf(), bytes(block))


def wrong_gzip_checksum(folder: Path) -> Path:
    path = tar_of(folder, ("m/h.py", b"pass"))
    return changed(path, lambda data: data[:-8] + struct.pack("<L", zlib.crc32(b"other")) + data[-4:])


class InterruptedAfter(Interruption):
    """The server's stop, which comes when whoever is to look at it has done so ``steps`` times."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.interrupt()
        super().check()
