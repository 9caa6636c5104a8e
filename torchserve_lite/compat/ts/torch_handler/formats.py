"""Tells in which format a model file is, without torch and without unpickling anything.

The one detector there is: `inspect` imports it from here, and the default handlers as ``ts.torch_handler.formats``,
which is a link to this file. So it imports nothing but the standard library.
"""

from __future__ import annotations

import enum
import struct
import zipfile
from pathlib import Path

SHARD_INDEX = ".safetensors.index.json"
_PICKLE = b"\x80"  # with which torch.save began a file before 1.6, when it was not a zip


class ModelFormat(enum.Enum):
    STATE_DICT = "a state dict"
    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "TorchScript"
    EXPORTED_PROGRAM = "a torch.export program"
    AOTI_PACKAGE = "an AOTInductor package"
    AOTI_LIBRARY = "an AOTInductor library"
    ONNX = "ONNX"
    UNKNOWN = "of a format that is not known here"


_BY_ENDING = {
    ".onnx": ModelFormat.ONNX,
    ".so": ModelFormat.AOTI_LIBRARY,
    ".safetensors": ModelFormat.SAFETENSORS,
    SHARD_INDEX: ModelFormat.SAFETENSORS,
}


def format_of(path: str | Path) -> ModelFormat:
    """By content where the name leaves it open: `.pt` and `.pth` may be a state dict, TorchScript or a program."""
    path = Path(path)
    for ending, known in _BY_ENDING.items():
        if path.name.endswith(ending):
            return known
    try:
        with zipfile.ZipFile(path) as archive:
            return _format_of_zip(archive.namelist())
    except (zipfile.BadZipFile, ValueError, RuntimeError, struct.error):  # NotImplementedError is a RuntimeError
        with path.open("rb") as file:
            return ModelFormat.STATE_DICT if file.read(1) == _PICKLE else ModelFormat.UNKNOWN


def _format_of_zip(names: list[str]) -> ModelFormat:
    """PyTorch puts everything into one folder, and what lies directly in it says what wrote the file.

    Deeper names say nothing: they are those of the model's modules (`code/__torch__/torchvision/models/resnet.py`)
    and of files that users have added (`extra/...`).
    """
    if "serialized_exported_program.json" in names:  # torch.export.save until 2.7, the only one without a folder
        return ModelFormat.EXPORTED_PROGRAM
    inside = [name.partition("/")[2] for name in names]
    if any(name.startswith("data/aotinductor/") for name in inside):
        return ModelFormat.AOTI_PACKAGE
    if "archive_format" in inside:  # torch.export.save since then
        return ModelFormat.EXPORTED_PROGRAM
    if "constants.pkl" in inside:
        return ModelFormat.TORCHSCRIPT
    return ModelFormat.STATE_DICT if "data.pkl" in inside else ModelFormat.UNKNOWN
