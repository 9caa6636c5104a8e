"""Frames on the link between the server and a worker: nothing is lost or mixed up, however the bytes arrive."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual_time import virtual_time
from torchserve_lite.core.memory import KEPT_SECONDS, LARGE
from torchserve_lite.core.streams import Buffer
from torchserve_lite.ipc.frames import (
    FRAME_LIMIT,
    AsyncFrames,
    BlockingFrames,
    Frame,
    FrameDecoder,
    FrameError,
    frame_of,
)

FRAMES: list[Sequence[Buffer]] = [[b""], [b"a"], [b"\x00\x00\x00\x05", b"", b"beside"], [b"x" * 300, b"y" * 50_000]]
STREAM = b"".join(b"".join(frame_of(frame)) for frame in FRAMES)
BOUNDARIES = [*range(100), *range(len(STREAM) - 50_100, len(STREAM) - 49_900), len(STREAM) - 1, len(STREAM)]


def fed(decoder: FrameDecoder, data: bytes) -> list[Frame]:
    """The frames that come out when ``data`` is received as a socket would: no more at a time than there is room."""
    frames: list[Frame] = []
    while data:
        room = decoder.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        frames += decoder.received(count)
        data = data[count:]
    return frames


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_frames_come_out_whole_when_the_stream_is_split_anywhere(boundary: int) -> None:
    decoder = FrameDecoder()
    assert [*fed(decoder, STREAM[:boundary]), *fed(decoder, STREAM[boundary:])] == FRAMES


def test_frames_come_out_whole_when_bytes_come_one_by_one() -> None:
    decoder = FrameDecoder()
    assert [frame for byte in STREAM for frame in fed(decoder, bytes([byte]))] == FRAMES


FRAME_LISTS = st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=4))


@given(frames=FRAME_LISTS, cuts=st.lists(st.integers(0, 500)))
def test_frames_survive_any_segmentation(frames: list[Sequence[Buffer]], cuts: list[int]) -> None:
    stream = b"".join(b"".join(frame_of(frame)) for frame in frames)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = FrameDecoder()
    assert [out for start, end in pairwise(edges) for out in fed(decoder, stream[start:end])] == frames


@pytest.mark.parametrize("count", [1, 2, 40])
def test_frames_that_fill_the_receive_buffer_many_times_come_out_whole(count: int) -> None:
    frames: list[Sequence[Buffer]] = [[bytes([number]) * size for size in (1, 100_003, 7)] for number in range(count)]
    assert fed(FrameDecoder(), b"".join(b"".join(frame_of(frame)) for frame in frames)) == frames


def test_large_buffer_is_received_where_it_stays_and_is_sent_from_where_it_lies() -> None:
    """Copying a megabyte seven times on its way was most of what a large request cost."""
    large = bytearray(1_000_000)
    assert any(data is large for data in frame_of([b"header", large]))
    decoder = FrameDecoder()
    fed(decoder, b"".join(frame_of([b"header", large]))[:300_000])
    place = decoder.room().obj
    (frame,) = fed(decoder, bytes(len(decoder.room())))
    assert frame[1] is place


@pytest.mark.parametrize("pieces", [(FRAME_LIMIT,), (1, FRAME_LIMIT - 1), (FRAME_LIMIT // 2, FRAME_LIMIT // 2)])
def test_announced_length_takes_no_memory_before_its_bytes_come(pieces: tuple[int, ...]) -> None:
    """Eight bytes that a handler wrote to the link took a gibibyte of the server."""
    decoder = FrameDecoder()
    fed(decoder, struct.pack(f"!I{len(pieces)}I", len(pieces), *pieces) + b"ab")
    assert len(decoder.room()) <= 32 * 2**20


def test_piece_that_is_longer_than_what_is_believed_comes_out_whole() -> None:
    large = bytes(range(256)) * (45 * 2**12)
    (frame,) = fed(FrameDecoder(), b"".join(frame_of([b"header", large, b"last"])))
    assert list(map(bytes, frame)) == [b"header", large, b"last"]


@pytest.mark.parametrize("length", [11, 2**31, 2**32 - 1])
def test_frame_beyond_the_limit_is_refused_before_its_bytes_come(length: int) -> None:
    with pytest.raises(FrameError, match=f"{length} bytes was announced; the limit is 10"):
        fed(FrameDecoder(limit=10), struct.pack("!II", 1, length))


@pytest.mark.parametrize("pieces", [0, 2**20, 2**32 - 1])
def test_frame_of_impossible_pieces_is_refused(pieces: int) -> None:
    with pytest.raises(FrameError, match=f"a frame of {pieces} pieces was announced"):
        fed(FrameDecoder(), struct.pack("!I", pieces))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_blocking_end_gives_frames_in_order_and_then_none(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(STREAM)
    ours.close()
    frames = BlockingFrames(theirs)
    assert [frames.receive() for _ in range(5)] == [*FRAMES, None]


def test_blocking_end_does_not_wait_for_what_has_not_arrived(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames = BlockingFrames(theirs)
    assert frames.receive_now() is None
    ours.sendall(b"".join([*frame_of([b"whole"]), *frame_of([b"incomplete"])])[:-1])
    expected: list[Sequence[Buffer] | None] = [[b"whole"], None]
    assert [frames.receive_now(), frames.receive_now()] == expected


class Link:
    """The asyncio end of a link, and the socket at its other end."""

    def __init__(self) -> None:
        self.received: list[Frame] = []
        self.closed = asyncio.get_running_loop().create_future()
        self.frames = AsyncFrames(self.received.append, self.closed.set_result)
        self.ours, self.theirs = socket.socketpair()

    async def __aenter__(self) -> Link:
        await asyncio.get_running_loop().create_connection(lambda: self.frames, sock=self.ours)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.frames.close()
        await self.closed
        self.theirs.close()


async def test_async_end_hands_over_frames_and_tells_when_the_peer_has_gone() -> None:
    async with Link() as link:
        link.theirs.sendall(STREAM)
        link.theirs.close()
        assert await link.closed == ""
    assert link.received == FRAMES


async def test_async_end_closes_the_link_when_the_peer_sends_no_frames() -> None:
    async with Link() as link:
        link.theirs.sendall(b"\xff\xff\xff\xff and more")
        assert "4294967295 pieces" in await link.closed


async def test_both_ends_understand_one_another() -> None:
    async with Link() as link:
        for frame in FRAMES:
            link.frames.send(frame)
        child = BlockingFrames(link.theirs)
        assert [await asyncio.to_thread(child.receive) for _ in FRAMES] == FRAMES


async def test_sending_to_a_peer_that_has_gone_is_no_error() -> None:
    """It is noticed elsewhere: by the end of the process."""
    async with Link() as link:
        link.theirs.close()
        await link.closed
        link.frames.send([b"too late"])


def test_frames_of_several_threads_stay_whole_and_in_order() -> None:
    """Large frames take several writes, between which another thread's would break the link."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child, parent = BlockingFrames(theirs), BlockingFrames(ours)

        def send(thread: int) -> None:
            for number in range(50):
                child.send([b"%d %d" % (thread, number), bytes([thread]) * 100_000])

        with ThreadPoolExecutor(3) as threads:
            for thread in range(3):
                threads.submit(send, thread)
            arrived = [parent.receive() for _ in range(150)]
    order: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for head, body in [frame for frame in arrived if frame]:
        thread, number = map(int, head.split())
        order[thread].append(number)
        assert body == bytes([thread]) * 100_000
    assert order == {thread: list(range(50)) for thread in range(3)}


