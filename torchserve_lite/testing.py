"""For the unit tests of handlers: a context in a line, and a handler loaded as a worker loads it.

from torchserve_lite import testing

handler = testing.load("my_handler.py", model_dir="my_model")
assert handler([{"data": b"..."}]) == [7]
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchserve_lite import compat
from torchserve_lite.config.metrics_file import read_metrics_file
from torchserve_lite.core.metrics import MODEL_METRICS
from torchserve_lite.worker.handlers import Envelopes, metrics_cache
from torchserve_lite.worker.pieces import KeptPieces
from torchserve_lite.worker.streaming import comes_in_steps

EntryPoint = Callable[[list[Any], Any], Any]


def context(
    model_dir: str | Path = ".",
    *,
    manifest: Mapping[str, Any] | None = None,
    model_yaml_config: Mapping[str, Any] | None = None,
    model_name: str = "model",
    gpu_id: int | None = None,
    batch_size: int = 1,
    requests: int = 1,
    headers: Mapping[str, str] | None = None,
    explain: bool = False,
    metrics_config: str | Path | None = None,
) -> Any:
    """A ``ts.context.Context`` with ``requests`` requests waiting, each with these ``headers``.

    What is not given is read from the model directory: its ``MAR-INF/MANIFEST.json`` and the YAML file named there.
    ``metrics_config`` is a metrics.yaml as the server's, whose metrics the handler finds.
    """
    compat.install()
    from ts.context import Context
    from ts.version import __version__

    folder = Path(model_dir).resolve()
    facts = dict(manifest) if manifest is not None else _manifest(folder, model_name)
    config = dict(model_yaml_config) if model_yaml_config is not None else _model_config(folder, facts)
    metrics = metrics_cache(model_name, read_metrics_file(Path(metrics_config))[1] if metrics_config else MODEL_METRICS)
    made = Context(model_name, str(folder), facts, batch_size, gpu_id, __version__, True, metrics, config)
    expect(made, requests, headers, explain=explain)
    return made


def expect(context: Any, requests: int, headers: Mapping[str, str] | None = None, *, explain: bool = False) -> None:
    """Put ``requests`` fresh requests on a context, as the worker does before each batch."""
    from ts.context import RequestHeaders, RequestProcessor

    sent = {**(headers or {}), "explain": str(explain)}
    context.request_ids = {index: f"request-{index}" for index in range(requests)}
    context.request_processor = [RequestProcessor(RequestHeaders(sent)) for _ in range(requests)]
    context.metrics.set_request_ids(context.request_ids)


def load(
    handler: str | Path,
    model_dir: str | Path | None = None,
    *,
    service_envelope: str = "",
    **facts: Any,
) -> LoadedHandler:
    """Find the entry point of ``handler`` (a file, ``file.py:function`` or a built-in name) and initialise it.

    ``model_dir`` is the handler's own folder unless it is given; ``facts`` are those of ``context``. With a
    ``service_envelope`` (body, json, kserve, kservev2) it is called with whole bodies, one a request, and its results
    come wrapped as they are sent.
    """
    folder = Path(model_dir if model_dir is not None else Path(handler).parent).resolve()
    made = context(folder, **facts)
    from ts.model_loader import find_entry_point

    with _inside(folder, Path(handler).parent.resolve()):
        sys.modules.pop(Path(handler).name.partition(":")[0].removesuffix(".py"), None)  # another model's handler.py
        importlib.invalidate_caches()
        entry, initialize = find_entry_point(str(handler))
        made.request_ids = made.request_processor = None  # as in a worker: while a model loads, there is no request
        _finished(initialize(made))

    loaded = LoadedHandler(entry, made, folder)
    if service_envelope:
        loaded.put_into(Envelopes("predict").find(service_envelope))
    return loaded


class LoadedHandler:
    """Call it with the requests of a batch. ``context`` holds what the handler set on the answers (status, headers),
    ``sent`` the pieces that it streamed before its result, with the helper or from a generator, as ``(index of the
    request, value)``. ``entry_point`` is the handler's own function or method, which is called without an envelope."""

    def __init__(self, entry_point: EntryPoint, context: Any, folder: Path) -> None:
        self.entry_point = entry_point
        self._answer: EntryPoint = self._call
        self._one_document = False
        self._kept: dict[int, KeptPieces] = {}  # by row
        self._folder = folder
        self.context = context
        self.sent: list[tuple[int, Any]] = []
        context.send = self._send

    def __call__(self, data: Sequence[Any], *, headers: Mapping[str, str] | None = None, explain: bool = False) -> Any:
        self.sent.clear()
        expect(self.context, len(data), headers, explain=explain)
        self._requests = list(self.context.request_ids.values())
        with _inside(self._folder):
            return self._answer(list(data), self.context)

    def put_into(self, envelope: Any) -> None:
        """Calls come with whole bodies from now on. ``envelope``: its class."""
        self._answer = envelope(self._call).handle
        self._one_document = envelope.one_document

    def _call(self, data: list[Any], context: Any) -> Any:
        self._kept = {}
        results = _finished(self.entry_point(data, context))
        if not isinstance(results, list):
            return results
        return [self._whole(row, result) for row, result in enumerate(results)]

    def _whole(self, row: int, result: Any) -> Any:
        """With the pieces before it, where the answer is one document."""
        if comes_in_steps(result):
            for piece in _pieces_of(result):
                self._send(row, piece)
            result = ""
        return self._kept[row].whole(result) if row in self._kept else result

    def _send(self, row: int, value: Any, request_id: str = "") -> None:
        """An envelope may have made several rows of a request."""
        self.sent.append((self._requests.index(self.context.request_ids[row]), value))
        if self._one_document:
            self._kept.setdefault(row, KeptPieces()).add(value, 0, 0)


def _pieces_of(result: Any) -> list[Any]:
    if not hasattr(type(result), "__anext__"):
        return list(result)

    async def collect() -> list[Any]:
        return [piece async for piece in result]

    return asyncio.run(collect())


def _finished(result: Any) -> Any:
    """What a coroutine of an async handler comes to; any other result itself."""
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@contextlib.contextmanager
def _inside(*folders: Path) -> Iterator[None]:
    """Working directory and module search as in a worker: the model directory comes first in both."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        with contextlib.chdir(folders[0]):
            yield
    finally:
        sys.path[:] = before


def _manifest(folder: Path, model_name: str) -> dict[str, Any]:
    path = folder / "MAR-INF" / "MANIFEST.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {"model": {"modelName": model_name, "modelVersion": "1.0"}}


def _model_config(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    from ts.utils.util import get_yaml_config

    name = manifest.get("model", {}).get("configFile")
    return dict(get_yaml_config(folder / name)) if name else {}
