"""Helpers that handlers import: label maps, YAML, compile backends, and the exceptions that carry a status."""

from __future__ import annotations

import enum
import functools
import inspect
import itertools
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import yaml

logger = logging.getLogger(__name__)

# Tags and character references of HTML, as the text handlers strip them.
CLEANUP_REGEX = re.compile(r"<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PT2Backend(str, enum.Enum):  # noqa: UP042 -- StrEnum's str() differs from TorchServe's
    """Names that ``torch.compile`` may get as its backend."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


class PredictionException(Exception):
    """A handler's way to choose the answer's status: the client gets ``message`` with ``error_code``."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class InvalidRow(PredictionException):
    """One row of a batch cannot be used: only the request it came from is refused, the others are answered.

    ``row`` is its index in the ``data`` that the handler was given.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message, error_code=400)
        self.row = row


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Classes that the module itself defines, by name; those below ``parent_class`` when one is given."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and (parent_class is None or issubclass(member, parent_class))
    ]


def check_valid_pt2_backend(backend: str) -> bool:
    if any(backend == known.value for known in PT2Backend):
        return True
    logger.warning("%s is not a supported backend", backend)
    return False


def get_yaml_config(yaml_file_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file's mapping. An empty file is an empty mapping: handlers look into it without asking."""
    with open(yaml_file_path, encoding="utf-8") as file:
        return yaml.safe_load(file) or {}


def load_label_mapping(mapping_file_path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Class index (as text) to label, from ``index_to_name.json``; None when there is no such file."""
    if not os.path.isfile(mapping_file_path):
        logger.warning("'%s' is missing. Inference output will not include class name.", mapping_file_path)
        return None
    with open(mapping_file_path, encoding="utf-8") as file:
        mapping = json.load(file)
    if not isinstance(mapping, dict):
        raise Exception('index->name JSON mapping should be in "class": "label" format.')
    # Detectors list their names by index, under a key of this name.
    if isinstance(mapping.get("object_type_names"), list):
        mapping = {str(index): name for index, name in enumerate(mapping["object_type_names"])}
    labels = {key: value[-1] if isinstance(value, list) and value else value for key, value in mapping.items()}
    if not all(isinstance(label, str) for label in labels.values()):
        raise Exception("labels in index->name mapping must be either str or List[str]")
    return labels


def map_class_to_label(
    probs: Sequence[Sequence[float]] | Any,
    mapping: dict[str, str] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, float]]:
    """One mapping of label to probability per row, in the order given; without a mapping the index is the label."""
    if not isinstance(probs, list) or (lbl_classes is not None and not isinstance(lbl_classes, list)):
        raise Exception("Convert classes to list before doing mapping")
    classes = lbl_classes if lbl_classes is not None else itertools.repeat(range(len(probs[0]) if probs else 0))
    # As many rows as the shorter of the two, as zip has it.
    return [
        {
            str(index) if mapping is None else mapping[str(index)]: probability
            for index, probability in zip(row, values, strict=False)
        }
        for row, values in zip(classes, probs, strict=False)
    ]


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a function that has moved: calling it warns and says where to."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            moved = f" and moved to {replacement}" if replacement else ""
            warnings.warn(f"{function.__name__} is deprecated in {version}{moved}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return wrapper

    return decorate
