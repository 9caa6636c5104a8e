"""What happened between two looks at a server's metrics, for each model version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torchserve_lite.telemetry.rates import Figures, Totals, Version, figures, since

_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Look:
    """A metrics page, and when it was read (seconds of a clock that does not go back)."""

    at: float
    page: str

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for line in self.page.splitlines():
            if (found := _SAMPLE.fullmatch(line)) and line.startswith("ts_"):
                labels = {name: _unescaped(text) for name, text in _LABEL.findall(found["labels"] or "")}
                yield found["name"], labels, float(found["value"])


def between(before: Look, now: Look) -> dict[Version, Figures]:
    earlier, later = _totals(before), _totals(now)
    seconds = max(now.at - before.at, 1e-9)
    return {
        version: figures(since(earlier.get(version, Totals()), totals), seconds)
        for version, totals in sorted(later.items())
    }


def server_memory(look: Look) -> float:
    return sum(
        value
        for name, labels, value in look.samples()
        if name == "ts_process_memory_bytes" and not labels.get("model_name")
    )


def _totals(look: Look) -> dict[Version, Totals]:
    found: dict[Version, Totals] = {}
    for name, labels, value in look.samples():
        version = labels.get("model_name", ""), labels.get("model_version", "")
        if not version[0]:
            continue
        totals = found.setdefault(version, Totals())
        if name == "ts_inference_seconds_bucket":
            totals.buckets[float(labels["le"])] = value
        elif name == "ts_inference_seconds_count":
            totals.answered = value
        elif name == "ts_inference_errors_total":
            totals.errors += value
        elif name == "ts_batch_size_count":
            totals.batches = value
        elif name == "ts_batch_size_sum":
            totals.batched = value
        elif name == "ts_queue_length":
            totals.queued = int(value)
        elif name == "ts_running_requests":
            totals.running = int(value)
        elif name == "ts_workers":
            totals.workers[labels["state"]] = int(value)
        elif name == "ts_process_memory_bytes":
            totals.memory += value
    return {version: totals for version, totals in found.items() if totals.workers}


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
