"""The archive cache gives what the archive holds, whatever has happened to it, and stays within its bounds."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from torchserve_lite.archive.unpacking import cache as caching
from torchserve_lite.archive.unpacking.cache import ArchiveCache
from torchserve_lite.archive.unpacking.entries import UnpackLimits
from torchserve_lite.archive.unpacking.unpack import digest_of, unpack
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive, NoRoom, ShuttingDown

from .hostile import InterruptedAfter, tar_of, zip_of

TEXT = b"shrinks well " * 100_000


@pytest.fixture(autouse=True)
def _small_archives_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_WORTH_KEEPING", 0)


@pytest.fixture
def cache(tmp_path: Path) -> ArchiveCache:
    (tmp_path / "cache").mkdir(mode=0o700)
    return ArchiveCache(folder=tmp_path / "cache", most_bytes=10_000_000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return packed(tmp_path, TEXT)


def packed(folder: Path, content: bytes) -> Path:
    """A compressed archive."""
    source = folder / "content"
    shutil.rmtree(source, ignore_errors=True)
    (source / "empty").mkdir(parents=True)
    (source / "weights.bin").write_bytes(content)
    (source / "tool").write_bytes(b"#!/bin/sh")
    (source / "tool").chmod(0o755)
    return Path(shutil.make_archive(str(folder / "m"), "zip", source))


def unpacked(cache: ArchiveCache, archive: Path, interruption: Interruption | None = None) -> dict[str, bytes | None]:
    target = cache.folder.parent / "target"
    try:
        cache.unpack(archive, target, UnpackLimits(), interruption or Interruption())
        return {
            f"{path.relative_to(target)}{' runs' * os.access(path, os.X_OK)}": path.read_bytes()
            if path.is_file()
            else None
            for path in target.rglob("*")
        }
    finally:
        shutil.rmtree(target, ignore_errors=True)


def kept(cache: ArchiveCache) -> list[str]:
    return sorted(os.listdir(cache.folder))


def never_inflated(*_: object) -> str:
    raise AssertionError("it was to come from the cache")


def only_from_the_cache(cache: ArchiveCache, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is unpacked fails the test."""
    monkeypatch.setattr(
        caching, "unpack", lambda path, *rest: (unpack if path.parent == cache.folder else never_inflated)(path, *rest)
    )


