"""Reads a model from disk, whatever its format: each format has one loader, chosen by what the file holds.

Eager models are a Python class with a state dict (`.pt`, `.pth`, `.bin`, safetensors); TorchScript, torch.export,
AOTInductor and ONNX files are complete by themselves. Weights are memory-mapped where the file allows it, so that the
workers of one model share one copy. Nothing is ever unpickled but tensors and plain data (``weights_only``).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ts.torch_handler.formats import SHARD_INDEX, ModelFormat, format_of
from ts.utils.util import list_classes_from_module

logger = logging.getLogger(__name__)

_NOT_INSTALLED = "it needs {}, which is not installed."  # the worker adds how to install it

State = dict[str, torch.Tensor]


class ModelNotLoadable(RuntimeError):
    """Names the file, why it cannot be used, and how to mend it."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"No model weights could be loaded: {Path(path).name}: {problem}")


def existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ModelNotLoadable(path, "the archive's manifest names this file, but the archive does not hold it.")
    return Path(path)


# Models that are complete by themselves ---------------------------------------------------------------------------


def load_torchscript(path: str | Path, device: torch.device | None) -> torch.jit.ScriptModule:
    try:
        model: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)
        return model.eval()
    except RuntimeError as error:
        raise ModelNotLoadable(path, f"TorchScript cannot read it: {_first_line(error)}") from error


def load_exported_program(path: str | Path, device: torch.device) -> torch.nn.Module:
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # a program of another release fails in whatever way its reader fails
        problem = f"torch.export.load of torch {torch.__version__} refuses it: {_first_line(error)} Export it again."
        raise ModelNotLoadable(path, problem) from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def load_aoti_package(path: str | Path, device: torch.device) -> Callable[..., Any]:
    from torch._inductor import aoti_load_package

    index = device.index if device.type != "cpu" and device.index is not None else -1
    try:
        return aoti_load_package(str(path), device_index=index)
    except Exception as error:
        raise ModelNotLoadable(path, _built_elsewhere(device, error)) from error


