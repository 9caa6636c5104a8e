"""How each target is started: its command, and where it listens."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.archives import HANDLER_FILES
from benchmarks.scenarios import Scenario

HERE = Path(__file__).parent
LARGEST = 16 * 2**20  # bytes of a request or an answer
PATIENCE = 120  # seconds for one answer
QUEUE = 4096  # jobs that may wait: the load has up to a thousand clients, and refusing is not what is measured

TITLES = {
    "ours": "torchserve-lite",
    "ours-affinity": "torchserve-lite, `worker_affinity=auto`",
    "ours-500-models": "torchserve-lite, 500 models",
    "torchserve": "TorchServe 0.12",
    "torchserve-omp1": "TorchServe 0.12, `OMP_NUM_THREADS=1`",
    "mosec": "mosec",
    "litserve": "LitServe",
    "aiohttp": "bare aiohttp echo",
    "httptools": "bare httptools echo",
    "loop": "handler in a plain loop",
    "import torch": "`python -c 'import torch'`",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are: ``python`` runs torchserve-lite, ``servers`` is the other servers' environment, ``cache`` holds
    the archives, and each target gets a ``folder`` of its own for its files."""

    python: Path
    servers: Path
    cache: Path
    folder: Path

    @property
    def servers_python(self) -> Path:
        return self.servers / "bin" / "python"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start. ``port`` 0: it listens nowhere, and is told over its standard input what to do. ``ready``: a
    path that answers 200 once all is loaded, where the first right answer comes before."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    path: str = "/"
    management_port: int = 0
    ready: str = ""


def command(target: str, scenario: Scenario, place: Place) -> Command:
    return COMMANDS[target](scenario, place)


def free_port() -> int:
    """Below the range that the kernel gives to clients, so that no connection takes it in the meantime."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


# --- servers of archives ---------------------------------------------------------------------------------------------


def config_file(scenario: Scenario, place: Place, port: int, management_port: int, more: Mapping[str, str]) -> str:
    """The same config.properties for TorchServe and for us."""
    model = {
        "minWorkers": scenario.workers,
        "maxWorkers": scenario.workers,
        "batchSize": scenario.batch_size,
        "maxBatchDelay": scenario.batch_delay,
        "responseTimeout": PATIENCE,
    }
    values = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{management_port}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "initial_worker_port": free_port(),
        "disable_token_authorization": "true",
        "job_queue_size": QUEUE,
        "max_request_size": LARGEST,
        "max_response_size": LARGEST,
        "model_store": place.cache,
        "load_models": f"{scenario.model}.mar",
        "models": json.dumps({scenario.model: {"1.0": model}}),
        **more,
    }
    file = place.folder / "config.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return str(file)


def ours(scenario: Scenario, place: Place, **more: str) -> Command:
    port, management_port = free_port(), free_port()
    config = config_file(scenario, place, port, management_port, more)
    return Command(
        arguments=(str(place.python), "-m", "torchserve_lite", "start", "--ts-config", config),
        port=port,
        management_port=management_port,
        path=f"/v1/models/{scenario.model}:predict" if scenario.v1 else f"/predictions/{scenario.model}",
    )


def ours_affinity(scenario: Scenario, place: Place) -> Command:
    return ours(scenario, place, worker_affinity="auto")


def ours_500_models(scenario: Scenario, place: Place) -> Command:
    """499 are registered under other names and have no workers."""
    idle = [f"idle-{number}" for number in range(499)]
    archives = ",".join([f"{scenario.model}.mar", *(f"{name}={scenario.model}.mar" for name in idle)])
    served = {"minWorkers": 1, "maxWorkers": 1, "batchSize": scenario.batch_size, "maxBatchDelay": scenario.batch_delay}
    models = {scenario.model: {"1.0": served}} | {name: {"1.0": {"minWorkers": 0, "maxWorkers": 1}} for name in idle}
    return replace(ours(scenario, place, load_models=archives, models=json.dumps(models)), ready="/ping")


def torchserve(scenario: Scenario, place: Place, **environment: str) -> Command:
    port, management_port = free_port(), free_port()
    # Of its two envelopes for V1 JSON this is the one that may have more than one request in a batch.
    envelope = {"service_envelope": "json"} if scenario.v1 else {}
    config = config_file(scenario, place, port, management_port, envelope)
    program = place.servers / "bin" / "torchserve"
    found = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",  # where it finds its workers' python
        "TMPDIR": str(place.folder),  # pid file, sockets and unpacked models: two may run side by side
        "TEMP": str(place.folder),
    }
    if (
        scenario.model == "mnist"
    ):  # transformers, which finds out whether torchvision is there, wants a real one or none
        found["PYTHONPATH"] = str(stand_in_torchvision(place.folder))
    return Command(
        arguments=(str(program), "--start", "--foreground", "--ncs", "--ts-config", config),
        environment=found | environment,
        port=port,
        management_port=management_port,
        path=f"/predictions/{scenario.model}",
    )


def torchserve_one_thread(scenario: Scenario, place: Place) -> Command:
    return torchserve(scenario, place, OMP_NUM_THREADS="1")


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
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Stand-in, see transforms."""\n')
    (package / "transforms.py").write_text(STAND_IN)
    return package.parent


