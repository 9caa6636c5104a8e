"""Unary calls over gRPC beside the same over HTTP, and beside what grpc.aio costs with nothing behind it.

    python -m benchmarks.grpc_calls --write

The no-op model of ``benchmarks.compare`` is asked through both protocols of one server, in turns; the yardstick is a
server of grpc.aio that answers each call at once. wrk loads HTTP and h2load gRPC (Debian: ``apt-get install wrk
nghttp2-client``): clients in C, so that what is measured is the server. h2load counts every answer as a success, so
each target is asked by a real client first, and the bytes that come are compared with those of right answers.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil

from benchmarks import processes
from benchmarks.archives import build_archive
from benchmarks.load import Failed, Generator
from benchmarks.rounds import Round, median_ratio, orders, values
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import Figures, started
from benchmarks.targets import Command, Place, free_port, ours
from torchserve_lite.protocols.grpc.messages import load_messages

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- gRPC: written by benchmarks/grpc_calls.py -->\n", "<!-- end of gRPC -->\n"
PACKAGE = "org.pytorch.serve.grpc.inference"
METHOD = f"/{PACKAGE}.InferenceAPIsService/Predictions"
SCENARIO = SCENARIOS["noop"]
PATIENCE = 60  # seconds
TITLES = {
    "http": "HTTP, a connection for each client",
    "grpc": "gRPC, a connection for each client",
    "channel": "gRPC, all clients on one connection",
    "bare": "grpc.aio that answers at once, a connection for each client",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The root of a server's processes, and what puts load on it: it is given the seconds and tells the requests."""

    pid: int
    load: Callable[[int], int]

    def drive(self, seconds: int) -> Figures:
        before = processes.cpu_seconds(self.pid)
        requests = self.load(seconds)
        spent = processes.cpu_seconds(self.pid) - before
        processes.wait_until_idle(self.pid)
        return {"rate": requests / seconds, "cpu_seconds": spent / requests}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3, help="of load in each slot (default 3)")
    parser.add_argument("--warm-up", type=int, default=5, help="seconds of load before the first slot (default 5)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    if missing := [program for program in ("wrk", "h2load") if shutil.which(program) is None]:
        raise SystemExit(f"{' and '.join(missing)} not found. Debian: apt-get install wrk nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        targets = all_started(Path(folder), chosen.clients, stack)
        rounds = measured(targets, chosen)
    section = "\n".join(table(rounds, chosen)) + "\n"
    print(section)
    if chosen.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{section}\n{END}{rest.partition(END)[2]}")


def all_started(folder: Path, clients: int, stack: ExitStack) -> Mapping[str, Target]:
    place = Place(python=Path(sys.executable), servers=folder, cache=HERE / ".work", folder=folder)
    build_archive(SCENARIO.model, place.cache)
    port, bare_port = free_port(), free_port()
    command = ours(SCENARIO, place, grpc_inference_port=str(port))
    server = stack.enter_context(started(command, SCENARIO, folder))
    answer = message("PredictionResponse", prediction=SCENARIO.answer)
    arguments = (sys.executable, str(HERE / "echo.py"), "grpc", str(bare_port), answer.decode())
    (folder / "bare").mkdir()
    bare = stack.enter_context(started(Command(arguments=arguments, port=bare_port), SCENARIO, folder / "bare"))
    server.first_answer()

    request = message("PredictionsRequest", model_name=SCENARIO.model, input={"data": SCENARIO.body})
    for listening in (port, bare_port):
        asyncio.run(check(listening, request, answer))
    framed = folder / "framed"
    framed.write_bytes(frame(request))
    expected = len(frame(answer))

    def http(seconds: int) -> int:
        load = Generator(name="wrk", scenario=SCENARIO, folder=folder).drive(
            command.port, command.path, clients, seconds
        )
        load.check(server.answer_bytes)
        return load.requests

    return {
        "http": Target(pid=server.pid, load=http),
        "grpc": Target(pid=server.pid, load=lambda seconds: h2load(framed, port, clients, 1, seconds, expected)),
        "channel": Target(pid=server.pid, load=lambda seconds: h2load(framed, port, 1, clients, seconds, expected)),
        "bare": Target(pid=bare.pid, load=lambda seconds: h2load(framed, bare_port, clients, 1, seconds, expected)),
    }


def message(name: str, **fields: Any) -> bytes:
    serialized: bytes = load_messages().named(f"{PACKAGE}.{name}")(**fields).SerializeToString()
    return serialized


def frame(data: bytes) -> bytes:
    """A message as it is in the stream: not compressed, and with its length."""
    return b"\0" + len(data).to_bytes(4, "big") + data


async def check(port: int, request: bytes, right: bytes) -> None:
    """Waits until the server is there."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(METHOD)
        answer = await call(request, wait_for_ready=True, timeout=PATIENCE)
    if answer != right:
        raise Failed(f"It answers {answer!r} where {right!r} is right.")


def h2load(framed: Path, port: int, connections: int, streams: int, seconds: int, expected: int) -> int:
    """How many calls were answered. ``expected``: bytes of a right answer."""
    how = [f"-c{connections}", f"-m{streams}", f"-D{seconds}", "-t1", f"-d{framed}"]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command = ["h2load", *how, *headers, f"http://127.0.0.1:{port}{METHOD}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=True).stdout
    counts = re.search(r"(\d+) done, (\d+) succeeded", said)
    data = re.search(r"\((\d+)\) data", said)
    if counts is None or data is None:
        raise Failed(f"h2load said: {said[-500:]}")
    done, succeeded = int(counts[1]), int(counts[2])
    unfinished = connections * streams  # that the end of the time cuts off
    if not done or succeeded < done or abs(int(data[1]) - done * expected) > unfinished * expected:
        raise Failed(f"Of {done} calls {succeeded} were answered, with {data[1]} bytes; an answer has {expected}.")
    return done


def measured(targets: Mapping[str, Target], chosen: argparse.Namespace) -> Sequence[Round]:
    for target in targets.values():
        target.drive(chosen.warm_up)
    rounds = []
    for order in orders(tuple(targets), chosen.rounds):
        rounds.append({name: targets[name].drive(chosen.seconds) for name in order})
        told = (f"{name} {rounds[-1][name]['rate']:,.0f}/s" for name in targets)
        print(f"round {len(rounds)}: {', '.join(told)}", file=sys.stderr, flush=True)
    return rounds


def table(rounds: Sequence[Round], chosen: argparse.Namespace) -> Iterator[str]:
    """Medians, and ratios that are taken within each round."""
    cores = len(psutil.Process().cpu_affinity() or [])
    versions = f"Python {platform.python_version()}, grpcio {importlib.metadata.version('grpcio')}"
    yield (
        f"{chosen.clients} clients. {datetime.date.today()}, {cores} cores, {versions}; {chosen.rounds} rounds of "
        f"{chosen.seconds} s; load from wrk and h2load."
    )
    yield ""
    yield "| | requests/s | CPU us/request | to HTTP: throughput | to HTTP: CPU |"
    yield "|---|--:|--:|--:|--:|"
    for name, title in TITLES.items():
        rate, cpu = (median(values(rounds, name, figure)) for figure in ("rate", "cpu_seconds"))
        ratios = [median_ratio(rounds, figure, name, "http") for figure in ("rate", "cpu_seconds")]
        to_http = ["" if name == "http" or one is None else f"{one:.2f}x" for one in ratios]
        yield f"| {title} | {rate:,.0f} | {cpu * 1e6:,.0f} | {to_http[0]} | {to_http[1]} |"


if __name__ == "__main__":
    main()
