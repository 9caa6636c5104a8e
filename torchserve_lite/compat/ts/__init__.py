"""TorchServe's Python API as handlers see it, on top of torchserve-lite."""

from ts.version import __version__

__all__ = ["__version__"]
