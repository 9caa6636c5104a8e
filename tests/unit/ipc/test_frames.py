"""Frames on the link between the server and a worker: nothing is lost or mixed up, however the bytes arrive."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_lite.ipc.frames import AsyncFrames, BlockingFrames, FrameDecoder, FrameError, pack

PAYLOADS = [b"", b"a", b"\x00\x00\x00\x05", b"x" * 300]
STREAM = b"".join(map(pack, PAYLOADS))


@pytest.mark.parametrize("boundary", range(len(STREAM) + 1))
def test_frames_come_out_whole_when_the_stream_is_split_anywhere(boundary: int) -> None:
    decoder = FrameDecoder()
    assert [*decoder.feed(STREAM[:boundary]), *decoder.feed(STREAM[boundary:])] == PAYLOADS


def test_frames_come_out_whole_when_bytes_come_one_by_one() -> None:
    decoder = FrameDecoder()
    assert [payload for byte in STREAM for payload in decoder.feed(bytes([byte]))] == PAYLOADS


@given(payloads=st.lists(st.binary(max_size=50)), cuts=st.lists(st.integers(0, 500)))
def test_frames_survive_any_segmentation(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(pack, payloads))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = FrameDecoder()
    received = [out for start, end in pairwise(edges) for out in decoder.feed(stream[start:end])]
    assert received == payloads


@pytest.mark.parametrize("length", [11, 2**31, 2**32 - 1])
def test_frame_beyond_the_limit_is_refused_before_its_bytes_come(length: int) -> None:
    with pytest.raises(FrameError, match=f"{length} bytes was announced; the limit is 10"):
        FrameDecoder(limit=10).feed(struct.pack("!I", length))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_blocking_end_gives_payloads_in_order_and_then_none(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(STREAM)
    ours.close()
    frames = BlockingFrames(theirs)
    assert [frames.receive() for _ in range(5)] == [*PAYLOADS, None]


def test_blocking_end_does_not_wait_for_what_has_not_arrived(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames = BlockingFrames(theirs)
    assert frames.receive_now() is None
    ours.sendall(pack(b"whole") + pack(b"incomplete")[:-1])
    assert [frames.receive_now(), frames.receive_now()] == [b"whole", None]


class Link:
    """The asyncio end of a link, and the socket at its other end."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.closed = asyncio.get_running_loop().create_future()
        self.frames = AsyncFrames(self.payloads.append, self.closed.set_result)
        self.ours, self.theirs = socket.socketpair()

    async def __aenter__(self) -> Link:
        await asyncio.get_running_loop().create_connection(lambda: self.frames, sock=self.ours)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.frames.close()
        await self.closed
        self.theirs.close()


async def test_async_end_hands_over_payloads_and_tells_when_the_peer_has_gone() -> None:
    async with Link() as link:
        link.theirs.sendall(STREAM)
        link.theirs.close()
        assert await link.closed == ""
    assert link.payloads == PAYLOADS


async def test_async_end_closes_the_link_when_the_peer_sends_no_frames() -> None:
    async with Link() as link:
        link.theirs.sendall(b"\xff\xff\xff\xff and more")
        assert "4294967295 bytes" in await link.closed


async def test_both_ends_understand_one_another() -> None:
    async with Link() as link:
        for payload in PAYLOADS:
            link.frames.send(payload)
        child = BlockingFrames(link.theirs)
        assert [await asyncio.to_thread(child.receive) for _ in PAYLOADS] == PAYLOADS


async def test_sending_to_a_peer_that_has_gone_is_no_error() -> None:
    """It is noticed elsewhere: by the end of the process."""
    async with Link() as link:
        link.theirs.close()
        await link.closed
        link.frames.send(b"too late")
