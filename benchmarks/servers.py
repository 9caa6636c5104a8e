"""Starts and ends the servers that are compared, each on free ports of the loopback interface."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import processes
from scenarios import Scenario

HERE = Path(__file__).parent
RETRY = 0.005  # seconds between two tries for the first answer
PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where things are: ``python`` runs our server, ``torchserve`` is the command in its own environment."""

    python: Path
    torchserve: Path
    work: Path

    @property
    def store(self) -> Path:
        return self.work / "store"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start: its arguments and what its environment has beside ours."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that has given its first right answer, ``start_seconds`` after its process was started."""

    pid: int
    port: int
    management_port: int
    path: str
    start_seconds: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


def free_port() -> int:
    """Below the range that the kernel gives to clients, so that no connection takes it in the meantime."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def properties(scenario: Scenario, store: Path, port: int, management_port: int) -> str:
    """The same config.properties for TorchServe and for us."""
    model = {
        "minWorkers": scenario.workers,
        "maxWorkers": scenario.workers,
        "batchSize": scenario.batch_size,
        "maxBatchDelay": scenario.batch_delay,
        "responseTimeout": 120,
    }
    values = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{management_port}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "initial_worker_port": free_port(),
        "disable_token_authorization": "true",
        "model_store": store,
        "load_models": f"{scenario.model}.mar",
        "models": json.dumps({scenario.model: {"1.0": model}}),
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def ours(setting: Setting, config: Path, folder: Path) -> Command:
    arguments = (str(setting.python), "-m", "torchserve_lite", "start", "--ts-config", str(config))
    return Command(arguments=arguments, environment={})


def torchserve(setting: Setting, config: Path, folder: Path, **more: str) -> Command:
    arguments = (str(setting.torchserve), "--start", "--foreground", "--ncs", "--ts-config", str(config))
    environment = {
        "PATH": f"{setting.torchserve.parent}{os.pathsep}{os.environ['PATH']}",  # where it finds its workers' python
        "PYTHONPATH": str(stand_in_torchvision(folder)),
        "TMPDIR": str(folder),  # pid file, sockets and unpacked models: two may run side by side
        "TEMP": str(folder),
    }
    return Command(arguments=arguments, environment=environment | more)


def torchserve_one_thread(setting: Setting, config: Path, folder: Path) -> Command:
    return torchserve(setting, config, folder, OMP_NUM_THREADS="1")


STAND_IN = '''"""Stands in for torchvision, whose names TorchServe's image_classifier wants while it is imported."""


def _never_called(*arguments, **options):
    return None


Compose = Resize = CenterCrop = ToTensor = Normalize = _never_called
'''


def stand_in_torchvision(folder: Path) -> Path:
    """TorchServe's ImageClassifier imports torchvision for a default that the MNIST handler replaces by its own.

    The stand-in has the names and does nothing, so both servers run the handler's preprocessing and nothing else, and
    TorchServe is spared the memory and the start-up time of the real one.
    """
    package = folder / "stand-in" / "torchvision"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('"""Stand-in, see transforms."""\n')
    (package / "transforms.py").write_text(STAND_IN)
    return package.parent


LAUNCHES: Mapping[str, Callable[[Setting, Path, Path], Command]] = {
    "ours": ours,
    "torchserve": torchserve,
    "torchserve-omp1": torchserve_one_thread,
}

TITLES = {
    "ours": "torchserve-lite",
    "torchserve": "TorchServe 0.12",
    "torchserve-omp1": "TorchServe 0.12, OMP_NUM_THREADS=1",
    "echo": "bare aiohttp echo",
    "ceiling": "handler in a plain loop",
}


@contextmanager
def running(name: str, scenario: Scenario, setting: Setting) -> Iterator[Running]:
    """The server, up and answering; all its processes are gone afterwards."""
    folder = setting.work / f"{scenario.name}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port, management_port = free_port(), free_port()
    command = (
        echo(port, scenario) if name == "echo" else configured(name, scenario, setting, folder, port, management_port)
    )
    path = "/" if name == "echo" else f"/predictions/{scenario.model}"
    began = time.monotonic()
    with started(command, folder) as process:
        first_answer(process, port, path, scenario, folder)
        seconds = time.monotonic() - began
        yield Running(pid=process.pid, port=port, management_port=management_port, path=path, start_seconds=seconds)


def echo(port: int, scenario: Scenario) -> Command:
    return Command(arguments=(sys.executable, str(HERE / "echo.py"), str(port), scenario.answer), environment={})


def configured(
    name: str, scenario: Scenario, setting: Setting, folder: Path, port: int, management_port: int
) -> Command:
    config = folder / "config.properties"
    config.write_text(properties(scenario, setting.store, port, management_port))
    return LAUNCHES[name](setting, config, folder)


@contextmanager
def started(command: Command, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(
            command.arguments, cwd=folder, env={**environment, **command.environment}, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        processes.end(process.pid)
        process.wait()


def first_answer(process: subprocess.Popen[bytes], port: int, path: str, scenario: Scenario, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while (answer := ask(port, path, scenario)) != scenario.answer:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no right answer ({answer!r}); the server said:\n{tail(folder / 'output.log')}")
        time.sleep(RETRY)


def ask(port: int, path: str, scenario: Scenario) -> str:
    """The body of one answer; empty when nobody listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", path, scenario.body, {"Content-Type": scenario.content_type})
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def scale(server: Running, model: str, workers: int) -> float:
    """Asks management for this many workers; seconds until it says they are there."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.management_port, timeout=PATIENCE)
    try:
        connection.request("PUT", f"/models/{model}?min_worker={workers}&max_worker={workers}&synchronous=true")
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"scaling {model} to {workers}: {response.status} {response.read().decode()}")
        return time.monotonic() - began
    finally:
        connection.close()
