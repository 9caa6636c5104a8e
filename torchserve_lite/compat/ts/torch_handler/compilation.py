"""The `pt2` section of model-config.yaml: whether and how a loaded model is compiled."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from ts.utils.util import check_valid_pt2_backend

logger = logging.getLogger(__name__)

# Backends that torch.compile knows only after their package has been imported.
_REGISTERED_BY = {
    "hpu_backend": "habana_frameworks.torch.core",
    "openvino": "openvino.torch",
    "tensorrt": "torch_tensorrt",
    "torchxla_trace_once": "torch_xla",
}


def optimised(model: Any, model_config: Mapping[str, Any]) -> Any:
    """The model as its configuration wants it run. What cannot be compiled is served as it is, with a warning."""
    options = compile_options(model_config.get("pt2"))
    if options is not None:
        return _compiled(model, options)
    if os.environ.get("TS_IPEX_ENABLE") != "true":
        return model
    try:
        import intel_extension_for_pytorch as ipex
    except ImportError as error:
        logger.warning("TS_IPEX_ENABLE is set, but intel_extension_for_pytorch cannot be imported: %s", error)
        return model
    return ipex.optimize(model.to(memory_format=torch.channels_last))


def compile_options(pt2: Any) -> dict[str, Any] | None:
    """Keyword arguments for torch.compile, None for no compilation. ``pt2`` itself stays as it is."""
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        return _old_style({"backend": pt2})
    if not isinstance(pt2, Mapping):
        raise ValueError(f"pt2 should be str or dict, but model-config.yaml has {type(pt2).__name__}")
    if "compile" in pt2 or "export" in pt2:
        options = dict(pt2.get("compile") or {})
        return options if options.pop("enable", False) else None
    return _old_style(dict(pt2)) if pt2 else None


def wants_aot_compiled(model_config: Mapping[str, Any]) -> bool:
    """`pt2: {export: {aot_compile: true}}` allows a model to be a bare shared library."""
    pt2 = model_config.get("pt2")
    export = pt2.get("export") if isinstance(pt2, Mapping) else None
    return isinstance(export, Mapping) and bool(export.get("aot_compile"))


def _old_style(options: dict[str, Any]) -> dict[str, Any]:
    logger.warning("pt2: %s is an older form; write pt2: {compile: {enable: true, ...}} in model-config.yaml", options)
    return options


def _compiled(model: Any, options: dict[str, Any]) -> Any:
    backend = options.get("backend", "inductor")
    if not check_valid_pt2_backend(backend):
        return model
    try:
        if backend in _REGISTERED_BY:
            importlib.import_module(_REGISTERED_BY[backend])
        compiled = torch.compile(model, **options)
    except Exception as error:  # whatever a backend or an unknown option raises: the model works without it
        logger.warning("The model is served uncompiled: torch.compile(%s) failed: %s", options, error)
        return model
    logger.info("The model is compiled at its first request with %s", options)
    return compiled
