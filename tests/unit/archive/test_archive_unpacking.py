"""Nothing in an archive can write outside its folder, exhaust the machine or be read in two ways.

The numbers are those of the project's list of bad inputs for archives.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from torchserve_lite.archive.unpacking import unpack as unpacking
from torchserve_lite.archive.unpacking.entries import UnpackLimits
from torchserve_lite.archive.unpacking.unpack import unpack
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive, NoRoom, ShuttingDown

from . import hostile
from .hostile import InterruptedAfter, tar_member, tar_of, zip_entry, zip_of

MIB = 2**20
Maker = Callable[[Path], Path]

LONG = "x" * 256
DEEP = "/".join(["d"] * 70) + "/f"
LONGEST = "/".join(["d" * 200] * 6)

NAMES = [
    pytest.param("../x", "leads out of the archive", id="1 parent"),
    pytest.param("a/../../x", "leads out of the archive", id="1 parent inside"),
    pytest.param("/etc/x", "is an absolute path", id="2 absolute"),
    pytest.param("//x", "is an absolute path", id="2 two slashes"),
    pytest.param("C:/x", "names a drive", id="3 drive"),
    pytest.param("C:\\x", "has a backslash", id="3 drive and backslash"),
    pytest.param("..\\x", "has a backslash", id="3 backslash"),
    pytest.param("../bad-evil/x", "leads out of the archive", id="4 sibling with our prefix"),
    pytest.param("a\nb", "has control characters", id="5 line feed"),
    pytest.param("a\x1b[31m", "has control characters", id="5 escape sequence"),
    pytest.param("a\x7f", "has control characters", id="5 delete"),
    pytest.param(LONG, "has a part longer than 255 bytes", id="5 long part"),
    pytest.param("ü" * 128, "has a part longer than 255 bytes", id="5 long in bytes"),
    pytest.param(LONGEST, "has a name longer than 1024 bytes", id="8 long path"),
    pytest.param(DEEP, "lies more than 64 folders deep", id="8 deep"),
]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Unpacks what must not be unpacked: gives the message, having seen that nothing was left anywhere."""

    def unpack_it(make: Maker, limits: UnpackLimits | None = None) -> str:
        incoming = tmp_path / "incoming"
        incoming.mkdir()
        archive = make(incoming)
        with pytest.raises(InvalidArchive) as refusal:
            unpack(archive, tmp_path / "scratch/models/target", limits)
        assert refusal.value.archive == archive.name
        everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        assert everything == {"incoming", f"incoming/{archive.name}", "scratch", "scratch/models"}
        assert not (tmp_path.parent / "x").exists()
        return str(refusal.value)

    return unpack_it


@pytest.mark.parametrize(("name", "fault"), NAMES)
def test_entry_is_refused_for_its_name_in_zip(name: str, fault: str, refused: Callable[..., str]) -> None:
    assert fault in refused(lambda folder: zip_of(folder, (name, b"x")))


@pytest.mark.parametrize(("name", "fault"), NAMES)
def test_entry_is_refused_for_its_name_in_tar(name: str, fault: str, refused: Callable[..., str]) -> None:
    """The whole name counts: TorchServe drops the first folder, and with it the '..' of ``../x``."""
    assert fault in refused(lambda folder: tar_of(folder, (name, b"x")))


@pytest.mark.parametrize(("make", "name"), [(zip_of, "."), (zip_of, "./."), (tar_of, "m/."), (tar_of, ".")])
def test_file_without_a_name_of_its_own_is_refused(
    make: Callable[..., Path], name: str, refused: Callable[..., str]
) -> None:
    """5."""
    assert "has no name of its own" in refused(lambda folder: make(folder, (name, b"x")))


def test_name_with_nul_byte_is_refused(refused: Callable[..., str]) -> None:
    """5. ``zipfile`` would cut it there, on writing too, so it is smuggled in afterwards."""

    def with_nul(folder: Path) -> Path:
        return hostile.changed(zip_of(folder, ("h.py#x", b"x")), lambda data: data.replace(b"#", b"\0"))

    assert "'h.py\\x00x' has control characters" in refused(with_nul)


def test_name_that_is_no_utf_8_is_refused(refused: Callable[..., str]) -> None:
    def with_latin(folder: Path) -> Path:
        return hostile.raw_tar(folder, tar_member("m/caf\u00e9").tobuf(tarfile.USTAR_FORMAT, "latin-1"))

    assert "has a name that is not UTF-8" in refused(with_latin)


