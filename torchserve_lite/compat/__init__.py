"""Makes ``import ts`` work: TorchServe's Python API for handlers, in worker processes and in users' own tests.

Our own code never imports ``ts`` by its long name (``torchserve_lite.compat.ts``): that would be a second copy of each
class, and a handler's ``isinstance`` would see the wrong one.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def install() -> None:
    """Put the ``ts`` package in reach, with the default handlers inside ``ts.torch_handler``. May be called twice."""
    loaded = sys.modules.get("ts")
    origin = getattr(loaded, "__file__", None)
    # A ``ts`` that was imported before us is another package; mixing the two fails later and less clearly.
    if loaded is not None and (origin is None or Path(origin).resolve().parent != _HERE / "ts"):
        raise ImportError(
            f"Another package named 'ts' is already imported (from {origin}). "
            "Import it after torchserve_lite.compat.install(), or uninstall it: it is probably torchserve itself."
        )
    if loaded is None:
        # First: a wheel puts the folder last on every program's path, where the ts of another package would win.
        sys.path[:] = [str(_HERE), *(folder for folder in sys.path if folder != str(_HERE))]
    package = importlib.import_module("ts.torch_handler")
    folder = str(handlers_folder())
    if folder not in package.__path__:
        package.__path__.append(folder)


def handlers_folder() -> Path:
    """Where the default handlers are: inside the package in a wheel, beside it in a checkout."""
    package = _HERE.parent
    inside = package / "handlers"
    return inside if inside.is_dir() else package.parent / "handlers"
