"""How soon a slot is free when the client of its stream leaves.

``python -m benchmarks.streams`` starts a server, opens 200 streams at once, every second one as Server-Sent Events, and
lets every third client leave. It tells, over those that left: the time until their handler had ended, and until all of
their slots were free; and whether the streams of the others were whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

# Streams until its client leaves, or for as many pieces as it is told to. Notes when each stream has ended.
HANDLER = """
import asyncio
import time

from ts.handler_utils.utils import send_intermediate_predict_response


async def handle(data, context):
    if data is None:
        return None
    name, pieces, ends = bytes(data[0]["body"]).decode().split()
    try:
        for number in range(int(pieces)):
            send_intermediate_predict_response([f"{name} {number};"], context.request_ids, "", 200, context)
            await asyncio.sleep(0.1)
    finally:
        with open(ends, "a") as file:
            file.write(f"{name} {time.time()}\\n")
    return [f"{name} end;"]
"""
CONFIG = "minWorkers: {workers}\nmaxWorkers: {workers}\njobQueueSize: 1000\nasyncCommunication: true\n"
PROPERTIES = """
inference_address=http://127.0.0.1:0
management_address=http://127.0.0.1:0
metrics_address=http://127.0.0.1:0
grpc_inference_port=0
grpc_management_port=0
disable_token_authorization=true
config_snapshots=false
autoscale=false
load_models=all
model_store=store
"""
PIECES = 30  # of those who stay: three seconds
FOR_EVER = 1_000_000


@contextlib.contextmanager
def served(folder: Path, workers: int) -> Iterator[dict[str, str]]:
    """The addresses, by what is served there."""
    model = folder / "store" / "teller"
    (model / "MAR-INF").mkdir(parents=True)
    (model / "handler.py").write_text(HANDLER)
    (model / "model-config.yaml").write_text(CONFIG.format(workers=workers))
    (model / "MAR-INF" / "MANIFEST.json").write_text(
        '{"model": {"modelName": "teller", "modelVersion": "1.0", "handler": "handler.py:handle", '
        '"configFile": "model-config.yaml"}}'
    )
    (folder / "config.properties").write_text(PROPERTIES)
    command = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config", "config.properties"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = {}
            for line in process.stdout:
                if found := re.search(r"listening: (.+) on (http://\S+)", line):
                    addresses.update(dict.fromkeys(found[1].split(", "), found[2]))
                if "Model server started." in line:
                    break
            yield addresses
        finally:
            process.terminate()
            process.communicate()


async def read(
    client: aiohttp.ClientSession, url: str, number: int, ends: Path, everybody: asyncio.Barrier
) -> float | bool:
    """When this client left, or whether it got all."""
    leaves, received, waited = number % 3 == 0, b"", False
    body = f"{number} {FOR_EVER if leaves else PIECES} {ends}"
    headers = {"Accept": "text/event-stream"} if number % 2 else {}
    async with client.post(f"{url}/predictions/teller", data=body.encode(), headers=headers) as response:
        async for piece in response.content.iter_any():
            received += piece
            if not waited:
                await everybody.wait()
                waited = True
            if leaves:
                break
        left = time.time()
        if leaves:
            response.close()
            return left
    pieces = re.findall(rb"(\d+) (\w+);", received)
    return pieces == [(b"%d" % number, b"%d" % n) for n in range(PIECES)] + [(b"%d" % number, b"end")]


async def until_free(client: aiohttp.ClientSession, metrics: str, running: int) -> float:
    """When no more than ``running`` requests had a slot."""
    while True:
        async with client.get(f"{metrics}/metrics?name[]=ts_running_requests") as response:
            found = re.search(r"^ts_running_requests\{.*\} (\S+)$", await response.text(), re.M)
        if found and float(found[1]) <= running:
            return time.time()


async def measure(addresses: dict[str, str], streams: int, folder: Path) -> None:
    ends = folder / "ends"
    everybody = asyncio.Barrier(streams)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        reading = [
            asyncio.create_task(read(client, addresses["inference"], number, ends, everybody))
            for number in range(streams)
        ]
        lefts = dict(zip(range(0, streams, 3), await asyncio.gather(*reading[::3]), strict=True))
        free = await until_free(client, addresses["metrics"], streams - len(lefts)) - max(lefts.values())
        whole = await asyncio.gather(*(task for number, task in enumerate(reading) if number % 3))
    told = dict(line.split() for line in ends.read_text().splitlines())
    took = sorted(float(told[str(number)]) - left for number, left in lefts.items())
    print(f"{streams} streams, {len(lefts)} clients left; {sum(whole)} of the {len(whole)} others got all, in order")
    print(f"handlers had ended after {statistics.median(took) * 1000:.0f} ms (median), {took[-1] * 1000:.0f} ms (last)")
    print(f"all of their slots were free {free * 1000:.0f} ms after the last client had left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), options.workers) as addresses:
        asyncio.run(measure(addresses, options.streams, Path(folder)))


if __name__ == "__main__":
    main()