KINDS = [
    pytest.param(
        lambda f: zip_of(f, (zip_entry("link", mode=0o120777), b"/etc/passwd")), "is a symbolic link", id="6 zip link"
    ),
    pytest.param(lambda f: zip_of(f, (zip_entry("pipe", mode=0o010644), b"")), "neither a file nor", id="7 zip pipe"),
    pytest.param(lambda f: zip_of(f, (zip_entry("dir/"), b"content")), "folder with content", id="zip full folder"),
    pytest.param(
        lambda f: tar_of(f, (tar_member("m/link", tarfile.SYMTYPE, "/etc"), b""), ("m/link/x", b"x")),
        "is a symbolic link",
        id="6 tar link, then a file through it",
    ),
    pytest.param(
        lambda f: tar_of(f, (tar_member("m/hard", tarfile.LNKTYPE, "/etc/passwd"), b"")), "hard link", id="7 hard link"
    ),
    pytest.param(lambda f: tar_of(f, (tar_member("m/p", tarfile.FIFOTYPE), b"")), "named pipe", id="7 tar pipe"),
    pytest.param(lambda f: tar_of(f, (tar_member("m/d", tarfile.BLKTYPE), b"")), "is a device", id="7 block device"),
    pytest.param(lambda f: tar_of(f, (tar_member("m/d", tarfile.CHRTYPE), b"")), "is a device", id="7 char device"),
    pytest.param(lambda f: tar_of(f, (tar_member("m/d", b"V"), b"")), "unknown kind b'V'", id="7 unknown kind"),
    pytest.param(
        lambda f: tar_of(f, (tar_member("m/s", tarfile.GNUTYPE_SPARSE), b"")), "is a sparse file", id="7 sparse file"
    ),
]


@pytest.mark.parametrize(("make", "fault"), KINDS)
def test_entry_is_refused_for_its_kind(make: Maker, fault: str, refused: Callable[..., str]) -> None:
    assert fault in refused(make)


