"""What comes over a client's connection: the same bytes in the same segments to a listener with the fast path and to
one without. Both must answer with the same bytes, ask the engine the same, and write the same log."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tests.fast_path import corpus
from tests.fast_path.conversation import masked
from tests.fuzz.target import Choices, Target
from tests.unit.protocols.conftest import Front
from tests.virtual_time import VirtualTimeLoop
from torchserve_lite.config.loading import load_config
from torchserve_lite.config.settings import Address
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import InvalidInput, PredictionFailed

_BODY_LIMIT = 10_000
_FOREVER = 10_000.0  # virtual seconds: every time-out of a server has passed
_GAPS = (0.0, 0.001, 1.0)  # virtual seconds between two segments: handlers take 0.01
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # whether it is sent depends on how much of the body has come by chance
_COUNTED = ("ts_inference_requests_total", "Requests2XX", "Requests4XX", "Requests5XX")
_COUNTER = re.compile(r"(?m)^(\w[^ ]*) (\S+)$")
_LINE = re.compile(r"^\S+ - (.*) \d+$")  # of the access log, without its times


class _Socket:
    family = socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def setsockopt(self, *option: object) -> None:
        pass


class _Listening:
    """In place of asyncio's server: nobody connects from outside."""

    sockets: tuple[_Socket, ...] = (_Socket(),)

    def close(self) -> None:
        pass


class _Loop(VirtualTimeLoop):
    """Time passes at once, and whoever listens is kept in ``listeners``: there is no socket."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[], asyncio.Protocol]] = []

    async def create_server(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], *where: Any, **facts: Any
    ) -> Any:
        self.listeners.append(factory)
        return _Listening()


class _Wire(asyncio.Transport):
    """The server's end of a connection whose client takes everything at once."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 2), "socket": _Socket()})
        self._protocol = protocol
        self._closing = False
        self.sent = bytearray()
        self.lost = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        protocol.connection_made(self)

    async def receive(self, segment: bytes) -> None:
        await self.reading.wait()
        if not self._closing:
            self._protocol.data_received(segment)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self.sent += data

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.reading.set()
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _lose(self) -> None:
        self._protocol.connection_lost(None)
        self.lost.set()

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.reading.is_set()

    def pause_reading(self) -> None:
        self.reading.clear()

    def resume_reading(self) -> None:
        self.reading.set()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@dataclass(frozen=True)
class Seen:
    """What is to be seen of one connection, from all sides."""

    answers: tuple[bytes, ...]  # what was sent, cut before each status line
    asked: tuple[str, ...]
    log: tuple[str, ...]
    counts: tuple[tuple[str, float], ...]


class _Server:
    """A front end before an engine without workers."""

    def __init__(self, *, fast_path: str) -> None:
        anywhere = Address(port=0)
        with tempfile.NamedTemporaryFile("w", suffix=".properties") as file:
            file.write(f"http_fast_path={fast_path}\n")
            file.flush()
            config = load_config(Path(file.name), {}, {}).http
        config = replace(config, inference=anywhere, management=anywhere, metrics=anywhere)
        self.front = Front(replace(config, max_request_size=_BODY_LIMIT), most_clients=1000)
        self.front.engine.answer = _answer_later
        self._counted = self._counts()

    async def listen(self) -> None:
        self._serving = self.front.http.serving()
        await self._serving.__aenter__()
        self._connect = _loop.listeners[-1]

    async def leave(self) -> None:
        await self._serving.__aexit__(None, None, None)

    async def see(self, segments: Sequence[bytes], gap: float) -> Seen:
        """One connection, until the server has closed it."""
        before = self._counted
        wire = _Wire(self._connect())
        for segment in segments:
            await wire.receive(segment)
            await asyncio.sleep(gap)
        async with asyncio.timeout(_FOREVER):
            await wire.lost.wait()
        self.front.access_log.flush()
        asked = tuple(_told(job.request) for job in self.front.engine.jobs)
        log = tuple(_LINE.sub(r"\1", line) for line in self.front.log)
        self.front.engine.jobs.clear()
        self.front.log.clear()
        after = self._counted = self._counts()
        counts = tuple(
            (name, value - before.get(name, 0)) for name, value in after.items() if value != before.get(name)
        )
        answers = re.split(rb"(?=HTTP/1\.[01] \d{3} )", masked(bytes(wire.sent).replace(_CONTINUE, b"")))
        # The page of all metrics has times in it, which differ between any two servers.
        answers = [answer if b"# HELP ts_" not in answer else answer[: answer.index(b"\r\n")] for answer in answers]
        return Seen(tuple(answers), asked, log, counts)

    def _counts(self) -> dict[str, float]:
        return {name: float(value) for name, value in _COUNTER.findall(self.front.metrics.registry.render(_COUNTED))}


def _told(request: InferenceRequest) -> str:
    parts = [(part.name, bytes(part.data), part.content_type) for part in request.parts]
    return repr((replace(request, id="", parts=()), parts))


def _answer_later(job: Job) -> None:
    asyncio.get_running_loop().call_later(0.01, _answer, job)


