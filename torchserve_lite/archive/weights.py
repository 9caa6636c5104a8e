"""Tells which classes the pickle in a checkpoint would build, without torch and without unpickling anything."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from torchserve_lite.archive.unpacking.entries import MIB

_LARGEST_PICKLE = 64 * MIB  # of a checkpoint's structure; its tensors are stored beside it
_SAFE_MODULES = frozenset({"torch", "collections", "_codecs", "builtins", "__builtin__", "numpy"})


def pickled_classes(checkpoint: Path) -> tuple[str, ...]:
    """Those besides torch's own, which ``weights_only`` refuses. Empty for a file that cannot be looked into."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            pickle = next((info for info in archive.infolist() if info.filename.endswith("/data.pkl")), None)
            if pickle is None or pickle.file_size > _LARGEST_PICKLE:
                return ()
            operations = list(pickletools.genops(archive.read(pickle)))
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return ()  # before torch 1.6 checkpoints were no zips
    # Names as torch.save writes them (pickle protocol 2): module and class with a blank between.
    named = {str(argument).replace(" ", ".") for operation, argument, _ in operations if operation.name == "GLOBAL"}
    return tuple(sorted(name for name in named if name.partition(".")[0] not in _SAFE_MODULES))
