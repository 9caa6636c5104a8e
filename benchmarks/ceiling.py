"""The model with no server around it: the handler called in a loop by single-threaded processes.

``python ceiling.py FOLDER --handler mnist_handler --body 2.png --workers 2 --batch 16 --seconds 5`` prints JSON:
requests a second over all processes, and the seconds that loading took with torch already imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Task:
    folder: Path
    handler: str
    body: bytes
    batch: int
    seconds: float


class NoMetrics:
    """Takes the handler's metrics and drops them."""

    def add_time(self, *arguments: Any, **options: Any) -> None:
        pass


def loaded_handler(task: Task) -> tuple[Any, Any, float]:
    """Handler, context, and the seconds it took to load, as a worker does it that has torch imported already."""
    import torch

    from torchserve_lite import compat

    torch.set_num_threads(1)
    compat.install()
    began = time.perf_counter()
    context = context_for(task)
    handler = handler_class(task)()
    handler.initialize(context)
    return handler, context, time.perf_counter() - began


def context_for(task: Task) -> Any:
    from ts.context import Context, RequestProcessor

    manifest = json.loads((task.folder / "MAR-INF" / "MANIFEST.json").read_text())
    context = Context("model", str(task.folder), manifest, task.batch, None, "0.12.0", metrics=NoMetrics())
    context.model_yaml_config = {}
    context.request_processor = [RequestProcessor({"explain": "False"}) for _ in range(task.batch)]
    context.request_ids = {index: str(index) for index in range(task.batch)}
    return context


def handler_class(task: Task) -> type:
    sys.path.insert(0, str(task.folder))
    os.chdir(task.folder)
    module = importlib.import_module(task.handler)
    return next(item for item in vars(module).values() if isinstance(item, type) and item.__module__ == task.handler)


together: Barrier  # in each loop's process, from ``meet_at``


def meet_at(barrier: Barrier) -> None:
    global together
    together = barrier


def run(task: Task) -> tuple[float, float]:
    """Requests a second of one loop that starts with the others, and the seconds its handler took to load."""
    handler, context, load_seconds = loaded_handler(task)
    rows = [{"body": bytearray(task.body)} for _ in range(task.batch)]
    for _ in range(3):
        handler.handle(rows, context)
    together.wait(timeout=60)
    return rate(handler, context, rows, task.seconds), load_seconds


def rate(handler: Any, context: Any, rows: list[Any], seconds: float) -> float:
    requests, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        requests += len(handler.handle(rows, context))
    return requests / passed


def measure(task: Task, workers: int) -> dict[str, float]:
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=meet_at, initargs=(spawn.Barrier(workers),)) as loops:
        told = list(loops.map(run, [task] * workers))
    return {"rate": sum(rate for rate, _ in told), "load_seconds": min(seconds for _, seconds in told)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an unpacked archive")
    parser.add_argument("--handler", required=True)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    task = Task(
        folder=options.folder.absolute(),
        handler=options.handler,
        body=options.body.read_bytes(),
        batch=options.batch,
        seconds=options.seconds,
    )
    print(json.dumps(measure(task, options.workers)))


if __name__ == "__main__":
    main()
