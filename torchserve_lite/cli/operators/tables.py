"""What a server serves, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchserve_lite.cli.operators.client import Described, ServedModel
from torchserve_lite.ipc.log_lines import printable
from torchserve_lite.telemetry.rates import Figures, Version

WIDE = 1000  # columns, where nobody's window ends a line
_STYLES = {"ready": "green", "no workers": "dim", "failed": "red"}


def models_table(models: Sequence[ServedModel]) -> Table:
    """One line a version."""
    table = _table("model", "version", "default", "workers", "batch", "device", "status", "queue")
    for model in models:
        if model.trouble:
            table.add_row(_cell(model.name), "", "", "", "", "", Text(printable(model.trouble), "red"), "")
        for described in model.versions:
            workers, queue = described["workers"], described["jobQueueStatus"]
            ready = sum(worker["status"] == "READY" for worker in workers)
            waiting = queue["pendingRequests"]
            table.add_row(
                _cell(model.name),
                _cell(described["modelVersion"]),
                "yes" if described["modelVersion"] == model.default else "",
                f"{ready}/{len(workers)} ({described['minWorkers']}-{described['maxWorkers']})",
                f"{described['batchSize']}, {described['maxBatchDelay']} ms",
                _cell(described["deviceType"]),
                _state_cell(_version_state(workers)),
                f"{waiting}/{waiting + queue['remainingCapacity']}",
            )
    return table


def workers_table(models: Sequence[ServedModel]) -> Table:
    """One line a worker, of all models."""
    table = _table("worker", "model", "pid", "state", "memory", "since", "last failure")
    for model in models:
        for described in model.versions:
            for worker in described["workers"]:
                table.add_row(
                    _cell(worker["id"]),
                    _cell(f"{model.name} {described['modelVersion']}"),
                    _cell(worker["pid"] if worker["pid"] != -1 else "-"),
                    _state_cell(_worker_state(worker)),
                    f"{worker['memoryUsage'] / 2**20:.0f} MiB",
                    _cell(worker["startTime"]),
                    _cell(worker.get("lastFailure", "")),
                )
    return table


def model_details(model: ServedModel) -> RenderableType:
    """The versions of one model, and the archive and the workers of each."""
    return Group(models_table([model]), *(part for described in model.versions for part in _workers(described)))


def figures_table(figures: Mapping[Version, Figures]) -> Table:
    """What each version is doing."""
    table = _table(
        "model", "version", "req/s", "errors/s", "p50", "p95", "p99", "queue", "running", "batch", "workers", "memory"
    )
    for (name, version), shown in figures.items():
        latencies = shown.latencies or (None, None, None)
        table.add_row(
            _cell(name),
            _cell(version),
            f"{shown.rate:.1f}",
            Text(f"{shown.errors:.1f}", "red" if shown.errors else ""),
            *("-" if latency is None else f"{latency * 1000:.1f} ms" for latency in latencies),
            str(shown.queued),
            str(shown.running),
            "-" if shown.batch_size is None else f"{shown.batch_size:.1f}",
            Text(
                ", ".join(f"{number} {state}" for state, number in shown.workers.items()) or "none",
                "green" if set(shown.workers) == {"ready"} else "yellow",
            ),
            f"{shown.memory / 2**20:.0f} MiB",
        )
    return table


def _workers(described: Described) -> Iterator[RenderableType]:
    title = f"{described['modelName']} {described['modelVersion']}, from {described.get('modelUrl', 'a workflow')}"
    yield Text(f"\n{printable(title)}")
    if not described["workers"]:
        return
    failures = [str(worker.get("lastFailure", "")) for worker in described["workers"]]
    table = _table("worker", "pid", "state", "memory", "gpu", "since", *(["last failure"] if any(failures) else []))
    for worker, failure in zip(described["workers"], failures, strict=True):
        table.add_row(
            _cell(worker["id"]),
            _cell(worker["pid"] if worker["pid"] != -1 else "-"),
            _state_cell(_worker_state(worker)),
            f"{worker['memoryUsage'] / 2**20:.0f} MiB",
            _cell(worker["gpuUsage"] if worker["gpu"] else "-"),
            _cell(worker["startTime"]),
            *([_cell(failure)] if any(failures) else []),
        )
    yield table


def _version_state(workers: Sequence[Mapping[str, Any]]) -> str:
    """What its workers are at, in so few words."""
    states = {_worker_state(worker) for worker in workers}
    return ", ".join(sorted(states)) or "no workers"


def _worker_state(worker: Mapping[str, Any]) -> str:
    """``state`` is ours; TorchServe itself knows READY, and one word for everything else."""
    return str(worker.get("state", worker["status"])).lower()


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _state_cell(state: str) -> Text:
    return Text(printable(state), style=_STYLES.get(state, "yellow"))


def _cell(value: object) -> Text:
    """As Text: names are no markup."""
    return Text(printable(str(value)))
