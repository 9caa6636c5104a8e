"""The servers that several tests share, and the data they send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running
from torchserve_lite.archive.builder import ArchiveRequest, build

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data"


def request_file(name: str) -> Any:
    """A real request body of KServe's."""
    return json.loads((DATA / "kserve_requests" / name).read_text())


def digit(number: int) -> bytes:
    return (DATA / "digits" / f"{number}.png").read_bytes()


@pytest.fixture(scope="session")
def mnist_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the MNIST archive."""
    store = tmp_path_factory.mktemp("store")
    build_mnist(store)
    return store


def build_mnist(store: Path) -> None:
    """The MNIST archive, built as the guide builds it."""
    source = ROOT / "handlers" / "mnist"
    build(
        ArchiveRequest(
            model_name="mnist",
            version="1.0",
            model_file=str(source / "mnist.py"),
            serialized_file=str(source / "mnist_cnn.pt"),
            handler=str(source / "mnist_handler.py"),
            config_file=str(source / "model-config.yaml"),
            export_path=str(store),
        )
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mnist(mnist_store: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The guide's deployment: one address for inference and management, the model named by an inline snapshot."""
    snapshot = {
        "name": "startup.cfg",
        "modelCount": 1,
        "models": {
            "mnist": {
                "1.0": {
                    "defaultVersion": True,
                    "marName": "mnist.mar",
                    "minWorkers": 1,
                    "maxWorkers": 5,
                    "batchSize": 1,
                    "maxBatchDelay": 5000,
                    "responseTimeout": 120,
                }
            }
        },
    }
    folder = tmp_path_factory.mktemp("server")
    async with running(folder, mnist_store, {"load_models": "", "model_snapshot": json.dumps(snapshot)}) as server:
        yield server
