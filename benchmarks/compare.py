"""Compares torchserve-lite with other servers and with what Python and the model allow.

    python -m benchmarks.compare --scenario noop --clients 32,128 --rounds 4
    python -m benchmarks.compare --scenario mnist-png --targets ours,mosec,loop

All targets of a scenario are started at once; the load goes from one to the next in short slots, in reversed order
each round. README.md beside this file tells what it needs, how it measures and why.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes, report
from benchmarks.archives import build_archive
from benchmarks.load import Failed, Generator, load_generator
from benchmarks.rounds import orders
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import Figures, Target, started
from benchmarks.targets import TITLES, Command, Place, command

HERE = Path(__file__).parent
Series = dict[str, Any]  # {"rounds": [Round, ...], "void": {target: reason}}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a scenario is measured."""

    rounds: int
    seconds: float
    warm_up: float
    generator: str
    place: Place


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenario", type=listed, required=True, help=f"of {', '.join(SCENARIOS)}, with commas between"
    )
    parser.add_argument("--targets", type=listed, help=f"of {', '.join(TITLES)}; default: all that a scenario has")
    parser.add_argument("--clients", "--workers", dest="series", type=listed, help="instead of the scenario's own")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in each slot (default 2)")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds of load before a target's first slot")
    parser.add_argument("--batch-delay", type=int, help="ms that a batch waits to fill, instead of the scenario's own")
    parser.add_argument("--load-generator", choices=["auto", "wrk", "own"], default="auto")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="runs torchserve-lite (default: this)"
    )
    parser.add_argument("--servers", type=Path, default=HERE / ".venv-servers", help="the other servers' environment")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of results.json")
    chosen = parser.parse_args()
    for given, known in ((chosen.scenario, SCENARIOS), (chosen.targets or [], TITLES)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{', '.join(unknown)} is not one of {', '.join(known)}.")
    return chosen


def listed(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the with blocks, which end the targets
    generator = load_generator(chosen.load_generator, chosen.seconds)
    for name in chosen.scenario:
        scenario = adapted(SCENARIOS[name], chosen)
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            place = Place(
                python=chosen.python.absolute(),
                servers=chosen.servers.absolute(),
                cache=HERE / ".work",
                folder=Path(folder),
            )
            plan = Plan(
                rounds=chosen.rounds,
                seconds=chosen.seconds,
                warm_up=chosen.warm_up,
                generator=generator,
                place=place,
            )
            say(f"\n{scenario.title}: {', '.join(scenario.targets)}; load from {generator_title(generator)}")
            build_archive(scenario.model, place.cache)
            measured = alone(scenario, plan) if scenario.alone else side_by_side(scenario, plan)
        about = {
            "title": scenario.title,
            "series_name": scenario.series_name,
            "measured": circumstances(plan, scenario),
        }
        section = report.add(chosen.out, name, {**about, "payload": len(scenario.body), "series": measured})
        print("\n".join(report.section_page(section)), flush=True)


def adapted(scenario: Scenario, chosen: argparse.Namespace) -> Scenario:
    """The scenario with what the command line says in place of its own."""
    targets = tuple(name for name in scenario.targets if not chosen.targets or name in chosen.targets)
    series = tuple(int(number) for number in chosen.series or scenario.series)
    delay = scenario.batch_delay if chosen.batch_delay is None else chosen.batch_delay
    return replace(scenario, targets=targets, series=series, batch_delay=delay)


def circumstances(plan: Plan, scenario: Scenario) -> str:
    """Where, when and how, in a sentence: sections may come from different runs."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    cores = len(psutil.Process().cpu_affinity() or [])
    torch, aiohttp = importlib.metadata.version("torch"), importlib.metadata.version("aiohttp")
    machine = f"{cores} cores of {cpu.partition(':')[2].strip() or platform.machine()}"
    versions = f"Python {platform.python_version()}, torch {torch}, aiohttp {aiohttp}"
    slots = "" if scenario.alone else f" of {plan.seconds:g} s after {plan.warm_up:g} s of warm-up"
    batches = f"batches wait {scenario.batch_delay} ms at most; load from {generator_title(plan.generator)}"
    return f"{datetime.date.today()}, {machine}, {versions}; {plan.rounds} rounds{slots}; {batches}."


def generator_title(generator: str) -> str:
    return "wrk, one thread" if generator == "wrk" else "our own client (benchmarks/client.py)"


# --- side by side: all targets stay up, one at a time gets requests --------------------------------------------------


def side_by_side(scenario: Scenario, plan: Plan) -> dict[str, Series]:
    generator = Generator(name=plan.generator, scenario=scenario, folder=plan.place.folder)
    measured: dict[str, Series] = {}
    with ExitStack() as stack:
        up, failed = all_started(scenario, plan.place, stack)
        warm_up = plan.warm_up
        for clients in scenario.series:
            say(f"  {clients} {scenario.series_name}")
            measured[str(clients)] = one_series(up, failed, clients, generator, plan, warm_up)
            warm_up = min(warm_up, 1.0)  # what is warm stays warm; other batch sizes and connections need a moment
    return measured


def all_started(scenario: Scenario, place: Place, stack: ExitStack) -> tuple[dict[str, Target], dict[str, str]]:
    """All targets, started together, that gave a right answer, and why the others did not."""
    launched: dict[str, Target] = {}
    up: dict[str, Target] = {}
    failed: dict[str, str] = {}
    for name in scenario.targets:
        with noting_failure(name, failed):
            launched[name] = stack.enter_context(launch(name, scenario, place))
    for name, target in launched.items():
        with noting_failure(name, failed):
            target.first_answer()
            up[name] = target
    return up, failed


@contextlib.contextmanager
def launch(name: str, scenario: Scenario, place: Place) -> Iterator[Target]:
    folder = place.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own: Command = command(name, scenario, replace(place, folder=folder))
    if not Path(own.arguments[0]).exists():
        raise Failed(f"{own.arguments[0]} does not exist. README.md tells how to make the other servers' environment.")
    with started(own, scenario, folder) as target:
        yield target


@contextlib.contextmanager
def noting_failure(name: str, failed: dict[str, str]) -> Iterator[None]:
    """A target that fails is told of, loudly, and the others go on."""
    try:
        yield
    except (Failed, OSError, subprocess.SubprocessError) as error:
        failed[name] = str(error)
        say(f"  !!! {TITLES[name]} FAILED: {error}")


def one_series(
    up: dict[str, Target], failed: dict[str, str], clients: int, generator: Generator, plan: Plan, warm_up: float
) -> Series:
    """All rounds with one number of clients. What failed once has no figures here, not even those before."""
    void = dict(failed)
    rounds: list[dict[str, Figures]] = []
    idle = {name: processes.proportional_memory(target.pid) for name, target in up.items()}
    for name, target in up.items():
        if warm_up:
            with noting_failure(name, void):
                target.drive(generator, clients, max(1.0, round(warm_up)))
                processes.wait_until_idle(target.pid)
    for order in orders(tuple(up), plan.rounds):
        rounds.append({})
        for name in order:
            if name not in void:
                with noting_failure(name, void):
                    rounds[-1][name] = one_slot(up[name], generator, clients, plan.seconds, idle[name])
        told = (f"{name} {figures['rate']:,.0f}/s" for name, figures in rounds[-1].items())
        say(f"    round {len(rounds)}: {', '.join(told)}")
    return {"rounds": [without(one, void) for one in rounds], "void": void}


def without(one: dict[str, Figures], void: dict[str, str]) -> dict[str, Figures]:
    return {name: figures for name, figures in one.items() if name not in void}


def one_slot(target: Target, generator: Generator, clients: int, seconds: float, idle: int) -> Figures:
    if not target.scenario.peak_memory:
        figures = target.drive(generator, clients, seconds)
    else:
        with processes.PeakMemory(target.pid) as memory:
            figures = target.drive(generator, clients, seconds)
        in_flight = clients * len(target.scenario.body)
        figures |= {"peak_memory": memory.bytes, "peak_payloads": max(0, memory.bytes - idle) / in_flight}
    processes.wait_until_idle(target.pid)
    return figures


# --- alone: each target by itself, so that its start has the cores and its memory is shared with nobody ---------------


def alone(scenario: Scenario, plan: Plan) -> dict[str, Series]:
    measured: dict[str, Series] = {}
    for number in scenario.series:
        say(f"  {number} {scenario.series_name}")
        void: dict[str, str] = {}
        rounds: list[dict[str, Figures]] = []
        beside = () if scenario.idle else ("import torch",)
        for order in orders((*beside, *scenario.targets), plan.rounds):
            rounds.append({})
            for name in order:
                if name not in void:
                    with noting_failure(name, void):
                        if scenario.idle:
                            rounds[-1][name] = one_crowd(name, scenario, number, plan)
                        else:
                            rounds[-1][name] = one_start(name, replace(scenario, workers=number), plan)
                        say(f"    {name}: {rounds[-1][name]}")
        measured[str(number)] = {"rounds": [without(one, void) for one in rounds], "void": void}
    return measured


def one_start(name: str, scenario: Scenario, plan: Plan) -> Figures:
    """Seconds to the first answer; memory once load has reached every worker; seconds for one more worker."""
    if name == "import torch":
        began = time.monotonic()
        subprocess.run([plan.place.python, "-c", "import torch"], check=True)
        return {"start_seconds": time.monotonic() - began}
    generator = Generator(name=plan.generator, scenario=scenario, folder=plan.place.folder)
    with launch(name, scenario, plan.place) as target:
        figures = {"start_seconds": target.first_answer()}
        target.drive(generator, 4 * scenario.workers, max(2.0, plan.seconds))
        figures["memory"] = processes.proportional_memory(target.pid)
        if target.command.management_port:
            figures["scale_up_seconds"] = target.scale(scenario.workers + 1)
        return figures


def one_crowd(name: str, scenario: Scenario, connections: int, plan: Plan) -> Figures:
    """Memory of the whole tree for each connection that is kept and idle. Load comes before, so that what a server
    takes for its first requests is not counted among it."""
    generator = Generator(name=plan.generator, scenario=scenario, folder=plan.place.folder)
    with launch(name, scenario, plan.place) as target:
        target.first_answer()
        target.drive(generator, 32, max(2.0, plan.seconds))
        processes.wait_until_idle(target.pid)
        before = processes.proportional_memory(target.pid)
        with target.kept_connections(connections):
            processes.wait_until_idle(target.pid)
            after = processes.proportional_memory(target.pid)
    return {"connection_memory": max(0, after - before) / connections}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
