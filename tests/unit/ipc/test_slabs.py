"""Slabs belong to whoever has a view of them, lie where they are said to, and are free when nobody looks any more."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator

import pytest

from tests.virtual_time import virtual_time
from torchserve_lite.core.memory import KEPT_SECONDS
from torchserve_lite.ipc.slabs import LEAST, SlabFile, Slabs, slabs

MIB = 2**20


@pytest.fixture
def shared() -> Iterator[Slabs]:
    with slabs(8 * MIB) as made:
        yield made


def begin_of(shared: Slabs, slab: memoryview | None) -> int:
    assert slab is not None
    place = shared.place_of(slab)
    assert place is not None
    return place[0]


async def test_worker_reads_what_the_server_has_put_there_and_the_server_what_it_writes(shared: Slabs) -> None:
    slab, file = shared.new(100_000), SlabFile(os.dup(shared.fd))
    assert slab is not None
    slab[:] = bytes(range(250)) * 400
    begin = begin_of(shared, slab)
    assert file.read(begin, 100_000) == bytes(range(250)) * 400
    file.write(begin, b"answer" * 10_000)
    file.close()
    assert bytes(shared.over(slab, 60_000) or b"") == b"answer" * 10_000


async def test_slabs_that_are_looked_at_lie_apart(shared: Slabs) -> None:
    held = [shared.new(length) for length in (LEAST, 100_000, 2 * MIB + 1, 65_536, 100_000)]
    for number, slab in enumerate(held):
        assert slab is not None
        slab[:] = bytes([number]) * len(slab)
    assert [bytes(slab) == bytes([number]) * len(slab) for number, slab in enumerate(held) if slab is not None] == (
        [True] * 5
    )


async def test_slab_is_free_when_its_last_view_is_gone_and_not_before(shared: Slabs) -> None:
    slab = shared.new(100_000)
    assert slab is not None
    begin, part = begin_of(shared, slab), slab[50_000:]
    del slab
    other = shared.new(100_000)
    assert begin_of(shared, other) != begin
    del part
    again = shared.new(100_000)
    assert begin_of(shared, again) == begin


async def test_there_is_no_slab_when_all_memory_is_taken_and_one_again_when_some_is_free(shared: Slabs) -> None:
    held = [shared.new(100_000) for _ in range(64)]
    assert shared.new(100_000) is None
    held.clear()
    assert shared.new(8 * MIB) is not None, "what small slabs had is cut anew"


async def test_place_of_a_part_tells_the_room_to_the_end_of_its_slab(shared: Slabs) -> None:
    slab = shared.new(100_000)
    assert slab is not None
    begin, room = shared.place_of(slab) or (0, 0)
    assert room >= 100_000
    assert shared.place_of(slab[400:500]) == (begin + 400, room - 400)


async def test_answer_longer_than_the_room_is_none(shared: Slabs) -> None:
    slab = shared.new(100_000)
    assert slab is not None
    _, room = shared.place_of(slab) or (0, 0)
    over = shared.over(slab[100:], room - 100)
    assert over is not None
    assert len(over) == room - 100
    assert [shared.over(slab[100:], length) for length in (room - 99, -1)] == [None, None]


async def test_other_memory_lies_in_no_slab(shared: Slabs) -> None:
    with slabs(MIB) as others:
        foreign = others.new(100_000)
        assert foreign is not None
        for data in (b"x" * 100_000, bytearray(100_000), memoryview(bytearray(100_000)), foreign):
            assert (shared.place_of(data), shared.over(data, 1)) == (None, None)
        del foreign, data


async def test_small_payload_gets_no_slab(shared: Slabs) -> None:
    assert shared.new(LEAST - 1) is None


async def test_without_memory_there_are_no_slabs() -> None:
    with slabs(0) as none:
        assert none.new(100_000) is None
        assert os.fstat(none.fd)


async def test_nobody_can_cut_the_file_short(shared: Slabs) -> None:
    """The server would die of its next look there."""
    with pytest.raises(PermissionError):
        os.ftruncate(shared.fd, MIB)


async def test_worker_is_told_when_a_place_lies_outside(shared: Slabs) -> None:
    file = SlabFile(os.dup(shared.fd))
    with pytest.raises(EOFError, match="100000 bytes at 8388000"):
        file.read(8 * MIB - 608, 100_000)
    file.close()


def kept(shared: Slabs) -> int:
    """Bytes of memory that the file has."""
    return os.fstat(shared.fd).st_blocks * 512


@virtual_time
async def test_memory_goes_back_to_the_system_when_no_payload_comes_for_a_while() -> None:
    with slabs(8 * MIB) as shared:
        first, second = shared.new(MIB), shared.new(MIB)
        assert first is not None
        assert second is not None
        first[:] = second[:] = bytes(MIB)
        del first
        await asyncio.sleep(KEPT_SECONDS / 2)
        assert kept(shared) == 2 * MIB
        await asyncio.sleep(KEPT_SECONDS)
        assert kept(shared) == MIB, "the slab that somebody looks at stays"
        del second
        await asyncio.sleep(2 * KEPT_SECONDS)
        assert kept(shared) == 0


async def test_view_outlives_its_slabs() -> None:
    """What is still being sent when the server ends."""
    with slabs(MIB) as shared:
        slab = shared.new(100_000)
        assert slab is not None
        slab[:] = b"x" * 100_000
    assert bytes(slab) == b"x" * 100_000


async def test_limit_on_address_space_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", fail)
    with slabs(MIB) as none:
        assert none.new(100_000) is None
