"""Reads ``tensorSignature`` of a model config: which tensors the model takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.core.models import Signature, TensorSpec

_KEY = "tensorSignature"
_KEYS = {"inputs", "outputs", "platform"}
_TENSOR_KEYS = {"name", "datatype", "shape"}
_MOST_TENSORS = 1000
_INTEGERS = [f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)]
DATATYPES = frozenset({"BOOL", *_INTEGERS, "FP16", "BF16", "FP32", "FP64", "BYTES"})


def read_signature(value: object) -> Signature:
    """ArchiveError says what is wrong: a signature is for others to rely on."""
    found = _mapping(value, _KEYS, _KEY)
    platform = found.get("platform", "")
    if not isinstance(platform, str):
        raise ArchiveError(f"has {_KEY}: platform: {platform} where text is expected")
    return Signature(
        inputs=_tensors(found.get("inputs"), f"{_KEY}: inputs"),
        outputs=_tensors(found.get("outputs"), f"{_KEY}: outputs"),
        platform=platform,
    )


def _tensors(value: object, where: str) -> tuple[TensorSpec, ...]:
    if not isinstance(value, Sequence | None) or isinstance(value, str) or len(value or ()) > _MOST_TENSORS:
        raise ArchiveError(f"has {where} that is no list of tensors, each with name, datatype and shape")
    tensors = tuple(_tensor(one, f"{where}: {number}") for number, one in enumerate(value or ()))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise ArchiveError(f"has two tensors of one name in {where}: each needs its own")
    return tensors


def _tensor(value: object, where: str) -> TensorSpec:
    found = _mapping(value, _TENSOR_KEYS, where)
    name, datatype, shape = found.get("name"), found.get("datatype"), found.get("shape")
    if not isinstance(name, str) or not name:
        raise ArchiveError(f"has {where} without a name, which is text")
    if datatype not in DATATYPES:
        raise ArchiveError(f"has {where}: datatype: {datatype!s:.80}, which is none of {', '.join(sorted(DATATYPES))}")
    if not isinstance(shape, list) or any(type(size) is not int or size < -1 for size in shape):
        raise ArchiveError(
            f"has {where}: shape: {shape!s:.80} where a list of sizes is expected, -1 for one that varies"
        )
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape))


def _mapping(value: object, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"has {where}: {value!s:.80} where a mapping with {', '.join(sorted(keys))} is expected")
    if unknown := [str(key) for key in value if key not in keys]:
        raise ArchiveError(f"has {where}: {unknown[0]:.80}, which is not known; there is {', '.join(sorted(keys))}")
    return value
