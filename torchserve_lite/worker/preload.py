"""Imported once by the process that workers are forked from, so that they have these modules in memory, shared.

Only imports: no torch operator may run here, because torch's thread pools do not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib

from torchserve_lite.worker.handlers import install

install()

gc.disable()  # nearly all that imports make stays: looking through it again and again took a fifth of their time
for _module in (
    "torch",
    "numpy",
    "numpy.random",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "torchserve_lite.worker.loop",
    "torchserve_lite.worker.batch",
    "ts.torch_handler.vision_handler",
    "ts.torch_handler.image_classifier",
    "ts.metrics.metric_cache_yaml_impl",
):
    with contextlib.suppress(Exception):  # a model that needs it says so itself, with its own traceback
        importlib.import_module(_module)

# What is here stays: without this, each worker's collector would copy the shared pages by touching them. Not collected
# before, which would take a tenth of a second more, to find one object of 35.
gc.freeze()
gc.enable()
