"""Asks a server for long what its API descriptions allow: ``python -m tests.api --minutes 10``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import aiohttp

from tests.api.described import findings, serving
from tests.e2e.conftest import build_mnist


async def ask(folder: Path, minutes: float, seed: int) -> int:
    store = folder / "store"
    store.mkdir()
    build_mnist(store)
    found = 0
    async with serving(folder, store) as addresses, aiohttp.ClientSession() as client:
        for role, address in addresses.items():
            async with client.options(f"{address}/") as response:
                document = await response.json()
            seconds = max(1, round(minutes * 60 / len(addresses)))
            said = await findings(address, document, folder, "--max-time", str(seconds), "--seed", str(seed))
            print(said or f"{role}: every answer was one that the description has.")
            found += bool(said)
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.api", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(ask(Path(folder), arguments.minutes, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