def load_aoti_library(path: str | Path, device: torch.device) -> Callable[..., Any]:
    """``torch.export``'s older form, a bare shared library. dlopen wants an absolute path."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        return torch._export.aot_load(str(Path(path).absolute()), str(device))
    except Exception as error:
        raise ModelNotLoadable(path, _built_elsewhere(device, error)) from error


def load_onnx(path: str | Path, device: torch.device) -> Callable[..., Any]:
    try:
        from ts.torch_handler.onnx_session import open_session
    except ModuleNotFoundError as error:
        raise ModelNotLoadable(path, _NOT_INSTALLED.format("onnxruntime")) from error
    try:
        return open_session(path, device)
    except Exception as error:  # onnxruntime has its own exceptions, generated in C++ and not exported
        raise ModelNotLoadable(path, f"onnxruntime cannot open it: {_first_line(error)}") from error


COMPLETE: Mapping[ModelFormat, Callable[[str | Path, torch.device], Callable[..., Any]]] = {
    ModelFormat.TORCHSCRIPT: load_torchscript,
    ModelFormat.EXPORTED_PROGRAM: load_exported_program,
    ModelFormat.AOTI_PACKAGE: load_aoti_package,
    ModelFormat.AOTI_LIBRARY: load_aoti_library,
    ModelFormat.ONNX: load_onnx,
}


def load_complete(path: str | Path, device: torch.device) -> Callable[..., Any]:
    kind = format_of(existing(path))
    if kind is ModelFormat.UNKNOWN:
        raise ModelNotLoadable(
            path, "it is damaged, or no file of torch.save, TorchScript, torch.export or AOTInductor."
        )
    if kind not in COMPLETE:
        raise ModelNotLoadable(path, weights_alone(path, kind))
    return COMPLETE[kind](path, device)


# Eager models: a class and its weights ----------------------------------------------------------------------------


def new_model(model_dir: str | Path, model_file: str) -> torch.nn.Module:
    """An instance of the one class that ``model_file`` defines; of several, the one that is a network."""
    path = Path(model_dir, model_file)
    if not path.is_file():
        raise RuntimeError(f"Missing the model.py file: the archive does not hold {model_file}")
    module = _import_file(path)
    classes = list_classes_from_module(module)
    if len(classes) > 1:  # an exception or a dataclass may stand beside the network, and what it extends
        networks = [cls for cls in classes if issubclass(cls, torch.nn.Module)]
        networks = [
            cls for cls in networks if not any(other is not cls and issubclass(other, cls) for other in networks)
        ]
        classes = networks if len(networks) == 1 else classes
    if len(classes) != 1:
        raise ValueError(
            f"Expected only one class as model definition. {model_file} has {len(classes)}: "
            f"{', '.join(sorted(cls.__name__ for cls in classes)) or 'none'}"
        )
    model: torch.nn.Module = classes[0]()
    return model


def load_weights(model: torch.nn.Module, path: str | Path, device: torch.device | None, *, mmap: bool = True) -> None:
    """Fills the model from any file that holds a state dict."""
    state = read_state(path, device, mmap=mmap)
    try:
        if not _loads_as_torch_does(model):
            model.load_state_dict(state)
            return
        _restore_tied(model, state)
        model.load_state_dict(state, assign=mmap and _same_tensors(model, state))
    except RuntimeError as error:
        problem = f"its weights are not those of {type(model).__name__}: {error}"
        raise ModelNotLoadable(path, problem) from error


def read_state(path: str | Path, device: torch.device | None = None, *, mmap: bool = True) -> State:
    """The state dict of a `torch.save`, safetensors, sharded safetensors or TorchScript file."""
    kind = format_of(existing(path))
    if kind is ModelFormat.SAFETENSORS:
        return _read_safetensors(Path(path), device)
    if kind is ModelFormat.TORCHSCRIPT:
        return dict(load_torchscript(path, device).state_dict())
    if kind in (ModelFormat.STATE_DICT, ModelFormat.UNKNOWN):  # its reader says what is wrong with an unknown one
        return _read_pickle(Path(path), device, mmap)
    raise ModelNotLoadable(path, f"it is {kind.value}, which is complete: leave modelFile out of the manifest.")


def _read_pickle(path: Path, device: torch.device | None, mmap: bool) -> State:
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        try:
            found = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        except (ValueError, RuntimeError, pickle.UnpicklingError):
            found = "pickled objects"
        problem = (
            f"it holds more than tensors and plain data ({found}), and such objects are not unpickled. "
            f"Save the weights alone: torch.save(model.state_dict(), {path.name!r})."
        )
        raise ModelNotLoadable(path, problem) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelNotLoadable(path, f"it is damaged or no file of torch.save ({_first_line(error)}).") from error
    if not isinstance(state, Mapping):
        problem = f"it holds {type(state).__name__}, not a state dict: torch.save(model.state_dict(), {path.name!r})."
        raise ModelNotLoadable(path, problem)
    return dict(state)


def _read_safetensors(path: Path, device: torch.device | None) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModelNotLoadable(path, _NOT_INSTALLED.format("safetensors")) from error
    state: State = {}
    for file in _shards(path):
        try:
            state |= load_file(existing(file), device=str(device or "cpu"))
        except SafetensorError as error:
            raise ModelNotLoadable(file, f"it is damaged or no safetensors file ({error}).") from error
    return state


def _shards(path: Path) -> list[Path]:
    if not path.name.endswith(SHARD_INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelNotLoadable(
            path, f"it is not an index of shards (a JSON object with 'weight_map'): {error}"
        ) from error
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        problem = f"{', '.join(missing)} missing: add the shards to the archive with --extra-files."
        raise ModelNotLoadable(path, problem)
    return [path.parent / name for name in names]


def _loads_as_torch_does(model: torch.nn.Module) -> bool:
    """Whether no part has its own idea of a state dict: those get the one argument that TorchServe gives them."""
    return all(
        getattr(getattr(module, name), "__func__", None) is getattr(torch.nn.Module, name)
        for module in model.modules()
        for name in ("load_state_dict", "state_dict")
    )


def _restore_tied(model: torch.nn.Module, state: State) -> None:
    """safetensors keeps only one of several names for the same tensor; the model knows which names those are."""
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items() if name in state}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in state and id(tensor) in names:
            state[name] = state[names[id(tensor)]]


def _same_tensors(model: torch.nn.Module, state: State) -> bool:
    """Whether the file's tensors can stand in for the model's own: then they stay mapped instead of being copied."""
    own = model.state_dict()
    return own.keys() == state.keys() and all(
        isinstance(state[name], torch.Tensor)
        and state[name].dtype == tensor.dtype
        and state[name].shape == tensor.shape
        for name, tensor in own.items()
    )


def _import_file(path: Path) -> ModuleType:
    """By its path: `code.py` or `types.py` beside a handler would otherwise give the standard library's module."""
    name = path.name.split(".")[0]
    known = sys.modules.get(name)
    file = getattr(known, "__file__", None)
    if known is not None and file is not None and Path(file).exists() and Path(file).samefile(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path.name} is not a Python file: a modelFile defines the model's class in Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


# Errors -----------------------------------------------------------------------------------------------------------


def weights_alone(path: str | Path, kind: ModelFormat) -> str:
    return (
        f"it is {kind.value}, weights without a model: name the file of the model's class with "
        f"torch-model-archiver --model-file, or save the model with torch.jit.script or torch.export."
    )


def _built_elsewhere(device: torch.device, error: Exception) -> str:
    return (
        f"it cannot be loaded on {device}: {_first_line(error)} Compiled models run only on the kind of device and "
        f"with the torch release they were built for; this is torch {torch.__version__}."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