def test_archive_is_unpacked_from_the_cache_the_second_time(
    cache: ArchiveCache, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unpacked(cache, archive)
    only_from_the_cache(cache, archive, monkeypatch)
    assert unpacked(cache, archive) == first
    assert first["weights.bin"] == TEXT
    assert {"empty runs", "tool runs"} <= first.keys()


def test_digest_is_the_archives_own_whether_it_was_kept_or_not(
    cache: ArchiveCache, archive: Path, tmp_path: Path
) -> None:
    digests = {cache.unpack(archive, tmp_path / str(turn), UnpackLimits(), Interruption()) for turn in range(2)}
    assert digests == {digest_of(archive, Interruption())}


def test_changed_archive_is_not_taken_for_the_one_that_was_kept(cache: ArchiveCache, archive: Path) -> None:
    unpacked(cache, archive)
    assert unpacked(cache, packed(archive.parent, TEXT[1:]))["weights.bin"] == TEXT[1:]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda path: os.truncate(path, 1000),
        lambda path: os.truncate(path, 0),
        lambda path: shutil.copy(zip_of(path.parent.parent, ("weights.bin", b"another's")), path),
    ],
    ids=["a bit", "cut", "empty", "another archive"],
)
def test_damage_to_the_cache_costs_time_and_is_mended(
    harm: Callable[[Path], object], cache: ArchiveCache, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = unpacked(cache, archive)
    before = kept(cache)
    harm(cache.folder / before[0])
    assert unpacked(cache, archive) == first
    assert "is damaged and not used" in caplog.text
    assert kept(cache) == before
    caplog.clear()
    assert unpacked(cache, archive) == first
    assert not caplog.text


def test_what_a_handler_does_to_its_files_does_not_reach_the_cache(
    cache: ArchiveCache, archive: Path, tmp_path: Path
) -> None:
    for turn in range(2):
        cache.unpack(archive, tmp_path / str(turn), UnpackLimits(), Interruption())
        (tmp_path / str(turn) / "weights.bin").write_bytes(b"spoilt")
    assert unpacked(cache, archive)["weights.bin"] == TEXT


def test_least_recently_used_archives_make_room(cache: ArchiveCache, tmp_path: Path) -> None:
    cache = ArchiveCache(folder=cache.folder, most_bytes=2 * len(TEXT) + 10_000)
    archives = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        archives.append(packed(tmp_path / str(number), TEXT[number:]))
        unpacked(cache, archives[-1])
    second = {name for name in kept(cache) if digest_of(archives[1], Interruption()) in name}
    for age, name in enumerate(kept(cache)):
        os.utime(cache.folder / name, (1000 + age, 1000 + age))
    unpacked(cache, archives[1])  # used again, so the first goes
    unpacked(cache, packed(tmp_path, TEXT[2:]))
    assert len(kept(cache)) == 2
    assert second <= set(kept(cache))


def test_archive_larger_than_the_cache_is_served_and_not_kept(cache: ArchiveCache, archive: Path) -> None:
    small = ArchiveCache(folder=cache.folder, most_bytes=1000)
    assert unpacked(small, archive)["weights.bin"] == TEXT
    assert kept(cache) == []


def test_archive_that_is_not_compressed_is_not_kept(cache: ArchiveCache, tmp_path: Path) -> None:
    archive = zip_of(tmp_path, ("weights.bin", os.urandom(100_000)))
    unpacked(cache, archive)
    assert kept(cache) == []


def test_tar_is_kept_as_well(cache: ArchiveCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of(tmp_path, ("m/weights.bin", TEXT))
    first = unpacked(cache, archive)
    only_from_the_cache(cache, archive, monkeypatch)
    assert unpacked(cache, archive) == first


@pytest.mark.parametrize("failing", ["rename", "mkstemp"])
def test_cache_that_cannot_be_written_costs_no_model(
    failing: str, cache: ArchiveCache, archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if failing == "rename" else tempfile, failing, full)
    assert unpacked(cache, archive)["weights.bin"] == TEXT
    assert "m.zip is not kept" in caplog.text
    assert "No space left on device" in caplog.text
    assert kept(cache) == []


def test_leftovers_of_a_server_that_was_killed_are_removed_and_those_of_a_running_one_are_not(
    cache: ArchiveCache, archive: Path
) -> None:
    running, killed = cache.folder / "running.part", cache.folder / "killed.part"
    killed.touch()
    with running.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        unpacked(cache, archive)
    assert running.exists()
    assert not killed.exists()


@pytest.mark.parametrize("steps", range(1, 8))
def test_stop_leaves_neither_model_nor_half_an_archive(steps: int, cache: ArchiveCache, archive: Path) -> None:
    target = cache.folder.parent / "model"
    with pytest.raises(ShuttingDown):
        cache.unpack(archive, target, UnpackLimits(), InterruptedAfter(steps))
    assert not target.exists()
    assert kept(cache) == []


def test_model_that_does_not_fit_is_told_under_its_own_name(
    cache: ArchiveCache, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(cache, archive)

    def no_room(path: Path, *_: object) -> str:
        raise NoRoom(path.name, "cannot be unpacked")

    monkeypatch.setattr(caching, "unpack", no_room)
    with pytest.raises(NoRoom, match=r"m\.zip"):
        unpacked(cache, archive)
    assert len(kept(cache)) == 1


def test_archive_that_is_refused_is_refused_in_the_same_words(cache: ArchiveCache, tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match="leads out of the archive"):
        unpacked(cache, zip_of(tmp_path, ("../out", TEXT)))
    with pytest.raises(InvalidArchive, match="No such file"):
        unpacked(cache, tmp_path / "nosuch.mar")
    assert kept(cache) == []
