"""What continuous batching brings: clients of a language model answered together, and one at a time, by one server.

.venv/bin/python -m benchmarks.llm --clients 16 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import yaml

from benchmarks import processes

HANDLER = Path(__file__).parent.parent / "handlers" / "llm"
TEXT = "Once upon a time there was a small computer in a large house, and it had nobody to talk to but the dog"
PATIENCE = 180.0
BATCHED, SINGLE = "batched", "single"


@dataclass(frozen=True)
class Round:
    """What the clients of one model got: their texts in the clients' order, and how long it took."""

    texts: list[str]
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def write_models(store: Path, arguments: argparse.Namespace) -> None:
    """The same model twice: with room for all clients, and for one."""
    sys.path.append(str(HANDLER))
    from make_tiny_model import make

    sizes = {
        "hidden_size": arguments.hidden_size,
        "intermediate_size": 4 * arguments.hidden_size,
        "num_hidden_layers": arguments.layers,
        "max_position_embeddings": 2048,
    }
    for name, batch_size in ((BATCHED, arguments.clients), (SINGLE, 1)):
        folder = store / name
        make(folder, "llama", **sizes)
        config = {"batchSize": batch_size, "maxBatchDelay": 0, "continuousBatching": True}
        (folder / "model-config.yaml").write_text(yaml.safe_dump({"minWorkers": 1, "maxWorkers": 1, **config}))
        model = {"modelName": name, "handler": "llm_handler", "modelVersion": "1.0", "configFile": "model-config.yaml"}
        (folder / "MAR-INF").mkdir()
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server with all models of the folder; its inference address."""
    settings = {
        "inference_address": "http://127.0.0.1:0",
        "management_address": "http://127.0.0.1:0",
        "metrics_address": "http://127.0.0.1:0",
        "grpc_inference_port": 0,
        "grpc_management_port": 0,
        "disable_token_authorization": "true",
        "load_models": "all",
        "model_store": str(folder),
        "autoscale": "false",
    }
    file = folder.parent / "config.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    command = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config", str(file)]
    log = folder.parent / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder.parent, stdout=output, stderr=subprocess.STDOUT)
    try:
        began, said = time.monotonic(), ""
        while "Model server started." not in said:
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise SystemExit(f"The server did not start. It said:\n{said[-3000:]}")
            time.sleep(0.1)
            said = log.read_text(errors="replace")
        yield next(line for line in said.splitlines() if "listening: inference" in line).rpartition(" ")[2]
    finally:
        processes.end(process.pid)
        process.wait()


async def measure(url: str, model: str, clients: int, tokens: int) -> Round:
    """Each client asks for one text. Prompts and texts have all lengths, so that they join and leave at all times."""

    async def ask(session: aiohttp.ClientSession, number: int) -> dict[str, Any]:
        body = {
            "model": model,
            "prompt": TEXT[: 1 + number * len(TEXT) // clients],
            "max_tokens": tokens // 2 + tokens * number // clients,
            "temperature": 0,
            "logit_bias": {"2": -100},  # no text ends before
        }
        async with session.post(f"{url}/openai/v1/completions", json=body) as response:
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise SystemExit(f"{model} answers {response.status}: {answer}")
            return answer

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        began = time.monotonic()
        answers = await asyncio.gather(*(ask(session, number) for number in range(clients)))
        seconds = time.monotonic() - began
    texts = [answer["choices"][0]["text"] for answer in answers]
    return Round(texts, sum(answer["usage"]["completion_tokens"] for answer in answers), seconds)


def run(arguments: argparse.Namespace) -> float:
    """Prints each round; the median of batched to single."""
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        write_models(store, arguments)
        ratios = []
        with served(store) as url:
            for number in range(arguments.rounds + 1):
                order = (BATCHED, SINGLE) if number % 2 else (SINGLE, BATCHED)
                seen = {model: asyncio.run(measure(url, model, arguments.clients, arguments.tokens)) for model in order}
                if seen[BATCHED].texts != seen[SINGLE].texts:
                    raise SystemExit("Texts of the batch differ from those written one at a time.")
                if number:  # the first round warms up
                    batched, single = seen[BATCHED].rate, seen[SINGLE].rate
                    ratios.append(batched / single)
                    print(
                        f"{batched:8.0f} tokens/s batched {single:8.0f} one at a time {batched / single:6.1f}x",
                        flush=True,
                    )
    print(f"median {median(ratios):.1f}x, {arguments.clients} clients, all texts equal")
    return median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure continuous batching of a language model.")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of a text, in the mean")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=64, help="of the model, which has random weights")
    parser.add_argument("--layers", type=int, default=2)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