COLLISIONS = [
    pytest.param("a.py", "a.py", "'a.py' twice", id="9 twice"),
    pytest.param("x", "x", "'x' twice", id="9 twice, one letter"),
    pytest.param("a.py", "./a.py", "'a.py' twice", id="9 twice, once spelled otherwise"),
    pytest.param("a.py", "A.py", "same name on some file systems", id="10 case"),
    pytest.param("D/a", "d/b", "same name on some file systems", id="10 case of a folder"),
    pytest.param("\u00e9", "e\u0301", "same name on some file systems", id="10 composed and decomposed"),
    pytest.param("stra\u00dfe", "STRASSE", "same name on some file systems", id="10 sharp s"),
    pytest.param("a", "a/b", "'a' twice", id="file that is a folder too"),
    pytest.param("a/b", "a", "'a' twice", id="folder that is a file too"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("first", "second", "fault"), COLLISIONS)
@pytest.mark.parametrize("make", [zip_of, tar_of], ids=["zip", "tar"])
def test_two_entries_of_one_name_are_refused(
    make: Callable[..., Path], first: str, second: str, fault: str, refused: Callable[..., str]
) -> None:
    folder = "m/" if make is tar_of else ""
    assert fault in refused(lambda f: make(f, (folder + first, b"1"), (folder + second, b"2")))


DAMAGED = [
    pytest.param(hostile.renamed_in_directory_only, "headers of its entry 'evil' disagree", id="12 other name"),
    pytest.param(hostile.other_size_in_local_header, "headers of its entry 'h.py' disagree", id="12 other size"),
    pytest.param(hostile.other_size_in_both_headers, "'h.py' should have 99 bytes and has 4", id="12 lie about size"),
    pytest.param(hostile.name_of_nothing, "it ends where a file should follow", id="13 tar ends after a long name"),
    pytest.param(hostile.bytes_flipped_in_content, "Bad CRC-32 for file 'weights.pt'", id="14 zip checksum"),
    pytest.param(hostile.wrong_gzip_checksum, "damaged gzip file", id="14 gzip checksum"),
    pytest.param(hostile.wrong_tar_checksum, "header whose checksum is wrong", id="14 tar header checksum"),
    pytest.param(hostile.encrypted, "'h.py' is encrypted", id="15 encrypted"),
    pytest.param(hostile.overlapping, "'aaaa' overlaps other parts", id="11 overlap bomb"),
    pytest.param(hostile.huge_extension_header, "extension header of 2,147,483,648 bytes", id="11 huge tar header"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("make", "fault"), DAMAGED)
def test_damaged_archive_is_refused(make: Maker, fault: str, refused: Callable[..., str]) -> None:
    assert fault in refused(make)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("make", [zip_of, tar_of], ids=["zip", "tar"])
def test_truncated_archive_is_refused(make: Callable[..., Path], kept: float, refused: Callable[..., str]) -> None:
    """13. ``tarfile`` would call the tape complete at a broken header."""

    def cut(folder: Path) -> Path:
        path = make(folder, ("m/h.py", os.urandom(3000)), ("m/weights.pt", os.urandom(5000)))
        return hostile.changed(path, lambda data: data[: int(len(data) * kept)])

    assert re.search("cut short|damaged", refused(cut))


def test_tar_cut_before_it_was_compressed_is_refused(refused: Callable[..., str]) -> None:
    info = tarfile.TarInfo("m/weights.pt")
    info.size = 10_000
    assert "ends in the middle of its entry 'm/weights.pt'" in refused(
        lambda folder: hostile.raw_tar(folder, info.tobuf(), bytes(512))
    )


@pytest.mark.parametrize("make", [hostile.zip_of_zeros, hostile.tar_of_zeros], ids=["zip", "tar"])
def test_gigabyte_of_zeros_is_refused(make: Callable[[Path, int], Path], refused: Callable[..., str]) -> None:
    """11. A megabyte that unpacks to a thousand: no weights are like that."""
    limits = UnpackLimits(floor=32 * MIB)  # scaled down, as is the bomb
    assert "unpacks to far more than an archive of its size may" in refused(lambda f: make(f, 64 * MIB), limits)


def test_zeros_behind_the_end_of_a_tar_are_not_read_for_ever(refused: Callable[..., str]) -> None:
    """11. The end must be reached for its checksum, but not at any price."""
    limits = UnpackLimits(floor=4 * MIB)
    assert "unpacks to far more" in refused(lambda folder: hostile.raw_tar(folder, bytes(16 * MIB)), limits)


def test_zeros_of_moderate_size_are_unpacked_by_default(tmp_path: Path) -> None:
    archive = hostile.zip_of_zeros(tmp_path, 48 * MIB)

    unpack(archive, tmp_path / "target")
    assert archive.stat().st_size < 48 * MIB / 500
    assert (tmp_path / "target/weights.pt").stat().st_size == 48 * MIB


def test_default_limits_refuse_a_gigabyte_from_a_megabyte_and_allow_it_from_a_tenth() -> None:
    limits = UnpackLimits()

    assert limits.allowance(1 * MIB) < 1000 * MIB
    assert limits.allowance(100 * MIB) > 1000 * MIB


@pytest.mark.parametrize("make", [hostile.empty_entries, hostile.directory_larger_than_it_says])
def test_too_many_empty_entries_are_refused_in_little_memory(
    make: Callable[[Path, int], Path], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """11. They are counted before ``zipfile`` makes an object of each, whatever the end record says."""

    def count(folder: Path) -> Path:
        path = make(folder, 300)
        monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda self: pytest.fail("an object each"))
        return path

    assert "has more than 100 entries" in refused(count, UnpackLimits(entries=100))


def test_folders_that_entries_imply_count_as_entries(refused: Callable[..., str]) -> None:
    names = [(f"m/{number}/" + "d/" * 20 + "f", b"") for number in range(10)]
    assert "more than 100 files and folders" in refused(lambda f: tar_of(f, *names), UnpackLimits(entries=100))


def test_permissions_are_plain_whatever_the_archive_says(tmp_path: Path) -> None:
    """18. No setuid, nothing writable by others; only the owner's execute bit is believed."""
    tool, data = zip_entry("tool", mode=0o106777), zip_entry("data", mode=0o100666)
    unpack(zip_of(tmp_path, (tool, b""), (data, b"")), tmp_path / "target")

    modes = {name: stat.S_IMODE((tmp_path / "target" / name).stat().st_mode) for name in ("tool", "data")}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {"tool": 0o755 & ~umask, "data": 0o644 & ~umask}


def test_setuid_bit_is_dropped_from_tar(tmp_path: Path) -> None:
    info = tar_member("m/tool")
    info.mode = 0o4755
    unpack(tar_of(tmp_path, (info, b"")), tmp_path / "target")

    assert not (tmp_path / "target/tool").stat().st_mode & stat.S_ISUID


def test_archive_that_changes_while_it_is_unpacked_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """22. What was hashed is what is loaded."""
    hashed = unpacking._digest

    def hash_then_change(descriptor: int, interruption: Interruption, given_up: threading.Event) -> str:
        digest = hashed(descriptor, interruption, given_up)
        os.utime(Path(f"/proc/self/fd/{descriptor}").resolve(), ns=(1, 1))
        return digest

    monkeypatch.setattr(unpacking, "_digest", hash_then_change)
    assert "was changed while it was being unpacked" in refused(lambda folder: zip_of(folder, ("h.py", b"pass")))


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_unpacking_that_is_interrupted_leaves_nothing(steps: int, pack: Callable[..., Path], tmp_path: Path) -> None:
    """The stop of a server waited until gigabytes had been unpacked."""

    archive = pack(tmp_path, *((f"{name}.bin", os.urandom(2_000_000)) for name in "abc"))
    with pytest.raises(ShuttingDown):
        unpack(archive, tmp_path / "models/target", interruption=InterruptedAfter(steps))
    assert not (tmp_path / "models/target").exists()


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    archive = zip_of(tmp_path, ("h.py", b"pass"))

    assert unpack(archive, tmp_path / "target") == hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", id="LFS pointer"),
        pytest.param(b"\n<!DOCTYPE html><html>", "it is a web page", id="error page"),
        pytest.param(b"<html><body>", "it is a web page", id="plain error page"),
        pytest.param(b"\x80\x04rubbish", "it begins with b'", id="rubbish"),
    ],
)
def test_file_that_is_no_archive_says_what_it_looks_like(
    content: bytes, fault: str, refused: Callable[..., str]
) -> None:
    def write(folder: Path) -> Path:
        (folder / "bad.mar").write_bytes(content)
        return folder / "bad.mar"

    assert fault in refused(write)


