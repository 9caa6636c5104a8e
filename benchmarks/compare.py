"""Compares torchserve-lite with the real TorchServe 0.12, a bare aiohttp echo and the model in a plain loop.

    python benchmarks/compare.py                      everything, about 40 minutes
    python benchmarks/compare.py --only noop32 --rounds 3 --seconds 4

Needs wrk, a Java of version 17 and, for the plot, matplotlib. TorchServe is installed into
``benchmarks/.venv-torchserve`` when ``--torchserve-venv`` names no other environment. README.md beside this file tells
how it measures and why.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import processes
import psutil
import report
from archives import SOURCES, build_archives, unpack
from load import drive, write_script
from scenarios import SCENARIOS, SERVERS, Scenario
from servers import TITLES, Running, Setting, running, scale

HERE = Path(__file__).parent
STARTUP = "startup"
STARTUP_SCENARIOS = ("noop32", "mnist")
MEMORY_LOAD = 3.0  # seconds of load before memory is read
REPORTED_OPTIONS = ("rounds", "seconds", "warm_up", "starts", "contenders")
Figures = dict[str, Any]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each load scenario (default 7)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of load per server and round (default 8)")
    parser.add_argument(
        "--warm-up", type=float, default=20.0, help="seconds of load before the first round (default 20)"
    )
    parser.add_argument(
        "--starts", type=int, default=5, help="starts of each server, for start-up and memory (default 5)"
    )
    parser.add_argument("--only", nargs="+", choices=[STARTUP, *SCENARIOS], default=[STARTUP, *SCENARIOS])
    parser.add_argument("--contenders", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="runs torchserve-lite (default: this)"
    )
    parser.add_argument(
        "--torchserve-venv", type=Path, default=HERE / ".venv-torchserve", help="reused when it is there"
    )
    parser.add_argument("--batch-delay", type=int, help="maxBatchDelay in ms instead of the scenarios' own")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of results.json, .md and .png")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the with blocks, which end the servers
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as work:
        venv = torchserve_environment(chosen.torchserve_venv)
        setting = Setting(python=chosen.python.absolute(), torchserve=venv / "bin" / "torchserve", work=Path(work))
        build_archives(setting.store)
        results = {"machine": machine(), "options": {name: vars(chosen)[name] for name in REPORTED_OPTIONS}}
        for section in chosen.only:
            results[section] = measured(section, chosen, setting)
            report.write(results, chosen.out)
    print((chosen.out / "results.md").read_text())


def require_wrk() -> None:
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed. On Debian and Ubuntu: apt-get install wrk")


def torchserve_environment(venv: Path) -> Path:
    """The real TorchServe with the torch version that we run on."""
    venv = venv.absolute()
    if not (venv / "bin" / "torchserve").exists():
        say(f"Installing TorchServe into {venv} ...")
        torch = importlib.metadata.version("torch").split("+")[0]
        packages = ["torchserve==0.12.0", f"torch=={torch}", "captum", "numpy", "pillow", "psutil", "pyyaml"]
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return venv


def machine() -> Figures:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    return {
        "cpu": model.partition(":")[2].strip() or platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "aiohttp": importlib.metadata.version("aiohttp"),
        "java": java,
        "kernel": platform.release(),
    }


def measured(section: str, chosen: argparse.Namespace, setting: Setting) -> Figures:
    if section != STARTUP:
        return under_load(adapted(SCENARIOS[section], chosen), chosen, setting)
    return {name: alone(adapted(SCENARIOS[name], chosen), chosen, setting) for name in STARTUP_SCENARIOS}


def adapted(scenario: Scenario, chosen: argparse.Namespace) -> Scenario:
    contenders = tuple(name for name in scenario.contenders if name in chosen.contenders)
    delay = scenario.batch_delay if chosen.batch_delay is None else chosen.batch_delay
    return replace(scenario, contenders=contenders, batch_delay=delay)


# --- under load: all servers stay up, one at a time gets requests -----------------------------------------------------


def under_load(scenario: Scenario, chosen: argparse.Namespace, setting: Setting) -> Figures:
    script = write_script(scenario, setting.work)
    rounds: dict[str, list[Figures]] = {name: [] for name in scenario.contenders}
    with ExitStack() as stack:
        say(f"{scenario.title}: starting {', '.join(scenario.contenders)}")
        up = {n: stack.enter_context(running(n, scenario, setting)) for n in scenario.contenders if n != "ceiling"}
        for server in up.values():
            if chosen.warm_up:
                drive(server.url, script, scenario.clients, chosen.warm_up)
        for name in in_turns(scenario.contenders, chosen.rounds):
            figures = one_round(name, up, scenario, script, chosen.seconds, setting)
            rounds[name].append(figures)
            say(f"  {TITLES[name]:36} {figures['rate']:9.0f} req/s")
    return {"title": scenario.title, "batch_delay_ms": scenario.batch_delay, "rounds": rounds}


def in_turns(contenders: tuple[str, ...], rounds: int) -> Iterator[str]:
    """ABC, BCA, CAB, ...: nobody always comes after the same neighbour or when the machine is warmest."""
    for number in range(rounds):
        first = number % len(contenders)
        yield from contenders[first:] + contenders[:first]


def one_round(
    name: str, up: dict[str, Running], scenario: Scenario, script: Path, seconds: float, setting: Setting
) -> Figures:
    if name == "ceiling":
        return plain_loop(scenario, setting, scenario.workers, seconds)
    server = up[name]
    used = {other: processes.cpu_seconds(other.pid) for other in up.values()}
    load = drive(server.url, script, scenario.clients, seconds)
    spent = {other: processes.cpu_seconds(other.pid) - before for other, before in used.items()}
    others = sum(seconds for other, seconds in spent.items() if other is not server)
    cpu = spent[server] / load.requests
    return {**asdict(load), "rate": load.rate, "cpu_seconds": cpu, "cores_of_idle_servers": others / load.seconds}


def plain_loop(scenario: Scenario, setting: Setting, workers: int, seconds: float) -> Figures:
    folder = unpack(setting.store, scenario.model, setting.work / f"{scenario.model}-unpacked")
    body = setting.work / f"{scenario.name}.body"
    body.write_bytes(scenario.body)
    sizes = ["--workers", str(workers), "--batch", str(scenario.batch_size), "--seconds", str(seconds)]
    handler = SOURCES[scenario.model].handler.removesuffix(".py")
    arguments = [HERE / "ceiling.py", folder, "--handler", handler, "--body", body, *sizes]
    command = [str(setting.python), *map(str, arguments)]
    figures: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=HERE.parent).stdout)
    return figures


# --- alone: each server by itself, so that start-up has the cores and memory is shared with nobody --------------------


def alone(scenario: Scenario, chosen: argparse.Namespace, setting: Setting) -> Figures:
    script = write_script(scenario, setting.work)
    takes: dict[str, Callable[[], Figures]] = {"import torch": lambda: {"seconds": import_torch(setting)}}
    for name in SERVERS:
        if name in scenario.contenders:
            takes[name] = partial(one_start, name, scenario, script, setting)
    starts: dict[str, list[Figures]] = {name: [] for name in takes}
    for name in in_turns(tuple(takes), chosen.starts):
        starts[name].append(takes[name]())
        say(f"  {scenario.model} {name:16} {starts[name][-1]}")
    loads = [plain_loop(scenario, setting, 1, 0.1)["load_seconds"] for _ in range(chosen.starts)]
    return {"model": scenario.model, "starts": starts, "model_load_seconds": statistics.median(loads)}


def import_torch(setting: Setting) -> float:
    began = time.monotonic()
    subprocess.run([setting.python, "-c", "import torch"], check=True)
    return time.monotonic() - began


def one_start(name: str, scenario: Scenario, script: Path, setting: Setting) -> Figures:
    with running(name, scenario, setting) as server:
        drive(server.url, script, scenario.clients, MEMORY_LOAD)
        memory = processes.proportional_memory(server.pid)
        scale_up = scale(server, scenario.model, scenario.workers + 1)
        return {"seconds": server.start_seconds, "memory": memory, "scale_up_seconds": scale_up}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
