"""The clients that people have: KServe's SDK and tritonclient, each in a process and an environment of its own, because
their protobufs collide with one another and with what the server has installed. See requirements/clients.txt."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import DATA, ROOT
from tests.e2e.server import Server, grpc_address, running, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAMS = ROOT / "tests" / "clients"
ECHO = """
import numpy as np
import torch

def handle(data, context):
    return data and [result(row) for row in data]

def result(row):
    datatype = row["datatype"]
    if datatype == "BYTES":
        return row["data"]
    if datatype == "BF16":
        return torch.tensor(row["data"], dtype=torch.bfloat16)
    names = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
    return np.array(row["data"], dtype=names.get(datatype, datatype.lower()))
"""
FAILING = """
def handle(data, context):
    if data:
        raise ValueError("the handler's own")
"""
SUM = """
sums = {}

def handle(data, context):
    return data and [add(context, index, row["data"][0]) for index, row in enumerate(data)]

def add(context, index, number):
    sequence = context.get_sequence_id(index)
    starts = context.get_request_header(index, context.header_key_sequence_start) == "true"
    sums[sequence] = number + (0 if starts else sums[sequence])
    return [sums[sequence]]
"""

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def clients_python() -> Path:
    """The interpreter of the clients' environment, which is made here where ``make`` has not made it."""
    made = subprocess.run(["make", "clients"], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    if made.returncode:
        reason = f"KServe's SDK and tritonclient cannot be installed, so they are NOT TESTED: {made.stderr[-500:]}"
        print(f"\n*** {reason}", file=sys.__stderr__)
        pytest.skip(reason)
    return ROOT / ".venv-clients" / "bin" / "python"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(mnist_store: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder, store = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("store")
    shutil.copy(mnist_store / "mnist.mar", store)
    write_model(store, "echo", ECHO, config="{batchSize: 8, maxBatchDelay: 20, maxWorkers: 1}")
    write_model(store, "spare", ECHO)
    write_model(store, "failing", FAILING)
    write_model(store, "sum", SUM, config="{sequenceBatching: true, sequenceMaxIdleMSec: 60000}")
    settings = {
        "load_models": "mnist.mar,echo,failing,sum",
        "enable_model_api": "true",
        "default_workers_per_model": "1",
    }
    async with running(folder, store, settings) as made:
        yield made


async def run(python: Path, program: str, *arguments: str) -> Outcomes:
    process = await asyncio.create_subprocess_exec(
        python, PROGRAMS / program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    outcomes: Outcomes = json.loads(output)
    return outcomes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(clients_python: Path, server: Server) -> Outcomes:
    """Of all calls of both clients, by client and name."""
    requests = DATA / "kserve_requests"
    v1, v2 = str(requests / "v1_mnist.json"), str(requests / "mnist_v2_tensor.json")
    host = server.url.removeprefix("http://")
    # One after the other: they load and unload the same model.
    sdk = await run(clients_python, "kserve_sdk.py", server.url, grpc_address(server), v1, v2)
    triton = await run(clients_python, "triton.py", host, grpc_address(server), v2)
    return {
        **{f"kserve {name}": found for name, found in sdk.items()},
        **{f"triton {name}": found for name, found in triton.items()},
    }


NUMBERS: dict[str, Any] = {
    "BOOL": [[True, False]],
    "UINT8": [[0, 255]],
    "UINT16": [[0, 65535]],
    "UINT32": [[0, 2**32 - 1]],
    "UINT64": [[0, 2**64 - 1]],
    "INT8": [[-128, 127]],
    "INT16": [[-32768, 32767]],
    "INT32": [[-(2**31), 2**31 - 1]],
    "INT64": [[-(2**63), 2**63 - 1]],
    "FP16": [[0.5, 65504]],
    "FP32": [[0.5, -3.25]],
    "FP64": [[0.1, -1e300]],
}
SIGNATURE = {
    "inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 28, 28]}],
    "outputs": [{"name": "predict", "datatype": "INT64", "shape": [1]}],
}
MNIST = {"id": "42", "model": "mnist", "output": ["predict", "INT64", [1]], "data": [0]}
HALF = {"id": "7", "model": "echo", "data": NUMBERS["FP16"]}
TRITON = {
    "live": True,
    "ready": True,
    "model ready": True,
    "version ready": True,
    "mnist": [0],
    "version": [0],
    "output by name": [0],
    "texts": ["Ã©", "b"],  # UTF-8 as Latin-1
    "binary bytes": ["\xff\x00\x89PNG"],
    "not finite": [["nan", "inf"]],
    "BF16": [[1.0, -2.0]],
    **NUMBERS,
    "sequence": [[1], [3], [6]],
    "load": None,
    "loaded": NUMBERS["INT8"],
    "unload": None,
}
VALUES: dict[str, Any] = {
    "kserve v1 live": True,
    "kserve v1 model ready": True,
    "kserve v1 predict": {"predictions": [2]},
    "kserve v1 predict two": {"predictions": [2, 2]},
    "kserve v1 explain": 28,
    "kserve v1 event": {"predictions": [2]},
    "kserve v2 live": True,
    "kserve v2 ready": True,
    "kserve v2 model ready": True,
    "kserve v2 unknown model ready": False,
    "kserve v2 mnist": MNIST,
    **{f"kserve v2 binary {datatype}": data for datatype, data in NUMBERS.items()},
    **{f"kserve v2 json {datatype}": data for datatype, data in NUMBERS.items() if datatype != "FP16"},
    "kserve v2 asked for binary": {**HALF, "output": ["predict", "FP16", [1, 2]]},
    "kserve v2 asked for json": {**HALF, "output": ["predict", "FP32", [1, 2]]},
    "kserve v2 texts": ["é", "b"],
    "kserve v2 not finite": [["nan", "inf"]],
    "kserve v2 many": [[str(number), [number, -number]] for number in range(16)],
    "kserve grpc live": True,
    "kserve grpc ready": True,
    "kserve grpc model ready": True,
    "kserve grpc mnist": MNIST,
    **{f"kserve grpc raw {datatype}": data for datatype, data in NUMBERS.items()},
    **{f"kserve grpc typed {datatype}": data for datatype, data in NUMBERS.items() if datatype != "FP16"},
    "kserve grpc texts": ["Ã©", "b"],
    "kserve grpc binary bytes": ["\xff\x00\x89PNG"],
    "kserve grpc not finite": [["nan", "inf"]],
    **{f"triton {protocol} {name}": value for name, value in TRITON.items() for protocol in ("http", "grpc")},
    "triton http unknown model ready": False,
    "triton http gzip": [0],
    "triton http deflate": [0],
    "triton http inline in": [0],
    "triton http inline both": [0],
    "triton http many": [[number] for number in range(16)],
    "triton http model metadata": {"name": "mnist", "versions": ["1.0"], "platform": "pytorch", **SIGNATURE},
    "triton http version metadata": {"name": "mnist", "versions": ["1.0"], "platform": "pytorch", **SIGNATURE},
    "triton grpc metadata": ["binary_tensor_data", "model_repository", "parameters", "sequence"],
    "triton grpc index": ["echo", "failing", "mnist", "sum", "spare"],
}
NOT_FOUND, INVALID = "Model not found", "StatusCode.INVALID_ARGUMENT"
ERRORS: dict[str, str] = {
    "kserve v1 unknown model ready": "Model not found",
    "kserve v1 no list": 'Expected "instances" to be a list',
    "kserve v1 unknown model": NOT_FOUND,
    "kserve v1 handler fails": "500",
    "kserve v2 wrong shape": 'Tensor "x": shape [3] of FP32 takes 12 bytes, but it has 8',
    "kserve v2 unknown output": 'asks for "other"',
    "kserve v2 unknown model": NOT_FOUND,
    "kserve v2 unknown datatype": "COMPLEX",
    "kserve v2 handler fails": "500",
    "kserve grpc unknown model ready": "NOT_FOUND",
    "kserve grpc wrong shape": "takes 12 bytes, but it has 8",
    "kserve grpc unknown model": "NOT_FOUND",
    "kserve grpc handler fails": "INTERNAL",
    "triton http unknown output": '[400] "outputs" asks for "other"',
    "triton http unknown model": "[404] Model not found",
    "triton http unknown version": "[404] Model version",
    "triton http handler fails": "[500]",
    "triton http too late": "[504]",
    "triton http shared memory": "[400]",
    "triton http load unknown": "[404] Model not found",
    "triton http unloaded": "[404] Model not found",
    "triton http unknown metadata": "[404] Model not found",
    "triton http config": "[404]",
    "triton http load with config": '[400] The load has the parameter "config"',
    "triton grpc unknown output": "[StatusCode.INVALID_ARGUMENT]",
    "triton grpc unknown model": "[StatusCode.NOT_FOUND]",
    "triton grpc unknown version": "[StatusCode.NOT_FOUND]",
    "triton grpc handler fails": "[StatusCode.INTERNAL]",
    "triton grpc too late": "[StatusCode.DEADLINE_EXCEEDED]",
    "triton grpc shared memory": "[StatusCode.INVALID_ARGUMENT]",
    "triton grpc load unknown": "[StatusCode.NOT_FOUND]",
    "triton grpc unloaded": "[StatusCode.NOT_FOUND]",
    "triton grpc config": "[StatusCode.UNIMPLEMENTED]",
}


@pytest.mark.parametrize("name", VALUES)
async def test_call_is_answered(outcomes: Outcomes, name: str) -> None:
    assert outcomes[name] == {"value": VALUES[name]}


@pytest.mark.parametrize("name", ERRORS)
async def test_call_is_refused_with_a_reason_that_the_client_shows(outcomes: Outcomes, name: str) -> None:
    assert ERRORS[name] in outcomes[name]["error"]


async def test_event_is_answered_with_an_event(outcomes: Outcomes) -> None:
    """Which KServe's SDK sends as headers."""
    headers = outcomes["kserve v1 event headers"]["value"]
    assert (headers["ce-type"], headers["ce-source"]) == ("io.kserve.inference.response", "io.kserve.inference.mnist")
    assert set(headers) == {"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"}
