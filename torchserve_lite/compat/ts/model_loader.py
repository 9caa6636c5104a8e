"""From the ``handler`` of a manifest to something to call: TorchServe's rules for finding the entry point."""

from __future__ import annotations

import importlib
import json
import os
import uuid
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ts.context import Context
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.service import Service
from ts.utils.util import list_classes_from_module

__all__ = [
    "ModelLoader",
    "ModelLoaderFactory",
    "TsModelLoader",
    "find_entry_point",
    "find_envelope",
    "list_classes_from_module",
]

EntryPoint = Callable[[list[Any] | None, Context], Any]
Initialize = Callable[[Context], Any]

_BUILT_IN = "ts.torch_handler"
_ENVELOPES = "ts.torch_handler.request_envelope"


def find_entry_point(handler: str) -> tuple[EntryPoint, Initialize]:
    """The callable that answers a batch, and the one that loads the model first.

    ``handler`` is ``module``, ``module.py``, ``path/module`` or any of these with ``:function``. A module of the model
    directory comes before a built-in handler of the same name. A module-level function (``handle``, unless another is
    named) comes before a class; without one, the module must define a class that can be taken for the handler.
    """
    path, _, function = handler.partition(":")
    module = _load_module(path.rsplit("/", 1)[-1].removesuffix(".py"))
    entry = getattr(module, function or "handle", None)
    if entry is None:
        return _instance_of(_handler_class(module))
    if isinstance(entry, type):
        return _instance_of(entry)
    return entry, lambda context: entry(None, context)


def find_envelope(name: str) -> type[Any]:
    """The class of a ``service_envelope``: the first one its module defines, in alphabetical order."""
    module = importlib.import_module(f"{_ENVELOPES}.{name}")
    return list_classes_from_module(module)[0]


def _load_module(name: str) -> ModuleType:
    module = _import_if_there(name) or _import_if_there(f"{_BUILT_IN}.{name}")
    if module is None:
        raise ModuleNotFoundError(
            f"No handler module {name!r}: there is no {name}.py in the model directory, and no built-in handler "
            "of that name. Check 'handler' in MAR-INF/MANIFEST.json."  # no name=: no package is missing
        )
    return module


def _import_if_there(name: str) -> ModuleType | None:
    """None when there is no such module. A module that is there and lacks a dependency raises its own error."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _handler_class(module: ModuleType) -> type:
    """The one class of the module; of several, the one that can handle requests.

    TorchServe stops where there are several. Here an exception, a dataclass or a network may stand beside the handler:
    a handler has a method ``handle``, and of two that have one, the one built on BaseHandler is meant. A class that
    another of them extends is not a handler of its own. ``inspect`` goes by the same rule.
    """
    classes = list_classes_from_module(module)
    if len(classes) == 1:
        return classes[0]
    able = [
        cls for cls in classes if callable(getattr(cls, "handle", None)) and not getattr(cls, "_is_protocol", False)
    ]
    able = [cls for cls in able if not any(other is not cls and issubclass(other, cls) for other in able)]
    if len(able) > 1:
        able = [cls for cls in able if any(base.__name__ == "BaseHandler" for base in cls.__mro__)] or able
    if len(able) == 1:
        return able[0]
    names = ", ".join(cls.__name__ for cls in able or classes) or "none"
    module_name = module.__name__.rpartition(".")[2]
    raise ValueError(
        f"Expected only one class in custom service code or a function entry point. {module_name}.py has "
        f"{len(able or classes)} classes that could be the handler ({names}). "
        f"Name one in the manifest's handler: {module_name}.py:ClassName"
    )


def _instance_of(handler_class: type) -> tuple[EntryPoint, Initialize]:
    handler = handler_class()
    if not callable(getattr(handler, "handle", None)):
        raise ValueError(f"Expect handle method in class {handler_class}")
    return handler.handle, handler.initialize


class ModelLoaderFactory:
    @staticmethod
    def get_model_loader() -> ModelLoader:
        return TsModelLoader()


class ModelLoader(metaclass=ABCMeta):
    @abstractmethod
    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str | None = None,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool | None = True,
    ) -> Service:
        """Load the model of ``model_dir``."""


class TsModelLoader(ModelLoader):
    """Loads a model in this process, ready to be called through ``service._entry_point``."""

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str | None = None,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool | None = True,
        metrics_cache: MetricsCacheYamlImpl | None = None,
    ) -> Service:
        metrics = metrics_cache or MetricsCacheYamlImpl()
        metrics.set_request_ids(str(uuid.uuid4()))
        metrics.model_name = model_name
        manifest = _read_manifest(model_dir)
        if not handler:
            if manifest is None:
                raise ValueError(f"No handler is given, and {model_dir} has no MAR-INF/MANIFEST.json that names one.")
            handler = manifest["model"]["handler"]
        entry, initialize = find_entry_point(handler)
        if envelope:
            entry = find_envelope(envelope)(entry).handle
        service = Service(model_name, model_dir, manifest, entry, gpu_id, batch_size, limit_max_image_pixels, metrics)
        initialize(service.context)
        return service


def _read_manifest(model_dir: str) -> dict[str, Any] | None:
    path = os.path.join(model_dir, "MAR-INF", "MANIFEST.json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        manifest: dict[str, Any] = json.load(file)
    return manifest