# --- servers of services, and the yardsticks -------------------------------------------------------------------------


def service(file: str, scenario: Scenario, place: Place, port: int) -> tuple[tuple[str, ...], dict[str, str]]:
    told = {
        "model": scenario.model,
        "folder": str(place.cache / scenario.model),
        "port": port,
        "workers": scenario.workers,
        "batch_size": scenario.batch_size,
        "delay": scenario.batch_delay / 1000,
        "v1": scenario.v1,
    }
    arguments = (str(place.servers_python), str(HERE / "services" / file))
    return arguments, {"BENCHMARK_SERVICE": json.dumps(told)}


def mosec(scenario: Scenario, place: Place) -> Command:
    port = free_port()
    arguments, environment = service("mosec_service.py", scenario, place, port)
    options = {
        "address": "127.0.0.1",
        "port": port,
        "path": place.folder / "sockets",
        "capacity": QUEUE,
        "timeout": PATIENCE * 1000,
        "max-request-size": LARGEST,
        "log-level": "warning",
    }
    told = (f"--{name}={value}" for name, value in options.items())
    return Command(arguments=(*arguments, *told), environment=environment, port=port, path="/inference")


def litserve(scenario: Scenario, place: Place) -> Command:
    port = free_port()
    arguments, environment = service("litserve_service.py", scenario, place, port)
    return Command(arguments=arguments, environment=environment, port=port, path="/predict")


def bare_echo(library: str, scenario: Scenario, place: Place) -> Command:
    port = free_port()
    python = sys.executable if library == "aiohttp" else str(place.servers_python)
    constant = [] if scenario.answer == scenario.body else [scenario.answer.decode()]
    return Command(arguments=(python, str(HERE / "echo.py"), library, str(port), *constant), port=port)


def loop(scenario: Scenario, place: Place) -> Command:
    body = place.folder / "body"
    body.write_bytes(scenario.body)
    options = {"handler": HANDLER_FILES[scenario.model], "body": body}
    options |= {"workers": scenario.workers, "batch": scenario.batch_size}
    told = [f"--{name}={value}" for name, value in options.items()] + ["--v1"] * scenario.v1
    folder = place.cache / scenario.model
    return Command(arguments=(str(place.python), str(HERE / "loop.py"), str(folder), *told))


COMMANDS: Mapping[str, Callable[[Scenario, Place], Command]] = {
    "ours": ours,
    "ours-affinity": ours_affinity,
    "ours-500-models": ours_500_models,
    "torchserve": torchserve,
    "torchserve-omp1": torchserve_one_thread,
    "mosec": mosec,
    "litserve": litserve,
    "aiohttp": lambda scenario, place: bare_echo("aiohttp", scenario, place),
    "httptools": lambda scenario, place: bare_echo("httptools", scenario, place),
    "loop": loop,
}