def test_existing_folder_is_never_unpacked_into(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/precious").touch()

    with pytest.raises(InvalidArchive, match="cannot be unpacked"):
        unpack(zip_of(tmp_path, ("h.py", b"")), tmp_path / "target")
    assert (tmp_path / "target/precious").exists()


@pytest.mark.parametrize(
    ("number", "mend"), [(errno.ENOSPC, "TMPDIR"), (errno.EDQUOT, "TMPDIR"), (errno.EFBIG, "ulimit -f")]
)
def test_archive_that_does_not_fit_is_told_with_the_folder_and_how_to_change_it(
    number: int, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("torchserve_lite.archive.unpacking.unpack.Extraction.add", full)
    with pytest.raises(NoRoom) as refusal:
        unpack(zip_of(tmp_path, ("h.py", b"")), tmp_path / "target")
    assert all(text in str(refusal.value) for text in (str(tmp_path), os.strerror(number), mend))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_of_each_dialect_is_unpacked_whole(form: int, tmp_path: Path) -> None:
    names = ["m/plain", "m/" + "a" * 90 + "/" + "b" * 90, "m/\u00fc.txt", "m/sub/" + "c" * 60]
    if form != tarfile.USTAR_FORMAT:
        names.append("m/" + "d" * 120 + "/" + "e" * 200)
    unpack(tar_of(tmp_path, *((name, name.encode() * 50) for name in names), form=form), tmp_path / "target")

    for name in names:
        assert (tmp_path / "target" / name.removeprefix("m/")).read_bytes() == name.encode() * 50


@pytest.mark.parametrize(
    ("name", "unpacked"),
    [
        pytest.param("mnist/h.py", "h.py", id="first folder dropped"),
        pytest.param("h.py", "h.py", id="file at the root kept"),
        pytest.param("./h.py", "h.py", id="dot is a folder too"),
        pytest.param("MAR-INF/MANIFEST.json", "MAR-INF/MANIFEST.json", id="manifest of a flat tar kept"),
    ],
)
def test_tar_entry_loses_its_first_folder(name: str, unpacked: str, tmp_path: Path) -> None:
    unpack(tar_of(tmp_path, (name, b"x")), tmp_path / "target")
    assert (tmp_path / "target" / unpacked).is_file()


def test_gzip_of_several_members_and_padding_is_read_to_its_end(tmp_path: Path) -> None:
    archive = tar_of(tmp_path, ("m/h.py", b"pass"))
    tape = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(tape[:700]) + gzip.compress(tape[700:]) + bytes(1000))

    unpack(archive, tmp_path / "target")
    assert (tmp_path / "target/h.py").read_bytes() == b"pass"


def test_zip_written_to_a_pipe_is_unpacked(tmp_path: Path) -> None:
    """Streamed zips have no sizes in their local headers."""

    class Pipe:
        def __init__(self, file: object) -> None:
            self.write, self.flush = file.write, file.flush  # type: ignore[attr-defined]

    with (tmp_path / "a.mar").open("wb") as file, zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.writestr("h.py", "pass" * 100)

    unpack(tmp_path / "a.mar", tmp_path / "target")
    assert (tmp_path / "target/h.py").read_text() == "pass" * 100
