"""What the pages of the console are told: the last minutes at once, and then what is new, once a second.

A tick compares what is counted anyway, so requests cost nothing by it. Only while a page is open are models, workers,
the memory of processes and some requests of each second looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import psutil

from torchserve_lite import __version__
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerStatus
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.core.streams import AnswerStream
from torchserve_lite.errors import ShuttingDown
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import EndedRequest, RequestWatch
from torchserve_lite.telemetry.live_figures import LiveFigures, Sample
from torchserve_lite.telemetry.machine import memory_of
from torchserve_lite.telemetry.rates import Figures
from torchserve_lite.telemetry.recent import Recent, RecentLines, SeenFailure

TICK = 1.0  # seconds
_SAMPLES = 300  # five minutes
_LINES = 500
FAILURES_KEPT = 100
_REQUESTS_PER_TICK = 50
_MEMORY_EVERY = 5  # ticks: to add up the pages of a large process takes milliseconds
_EVENTS = "text/event-stream"


class ConsoleFeed:
    """One for all pages. ``run`` is its clock; without it pages get what there is, and then nothing.

    ``failures``: to which whoever sees a worker fail adds it. ``watch``: of requests, listened to while a page is open.
    """

    def __init__(
        self,
        metrics: ServerMetrics,
        registry: ModelRegistry,
        status: Callable[[ModelKey], ModelStatus],
        failures: Recent[SeenFailure],
        watch: RequestWatch,
        *,
        tokens: bool = False,
        model_api: bool = False,
    ) -> None:
        self.lines = RecentLines(_LINES)
        self._failures = failures
        self._watch = watch
        self._requests = _Requests(watch)
        self._registry = registry
        self._status = status
        self._live = LiveFigures(metrics, lambda: [status(deployment.key) for deployment in registry], _SAMPLES)
        self._server = {"version": __version__, "started": time.time(), "tokens": tokens, "modelApi": model_api}
        self._pages: set[AnswerStream] = set()
        self._closed = False
        self._memory: Mapping[int, float] = {}  # by process
        self._told = _Told()

    async def run(self) -> None:
        """Until it is cancelled; then every page has been told that nothing more comes."""
        ticks = 0
        try:
            while True:
                await asyncio.sleep(TICK)
                sample = self._live.look()
                if self._pages:
                    if ticks % _MEMORY_EVERY == 0:
                        self._memory = await asyncio.to_thread(_memory_of_all, self._processes())
                    ticks += 1
                    self._tell([sample])
                self._listen()
        finally:
            self._closed = True
            for page in self._pages:
                page.end()
            self._pages.clear()
            self._listen()

    async def open(self) -> InferenceResponse:
        """A stream of events: first all that there is, then what is new."""
        if self._closed:
            raise ShuttingDown
        if not self._pages:  # nobody has looked for long
            self._memory = await asyncio.to_thread(_memory_of_all, self._processes())
        self._tell(())  # so that what is new from here on is new for all pages
        page = AnswerStream(lambda: self._pages.discard(page))
        self._pages.add(page)
        self._listen()
        everything = {
            "server": self._server,
            "samples": [_sample_json(sample) for sample in self._live.samples],
            "models": self._models(),
            "memory": self._memory.get(os.getpid(), 0),
            "failures": [asdict(failure) for failure in self._failures.since(0)[0]],
            "lines": [asdict(line) for line in self.lines.lines.since(0)[0]],
        }
        return InferenceResponse(_event(everything), content_type=_EVENTS, stream=page)

    def _listen(self) -> None:
        """To requests only while a page is open: they pay for it."""
        listening = self._requests in self._watch.listeners
        if self._pages and not listening:
            self._watch.listeners.append(self._requests)
        elif listening and not self._pages:
            self._watch.listeners.remove(self._requests)

    def _tell(self, samples: Sequence[Sample]) -> None:
        news: dict[str, Any] = {"memory": self._memory.get(os.getpid(), 0)}
        if samples:
            news["samples"] = [_sample_json(sample) for sample in samples]
        models = self._models()
        if models != self._told.models:
            news["models"] = self._told.models = models
        failures, self._told.failures = self._failures.since(self._told.failures)
        if failures:
            news["failures"] = [asdict(failure) for failure in failures]
        lines, self._told.lines = self.lines.lines.since(self._told.lines)
        if lines:
            news["lines"] = [asdict(line) for line in lines]
        if requests := self._requests.take():
            news["requests"] = [_request_json(request) for request in requests]
        event = _event(news)
        for page in list(self._pages):
            if page.full:  # it does not keep up, and what it missed would be missing: it may come again for everything
                self._pages.discard(page)
                page.end()
            else:
                page.put(event)

    def _models(self) -> Sequence[Mapping[str, Any]]:
        """By name, versions in the order in which they were registered; then those that could not be opened."""
        by_name = [one for name in self._registry.names() for one in self._registry.versions(name)]
        opened = [
            self._version_json(one, self._status(one.key), default=self._registry.is_default(one)) for one in by_name
        ]
        return opened + [_unopened_json(one) for one in self._registry.unopened]

    def _version_json(self, deployment: Deployment, status: ModelStatus, *, default: bool) -> Mapping[str, Any]:
        spec = deployment.spec
        signature = spec.signature.inputs if spec.signature else ()
        return {
            "name": deployment.name,
            "version": spec.key.version,
            "default": default,
            "state": deployment.state.value,
            "cause": str(deployment.failure or status.cause),
            "archive": spec.archive_url,
            "before": deployment.previous.spec.archive_url if deployment.previous else None,
            "candidate": deployment.candidate.spec.archive_url if deployment.candidate else None,
            "workflow": deployment.workflow,
            "handler": spec.handler,
            "runtime": spec.runtime,
            "batchSize": spec.batch.size,
            "maxBatchDelay": spec.batch.delay,
            "responseTimeout": spec.response_timeout,
            "minWorkers": deployment.min_workers,
            "maxWorkers": deployment.max_workers,
            "wanted": status.wanted,
            "queueSize": status.queue_size,
            "inputs": [{"datatype": one.datatype, "shape": one.shape} for one in signature],
            "workers": [self._worker_json(worker) for worker in status.workers],
        }

    def _worker_json(self, worker: WorkerStatus) -> Mapping[str, Any]:
        return {
            "id": worker.id,
            "state": worker.state.lower(),
            "pid": worker.pid,
            "gpu": worker.gpu_id,
            "started": worker.started,
            "memory": self._memory.get(worker.pid, 0) if worker.pid is not None else 0,
            "failures": worker.failures,
            "lastFailure": worker.last_failure,
        }

    def _processes(self) -> Sequence[int]:
        workers = [worker for deployment in self._registry for worker in self._status(deployment.key).workers]
        return [os.getpid(), *(worker.pid for worker in workers if worker.pid is not None)]


class _Requests:
    """The requests that have ended since the last tick, as long as they are few: who is served thousands a second wants
    to see some of them, and have the time for the others. So it listens until it has enough, and from the next tick on
    again."""

    def __init__(self, watch: RequestWatch) -> None:
        self._watch = watch
        self._ended: list[EndedRequest] = []
        self._begun = 0

    def begins(self, request: InferenceRequest) -> bool:
        self._begun += 1
        if self._begun >= _REQUESTS_PER_TICK:
            self._watch.listeners.remove(self)
        return True

    def ended(self, ended: EndedRequest) -> None:
        self._ended.append(ended)

    def take(self) -> Sequence[EndedRequest]:
        taken, self._ended, self._begun = self._ended, [], 0
        return taken


class _Told:
    """What the pages that are open have been told, so that they are told it once."""

    def __init__(self) -> None:
        self.models: Sequence[Mapping[str, Any]] = ()
        self.lines = 0
        self.failures = 0


def _memory_of_all(pids: Sequence[int]) -> Mapping[int, float]:
    return dict(_memories(pids))


def _memories(pids: Sequence[int]) -> Iterator[tuple[int, float]]:
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
            yield pid, memory_of(pid)


def _unopened_json(deployment: Deployment) -> Mapping[str, Any]:
    """An archive that is being read, or could not be: its version is not known."""
    return {
        "name": deployment.name,
        "version": "",
        "state": deployment.state.value,
        "cause": str(deployment.failure or ""),
        "archive": deployment.options.url,
    }


def _request_json(ended: EndedRequest) -> Mapping[str, Any]:
    """Times in seconds."""
    return {
        "id": ended.id,
        "asked": ended.asked,
        "peer": ended.peer,
        "status": ended.status,
        "began": ended.began,
        "seconds": ended.seconds,
        "error": ended.error,
        "runs": [
            {
                "name": run.model.name,
                "version": run.model.version,
                "verb": run.request.verb.value,
                "seconds": run.seconds,
                "queue": run.queue,
                "way": run.way,
                "handler": run.handler,
                "steps": [asdict(step) for step in run.steps],
                "batchSize": run.batch_size,
                "error": run.error,
            }
            for run in ended.runs
        ],
    }


def _sample_json(sample: Sample) -> Mapping[str, Any]:
    models = [
        {"name": name, "version": version, **_figures_json(figures)}
        for (name, version), figures in sample.models.items()
    ]
    return {"at": sample.at, **_figures_json(sample.total), "models": models}


def _figures_json(figures: Figures) -> Mapping[str, Any]:
    """Seconds, and answers a second."""
    return {
        "rate": figures.rate,
        "errors": figures.errors,
        "latencies": figures.latencies,
        "batchSize": figures.batch_size,
        "queued": figures.queued,
        "running": figures.running,
    }


def _event(told: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"