class GivenBack:
    """Counts how often memory goes back to the system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.happened = threading.Event()
        monkeypatch.setattr("torchserve_lite.ipc.frames.give_back", self._note)

    def _note(self) -> None:
        self.times += 1
        self.happened.set()


def test_worker_gives_memory_back_when_no_frame_follows_a_large_one(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = GivenBack(monkeypatch)
    monkeypatch.setattr("torchserve_lite.ipc.frames.KEPT_SECONDS", 0.001)
    ours, theirs = ends
    child, parent = BlockingFrames(theirs), BlockingFrames(ours)
    with ThreadPoolExecutor(1) as thread:
        for number, pieces in enumerate([[b"small"], [b"large", bytes(LARGE)], [b"small"]]):
            receiving = thread.submit(child.receive)
            parent.send(pieces)
            receiving.result()
            assert given_back.times == (number > 1)
            if number == 1:
                receiving = thread.submit(child.receive)
                given_back.happened.wait()
                parent.send([b"small"])
                receiving.result()
        assert given_back.times == 1


@virtual_time
async def test_server_gives_memory_back_when_no_frame_follows_a_large_one() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        given_back = GivenBack(monkeypatch)
        async with Link() as link:
            for _ in range(5):
                link.frames.send([b"large", bytes(LARGE)])
                await asyncio.sleep(0.9 * KEPT_SECONDS)
            assert given_back.times == 0
            await asyncio.sleep(1.1 * KEPT_SECONDS)
            assert given_back.times == 1
            link.frames.send([b"small"])
            await asyncio.sleep(10 * KEPT_SECONDS)
            assert given_back.times == 1


class Writes:
    """A link that keeps what each system call would write."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def fileno(self) -> int:
        return 0

    def sendall(self, data: Buffer) -> None:
        self.kept.append(bytes(data))


@pytest.mark.parametrize(("size", "writes"), [pytest.param(10, 1, id="small"), pytest.param(200_000, 6, id="large")])
def test_frames_that_leave_together_are_written_together(size: int, writes: int) -> None:
    """Large ones are not copied for it, but for those that a handler may change meanwhile."""
    link: Any = Writes()
    frames = BlockingFrames(link)
    with frames.together():
        for letter in b"abc":
            frames.send([b"head", bytes([letter]) * size])
        assert link.kept == []
    assert len(link.kept) == writes
    told = fed(FrameDecoder(), b"".join(link.kept))
    assert [(bytes(head), len(body), body[0]) for head, body in told] == [(b"head", size, letter) for letter in b"abc"]
    frames.send([b"alone"])
    assert len(link.kept) == writes + 1


def test_buffer_that_is_filled_anew_before_frames_leave_together_is_sent_as_it_was() -> None:
    """A handler that streams may use one for all pieces."""
    link: Any = Writes()
    frames, buffer = BlockingFrames(link), bytearray(b"a" * 50_000)
    with frames.together():
        for letter in b"bc":
            frames.send([b"head", buffer])
            buffer[:] = bytes([letter]) * len(buffer)
    told = fed(FrameDecoder(), b"".join(link.kept))
    assert [bytes(body[:1]) for _, body in told] == [b"a", b"b"]


def test_frames_that_were_to_leave_together_leave_when_something_is_raised_meanwhile() -> None:
    link: Any = Writes()
    frames = BlockingFrames(link)
    with contextlib.suppress(SystemExit), frames.together():
        frames.send([b"head"])
        raise SystemExit
    assert len(link.kept) == 1
