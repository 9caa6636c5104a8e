"""The model with no server around it: the handler called in a loop by single-threaded processes.

``python loop.py FOLDER --handler mnist_handler.py --body 2.png --workers 2 --batch 16`` loads the handler in each
process and prints its first answer. Then, for each line with a number of seconds on standard input, all
processes start together, call the handler on full batches for that long, and a line tells the requests and the seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Work:
    folder: Path
    handler: str
    row: Any
    batch: int


def serve(work: Work, barrier: Barrier, orders: Connection) -> None:
    """One process: the handler's answer to the first row, then requests and seconds for each order."""
    import torch

    from torchserve_lite import testing

    # Handlers write their metrics there, and the answers on it are the parent's.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    torch.set_num_threads(1)
    handler = testing.load(work.folder / work.handler, work.folder, batch_size=work.batch)
    rows = [work.row] * work.batch
    orders.send(handler(rows)[0])
    while seconds := orders.recv():
        barrier.wait(timeout=60)
        requests, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            requests += len(handler(rows))
        orders.send((requests, passed))


def row_of(body: bytes, v1: bool) -> Any:
    """What a worker hands the handler: the body, or the one instance of V1 JSON."""
    return json.loads(body)["instances"][0] if v1 else {"body": bytearray(body)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an unpacked archive")
    parser.add_argument("--handler", required=True)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--v1", action="store_true", help="the body is KServe's V1 JSON with one instance")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    row = row_of(options.body.read_bytes(), options.v1)
    work = Work(folder=options.folder.absolute(), handler=options.handler, row=row, batch=options.batch)

    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(options.workers)
    pipes = [spawn.Pipe() for _ in range(options.workers)]
    for _, theirs in pipes:
        spawn.Process(target=serve, args=(work, barrier, theirs), daemon=True).start()
        theirs.close()  # so that a process that dies is an EOFError here
    loops = [mine for mine, _ in pipes]
    answer, *_ = [loop.recv() for loop in loops]
    told = {"predictions": [answer]} if options.v1 else answer
    print(told if isinstance(told, str) else json.dumps(told), flush=True)  # as a server answers it
    for line in sys.stdin:
        for loop in loops:
            loop.send(float(line))
        told = [loop.recv() for loop in loops]
        rate = sum(requests / seconds for requests, seconds in told)
        longest = max(seconds for _, seconds in told)
        print(json.dumps({"requests": round(rate * longest), "seconds": longest}), flush=True)


if __name__ == "__main__":
    main()
