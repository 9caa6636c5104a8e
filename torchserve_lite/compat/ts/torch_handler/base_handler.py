"""The class that handlers extend: loads a model of any format, then preprocess, inference, postprocess per batch."""

from __future__ import annotations

import abc
import importlib.util
import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from ts.handler_utils.timer import timed
from ts.torch_handler import model_formats
from ts.torch_handler.compilation import optimised, wants_aot_compiled
from ts.torch_handler.devices import allow_tensor_cores, select_device
from ts.torch_handler.explanations import UnknownTarget
from ts.torch_handler.formats import ModelFormat, format_of
from ts.torch_handler.model_formats import ModelNotLoadable
from ts.torch_handler.profiling import Region, profiled
from ts.torch_handler.rows import one_row, target_of, value_of
from ts.utils.util import (
    InvalidRow,
    PredictionException,
    check_valid_pt2_backend,
    list_classes_from_module,
    load_label_mapping,
)

logger = logging.getLogger(__name__)

# TorchServe's names for what an older torch might lack; ours (2.6 at least) has it all.
PT2_AVAILABLE = True
PT230_AVAILABLE = True
PROFILER_AVAILABLE = True

_OPTIONAL_PACKAGES = {
    "IPEX_AVAILABLE": "intel_extension_for_pytorch",
    "ONNX_AVAILABLE": "onnxruntime",
    "XLA_AVAILABLE": "torch_xla",
}


def __getattr__(name: str) -> bool:
    """The flags for optional packages, looked up when asked for: most handlers never do."""
    if name not in _OPTIONAL_PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.util.find_spec(_OPTIONAL_PACKAGES[name]) is not None


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """An onnxruntime session, which can also be called like a PyTorch model."""
    return model_formats.load_onnx(model_pt_path, torch.device(map_location or "cpu"))


def mark_stage(context: Any, stage: str, row: int = -1) -> None:
    """Tells the worker where a batch is, so that a crash can name its request. Contexts of user tests may not care."""
    mark = getattr(context, "mark_stage", None)
    if mark is not None:
        mark(stage, row)


