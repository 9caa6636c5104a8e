"""Tells what kind of weights a file holds, without torch and without unpickling anything."""

from __future__ import annotations

import enum
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.unpacking.entries import MIB

_LARGEST_PICKLE = 64 * MIB  # of a checkpoint's structure; its tensors are stored beside it
_SAFE_MODULES = frozenset({"torch", "collections", "_codecs", "builtins", "__builtin__", "numpy"})


class WeightsKind(enum.StrEnum):
    TORCHSCRIPT = "TorchScript"
    STATE_DICT = "pickled tensors"
    EXPORTED = "torch.export or AOTInductor package"
    ONNX = "ONNX"
    SAFETENSORS = "safetensors"
    LIBRARY = "compiled library"
    UNKNOWN = "unknown to us"


_BY_SUFFIX = {
    ".onnx": WeightsKind.ONNX,
    ".safetensors": WeightsKind.SAFETENSORS,
    ".pt2": WeightsKind.EXPORTED,
    ".so": WeightsKind.LIBRARY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """``classes`` are those the pickle in it would build, besides torch's own: ``weights_only`` refuses them."""

    kind: WeightsKind
    classes: tuple[str, ...] = ()


def look_at_weights(file: Path) -> Weights:
    if kind := _BY_SUFFIX.get(file.suffix):
        return Weights(kind=kind)
    try:
        with zipfile.ZipFile(file) as checkpoint:
            return _checkpoint(checkpoint)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return Weights(kind=WeightsKind.UNKNOWN)  # before torch 1.6 checkpoints were no zips


def _checkpoint(checkpoint: zipfile.ZipFile) -> Weights:
    names = checkpoint.namelist()
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return Weights(kind=WeightsKind.TORCHSCRIPT)
    pickle = next((info for info in checkpoint.infolist() if info.filename.endswith("/data.pkl")), None)
    if pickle is None or pickle.file_size > _LARGEST_PICKLE:
        return Weights(kind=WeightsKind.UNKNOWN)
    foreign = {name for name in _globals(checkpoint.read(pickle)) if name.partition(".")[0] not in _SAFE_MODULES}
    return Weights(kind=WeightsKind.STATE_DICT, classes=tuple(sorted(foreign)))


def _globals(pickle: bytes) -> Iterator[str]:
    """Names as torch.save writes them (pickle protocol 2)."""
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL" and isinstance(argument, str):
            yield argument.replace(" ", ".")
