"""Records what the real TorchServe answers: ``python -m tests.compat.record --torchserve VENV/bin/torchserve``.

Needs an environment with torchserve 0.12.0, torch, captum, numpy, pillow and pyyaml, and a Java of version 17. Writes
``recordings.json`` beside this file; ``--only NAME`` renews single cases and keeps the others as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .archives import build
from .cases import CASES, SERVERS, Case
from .exchange import Record, Request, Server, ask, run_case, until

RECORDINGS = Path(__file__).parent / "recordings.json"
LISTENERS = ("inference", "management", "metrics")
COMMON = {
    "disable_token_authorization": "true",
    "disable_system_metrics": "true",
    "enable_model_api": "true",
    "metrics_mode": "prometheus",
    "model_metrics_auto_detect": "true",
    "default_workers_per_model": "1",
}


def free_port() -> int:
    """Below the range that the kernel gives to clients, so that no connection of ours takes it in the meantime."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def properties(addresses: Mapping[str, str], **more: str) -> str:
    """A config.properties for TorchServe or us."""
    listeners = {f"{name}_address": f"http://{address}" for name, address in addresses.items()}
    return "".join(f"{key}={value}\n" for key, value in (listeners | COMMON | more).items())


def answers(server: Server) -> bool:
    try:
        return bool(ask(server, "", Request(label="ping", method="GET", path="/ping"))["status"] == 200)
    except OSError:
        return False


@contextmanager
def torchserve(command: Path, folder: Path, extra: Mapping[str, str]) -> Iterator[Server]:
    """The real one, with an empty model store in ``folder``; its processes are gone afterwards."""
    addresses = {listener: f"127.0.0.1:{free_port()}" for listener in LISTENERS}
    config = folder / "config.properties"
    ports = {name: str(free_port()) for name in ("initial_worker_port", "grpc_inference_port", "grpc_management_port")}
    config.write_text(properties(addresses, **ports, model_store=str(folder / "store"), **extra), encoding="utf-8")
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "PATH": path, "LOG_LOCATION": str(folder)}
    arguments = [str(command), "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        server = Server(addresses=addresses)
        until(lambda: answers(server))
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def recorded(server: Server, case: Case, store: Path) -> dict[str, Record]:
    """Registers the case's model, asks all it has to ask, and removes the model again."""
    archive = build(case.archive, case.name, store)
    manage(server, "POST", f"/models?url={archive}&initial_workers=1&synchronous=true")
    try:
        return run_case(server, case.name, case.steps)
    finally:
        manage(server, "DELETE", f"/models/{case.name}/{case.archive.version}")


def manage(server: Server, method: str, path: str) -> None:
    answer = ask(server, "", Request(label=path, method=method, path=path, listener="management"))
    if answer["status"] != 200:
        raise RuntimeError(f"{method} {path}: {answer['status']} {answer['body']}")


def record_all(command: Path, cases: list[Case]) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for name, extra in SERVERS.items():
        wanted = [case for case in cases if case.server == name]
        if wanted:
            records |= record_with(command, extra, wanted)
    return records


def record_with(command: Path, extra: Mapping[str, str], cases: list[Case]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Path(folder, "store")
        store.mkdir()
        with torchserve(command, Path(folder), extra) as server:
            return {case.name: told(server, case, store) for case in cases}


def told(server: Server, case: Case, store: Path) -> dict[str, Record]:
    print(f"{case.name} ...", end=" ", flush=True)
    records = recorded(server, case, store)
    print(f"{len(records)} answers")
    return records


def versions(command: Path) -> dict[str, str]:
    program = "import importlib.metadata as m; print(m.version('torchserve'), m.version('torch'))"
    found = subprocess.run([command.parent / "python", "-c", program], capture_output=True, text=True, check=True)
    return dict(zip(("torchserve", "torch"), found.stdout.split(), strict=True))


def one_line_an_answer(recorded_with: dict[str, str], cases: dict[str, Any]) -> str:
    """JSON that can be read and compared line by line."""

    def answers(records: dict[str, Record]) -> str:
        lines = (f"   {dumped(label)}: {dumped(record)}" for label, record in records.items())
        return "{\n" + ",\n".join(lines) + "\n  }"

    blocks = ",\n".join(f"  {dumped(name)}: {answers(records)}" for name, records in cases.items())
    return f'{{\n "recorded with": {dumped(recorded_with)},\n "cases": {{\n{blocks}\n }}\n}}\n'


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchserve", type=Path, required=True, help="the torchserve command of its environment")
    parser.add_argument("--only", nargs="+", default=[], help="names of cases")
    options = parser.parse_args()
    command = options.torchserve.absolute()
    old = json.loads(RECORDINGS.read_text(encoding="utf-8"))["cases"] if options.only else {}
    new = record_all(command, [case for case in CASES if not options.only or case.name in options.only])
    cases = {case.name: (old | new)[case.name] for case in CASES if case.name in old | new}
    RECORDINGS.write_text(one_line_an_answer(versions(command), cases), encoding="utf-8")


if __name__ == "__main__":
    main()