class BaseHandler(abc.ABC):  # noqa: B024 -- ABC only for the metaclass, which handlers may count on
    """Extend it and override what is different about your model.

    The attributes below are class-level defaults because handlers often define ``__init__`` without calling this one.
    What is ours alone has names with two underscores, out of the way of the names that handlers choose.
    """

    model: Any = None
    mapping: dict[str, str] | None = None
    device: torch.device | None = None
    initialized = False
    context: Any = None
    model_pt_path: str | None = None
    manifest: dict[str, Any] | None = None
    map_location: str | None = None
    explain = False
    target = 0
    model_yaml_config: Mapping[str, Any] = {}
    profiler_args: dict[str, Any] = {}

    def __init__(self) -> None:
        allow_tensor_cores()
        self.profiler_args = {}

    # Loading --------------------------------------------------------------------------------------------------

    def initialize(self, context: Any) -> None:
        """Loads the model that the manifest names onto the worker's device."""
        self.context = context
        self.model_yaml_config = context.model_yaml_config or {}
        self.map_location, self.device = select_device(context.system_properties.get("gpu_id"))
        if self.device.type == "cuda":
            allow_tensor_cores()
        self.manifest = context.manifest
        model_dir = context.system_properties.get("model_dir")
        self.model = optimised(self.__load_model(model_dir, self.device), self.model_yaml_config)
        logger.debug("Model file %s loaded successfully", self.model_pt_path)
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def __load_model(self, model_dir: str, device: torch.device) -> Any:
        files = (self.manifest or {}).get("model") or {}
        model_file, serialized_file = files.get("modelFile"), files.get("serializedFile")
        self.model_pt_path = os.path.join(model_dir, serialized_file) if serialized_file else None
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
            model.to(device)  # what these two return is not used: a model's own may return nothing
            model.eval()
            return model
        if self.model_pt_path is None:
            raise ModelNotLoadable(
                "MANIFEST.json",
                "it names neither a serializedFile nor a modelFile. Give torch-model-archiver one of "
                "--serialized-file and --model-file, or let the handler's initialize load the model by itself.",
            )
        return self.__load_complete_model(self.model_pt_path, device)

    def __load_complete_model(self, path: str, device: torch.device) -> Any:
        kind = format_of(model_formats.existing(path))
        if kind is ModelFormat.TORCHSCRIPT:
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if kind is ModelFormat.AOTI_LIBRARY and not wants_aot_compiled(self.model_yaml_config):
            allowed_by = "a library is loaded only with pt2: {export: {aot_compile: true}} in model-config.yaml."
            raise ModelNotLoadable(path, allowed_by)
        return model_formats.load_complete(path, device)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return model_formats.load_torchscript(model_pt_path, self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """The one class of ``model_file``; without weights it is served as its constructor leaves it."""
        model = model_formats.new_model(model_dir, model_file)
        if model_pt_path:
            mmap = self.model_yaml_config.get("mmap", True)
            model_formats.load_weights(model, model_pt_path, self.device, mmap=mmap)
        return model

    # One batch ------------------------------------------------------------------------------------------------

    def handle(self, data: list[Any], context: Any) -> Any:
        """The entry point: one element of ``data`` and one of the result per request."""
        started = time.perf_counter()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        elif self._is_describe():
            mark_stage(context, "describe")
            output = [self.describe_handle() for _ in data]
        else:
            output = self.__answer(data)
        self.__emit_handler_time(time.perf_counter() - started)
        return output

    def __answer(self, data: list[Any], region: Region = nullcontext) -> Any:
        with self.__stage("preprocess", region):
            batch = self.preprocess(data)
        if self._is_explain():
            with self.__stage("explain", region):
                return self.explain_handle(batch, data)
        with self.__stage("inference", region):
            output = self.inference(batch)
        with self.__stage("postprocess", region):
            return self.postprocess(output)

    def __stage(self, name: str, region: Region) -> Any:
        mark_stage(self.context, name)
        return region(name)

    @timed
    def preprocess(self, data: Any) -> Any:
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        answers: list[Any] = data.tolist()
        return answers

    def __emit_handler_time(self, seconds: float) -> None:
        if getattr(self.context, "metrics", None) is not None:
            self.context.metrics.add_time("HandlerTime", round(seconds * 1000, 2), None, "ms")

    def _infer_with_profiler(self, data: list[Any]) -> tuple[Any, Any]:
        model_name = ((self.manifest or {}).get("model") or {}).get("modelName", "model")
        return profiled(lambda region: self.__answer(data, region), self.profiler_args, model_name)

    # Explanations and description -----------------------------------------------------------------------------

    def explain_handle(self, data_preprocess: Any, raw_data: list[Any]) -> Any:
        """One explanation per request, each for its own target: ``get_insights`` sees one request at a time.

        So any ``get_insights`` written for one request works for a batch, and each answer is what it would be alone.
        """
        rows = len(raw_data)
        if rows == 1:
            return self.__insights(data_preprocess, raw_data[0], 0)
        explanations: list[Any] = []
        for row, request in enumerate(raw_data):
            mark_stage(self.context, "explain", row)
            explanations += self.__insights(one_row(data_preprocess, row, rows), request, row)
        return explanations

    def __insights(self, batch: Any, request: Any, row: int) -> Any:
        if not hasattr(self, "get_insights"):
            raise PredictionException(f"{type(self).__name__} defines no get_insights, so it cannot explain.", 501)
        try:
            return self.get_insights(batch, value_of(request), target_of(request))
        except UnknownTarget as error:
            raise InvalidRow(row, error.message) from error

    def _is_explain(self) -> bool:
        if self.__asked_to("explain"):
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self.__asked_to("describe")

    def __asked_to(self, verb: str) -> bool:
        return self.context is not None and self.context.get_request_header(0, verb) == "True"

    def describe_handle(self) -> Any:
        """Override it: a dict appears as `customizedMetadata` when the model is described."""
        return None

    def get_device(self) -> torch.device | None:
        return self.device


__all__ = [
    "PROFILER_AVAILABLE",
    "PT2_AVAILABLE",
    "PT230_AVAILABLE",
    "BaseHandler",
    "InvalidRow",
    "PredictionException",
    "ProfilerActivity",
    "check_valid_pt2_backend",
    "list_classes_from_module",
    "load_label_mapping",
    "mark_stage",
    "profile",
    "record_function",
    "setup_ort_session",
    "timed",
    "torch",
]