def _answer(job: Job) -> None:
    """With what was asked, or as the second byte of a body says that begins with an exclamation mark."""
    told = _told(job.request).encode()
    body = bytes(job.request.parts[0].data) if job.request.parts else b""
    choice = body[1] % 12 if len(body) > 1 and body.startswith(b"!") else -1
    if choice == 0:
        job.fail(PredictionFailed("It failed."))
    elif choice == 1:
        job.fail(InvalidInput("It is wrong."))
    elif choice == 2:
        job.succeed(InferenceResponse(told, 404, "Not\r\nhere", "text/css", (("X-Own", "1"), ("Bad Name", "2"))))
    elif choice in (3, 4):
        job.succeed(InferenceResponse(told, 204 if choice == 3 else 304, headers=(("Connection", "close"),)))
    elif choice == 5:
        job.succeed(InferenceResponse(b"x" * 70_000))
    elif choice == 6:
        job.succeed(InferenceResponse(b""))
    elif choice == 7:
        job.succeed(InferenceResponse(told, 99))
    elif choice > 7:
        for piece in (b"one", b"", b"two" * choice):
            job.add_piece(InferenceResponse(piece, 201 if choice == 8 else 200, headers=(("X-Own", "1"),)))
        if choice == 9:
            job.fail(PredictionFailed("It broke off."))
        else:
            job.succeed(InferenceResponse(b"" if choice == 10 else b"end"))
    else:
        job.succeed(InferenceResponse(told, content_type="text/plain"))


def check(data: bytes) -> None:
    """The first bytes say where the others are cut, and how long the client waits between the segments."""
    choices = Choices(data)
    gap = choices.one_of(_GAPS)
    places = [choices.below(2**16) for _ in range(choices.below(6))]
    sent = choices.rest()
    cuts = sorted({place % (len(sent) + 1) for place in places} | {0, len(sent)})
    segments = [sent[start:end] for start, end in itertools.pairwise(cuts)]
    _loop.run_until_complete(_compare(sent, segments, gap))


async def _compare(sent: bytes, segments: Sequence[bytes], gap: float) -> None:
    if not _servers:
        atexit.register(_stop)
        for fast_path in ("false", "true"):
            server = _Server(fast_path=fast_path)
            await server.listen()
            _servers.append(server)
    off, on = [await server.see(segments, gap) for server in _servers]
    if off != on:
        bytewise = await _servers[0].see([sent[at : at + 1] for at in range(len(sent))], 1.0)
        assert _more_was_answered(on, off, bytewise), f"on: {on}\noff: {off}"


def _stop() -> None:
    _Listening.sockets = ()  # nobody waits to be accepted
    for server in _servers:
        _loop.run_until_complete(server.leave())
    _loop.close()


def _more_was_answered(on: Seen, off: Seen, bytewise: Seen) -> bool:
    """aiohttp loses requests that come in one segment with garbage. The fast path may answer them, as far as aiohttp
    would if each came by itself; then it refuses the garbage as aiohttp does."""
    return (
        off.answers[-1].startswith(b"HTTP/1.0 400")
        and on.answers[-1] == off.answers[-1] == bytewise.answers[-1]
        and len(off.answers) < len(on.answers)
        and on.answers[:-1] == bytewise.answers[: len(on.answers) - 1]
        and on.asked == bytewise.asked[: len(on.asked)]
        and on.log == bytewise.log[: len(on.log)]
    )


_loop = _Loop()
_servers: list[_Server] = []


def _seeds() -> Iterator[bytes]:
    """The conversations of the differential test that fit, in one piece and cut in two; bodies choose an answer."""
    cases = itertools.chain(corpus.good(), corpus.odd(), corpus.hostile(), corpus.mixed())
    sent = dict.fromkeys(b"".join(b"".join(step.segments) for step in case.steps) for case in cases)
    kept = [one.replace(b"/echo", b"/tiny").replace(b"/acts", b"/tiny") for one in sent if len(one) < 1000]
    for number, one in enumerate(kept):
        yield bytes([number % 3, 0]) + one
        if number % 3 == 0:
            yield bytes([1, 1]) + (number * 37 % len(one)).to_bytes(2, "little") + one
    for choice in range(12):
        yield b"\1\0" + corpus.post(b"/predictions/tiny", bytes([33, choice])) * 2
        yield b"\1\0" + corpus.post(b"/v1/models/tiny:predict", bytes([33, choice])) + corpus.PING


TARGETS = {
    "http": Target(
        check=check,
        seeds=list(_seeds()),
        words=[
            b"\r\n", b"\r\n\r\n", b"POST ", b"PUT ", b"GET ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
            b"Host: x\r\n", b"Content-Length: 1\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
            b"Content-Type: application/json\r\n", b"X-Request-Timeout-Ms: 5\r\n", b"X-Request-Timeout-Ms: 0\r\n",
            b"traceparent: 1\r\n", b"Content-Encoding: gzip\r\n", b"/predictions/tiny", b"/predictions/tiny/2.0/a/b",
            b"/explanations/tiny", b"/v1/models/tiny:predict", b"/v2/models/tiny/infer", b"/ping", b"?a=1", b"%41",
            b"0\r\n\r\n", b"1\r\na\r\n", b" ", b"\t", b":", b"\0", b"\n", b"\r", b"\xff", b"!", b"//", b"..",
            corpus.post(b"/predictions/tiny"), corpus.PING, corpus.KINDS["chunks"].replace(b"/echo", b"/tiny"),
        ],
    )
}  # fmt: skip
