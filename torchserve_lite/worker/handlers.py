"""Loading a handler: TorchServe's ``ts`` package made importable, the entry point found, the model initialised.

The only place that knows ``compat``. From then on it is ``ts``, as handlers know it: importing it by its long name
would make a second copy of each class.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from torchserve_lite.archive.config_message import from_message
from torchserve_lite.compat import install as install
from torchserve_lite.core.metrics import MetricDefinition
from torchserve_lite.core.models import Signature
from torchserve_lite.ipc.messages import Load

MetricSink = Callable[[str, str, str, float, list[tuple[str, str]], str], None]
StageMark = Callable[[str, int], None]

_importing = threading.Lock()  # in threads of the server, one must not forget what another is importing


@dataclass(frozen=True, slots=True)
class Handler:
    """A loaded handler: call ``entry_point(rows, context)``."""

    entry_point: Callable[[list[Any], Any], Any]
    context: Any  # ts.context.Context

    @property
    def is_async(self) -> bool:
        """Its requests run concurrently, on one event loop."""
        return inspect.iscoroutinefunction(self.entry_point) or inspect.isasyncgenfunction(self.entry_point)


def load_handler(load: Load, metric_sink: MetricSink, mark_stage: StageMark, *, own_process: bool) -> Handler:
    """Whatever the handler raises while it is imported or initialised comes out unchanged."""
    install()
    context = _context(load, metric_sink, mark_stage)
    from ts.model_loader import find_entry_point

    with _importing:
        _extend_path(load, own_process)
        entry_point, initialize = find_entry_point(load.spec.handler)
    begun = initialize(context)
    if inspect.isawaitable(begun):  # a module-level ``async def`` is its own initialiser
        asyncio.get_event_loop().run_until_complete(begun)
    return Handler(entry_point, context)


class Envelopes:
    """Makes a fresh envelope (``ts.torch_handler.request_envelope``) for each request, by name."""

    def __init__(self, v2_output_names: str, signature: Signature | None = None) -> None:
        self._v2_output_names = v2_output_names
        self._signature = signature
        self._learned: dict[tuple[str, ...], bool] = {}
        self._classes: dict[str, Any] = {}

    def new(self, name: str) -> Any:
        return self.find(name)(None)

    def find(self, name: str) -> Any:
        """The class of that name."""
        envelope = self._classes.get(name)
        if envelope is None:
            from ts.model_loader import find_envelope

            v2 = find_envelope("kservev2")  # V1 routes answer V2 bodies, too
            v2.output_names, v2.signature, v2.learned = self._v2_output_names, self._signature, self._learned
            envelope = self._classes[name] = find_envelope(name)
        return envelope


def _extend_path(load: Load, own_process: bool) -> None:
    sys.path[:0] = load.python_path
    _forget_what_the_model_brings(load.python_path)  # in a thread of the server: what it brought before it was changed
    if own_process:
        # Programs that the handler starts should find the same modules.
        known = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
        os.environ["PYTHONPATH"] = os.pathsep.join([*load.python_path, *known])


def _forget_what_the_model_brings(folders: Sequence[str]) -> None:
    """Packages that we have imported for ourselves, and that its handler is to find in its own version. What we have
    bound stays with us. The standard library is not replaced: half of it is in use already."""
    loaded = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    for package in loaded - {"__main__", "torchserve_lite", "ts"}:
        brought = PathFinder.find_spec(package, folders)
        if brought is not None and brought.loader is not None:
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                del sys.modules[name]


def _context(load: Load, metric_sink: MetricSink, mark_stage: StageMark) -> Any:
    from ts.context import Context
    from ts.metrics.caching_metric import emit_to
    from ts.version import __version__

    emit_to(metric_sink)
    metrics = metrics_cache(load.spec.key.name, load.metrics)
    context = Context(
        load.spec.key.name,
        load.model_dir,
        None if load.spec.manifest is None else dict(load.spec.manifest),
        load.spec.batch.size,
        load.gpu_id,
        __version__,
        load.limit_max_image_pixels,
        metrics,
        from_message(load.spec.model_config),
    )
    context.header_key_sequence_id = load.sequence_headers.id
    context.header_key_sequence_start = load.sequence_headers.start
    context.header_key_sequence_end = load.sequence_headers.end
    context.model_version = load.spec.key.version
    context.mark_stage = mark_stage
    return context


def metrics_cache(model_name: str, definitions: Iterable[MetricDefinition]) -> Any:
    """``context.metrics`` as a handler finds it when it loads. What its file says has been checked at the start."""
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.metrics.metric_type_enum import MetricTypes

    cache = MetricsCacheYamlImpl()
    cache.model_name = model_name
    for metric in definitions:
        cache.add_metric_to_cache(metric.name, metric.unit, metric.dimensions, MetricTypes(metric.kind))
    return cache
