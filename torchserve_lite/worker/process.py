"""The process of a worker as a handler finds it: its folder, its arguments, its environment, its output."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import re
import sys
from types import FrameType

from torchserve_lite.core.memory import keep_freed
from torchserve_lite.ipc.messages import Load
from torchserve_lite.worker.log_lines import report, set_up_logging
from torchserve_lite.worker.tracebacks import named_place

_OWN_FILE_SYSTEM = 0x200  # of Linux' unshare(): the current folder and the umask


def prepare_process(load: Load) -> None:
    """As TorchServe makes it: the model's folder is the current one, logging goes to stdout."""
    if load.hidden_environment:
        hidden = re.compile(load.hidden_environment)
        for name in [name for name in os.environ if hidden.fullmatch(name)]:
            del os.environ[name]
    if load.threads and "torch" not in sys.modules:
        os.environ.setdefault("OMP_NUM_THREADS", str(load.threads))  # torch reads it when the handler imports it
    os.environ["TS_DECODE_INPUT_REQUEST"] = str(load.decode_input_request).lower()
    os.environ["TS_IPEX_ENABLE"] = str(load.ipex_enable).lower()
    os.environ["TS_IPEX_GPU_ENABLE"] = str(load.ipex_gpu_enable).lower()
    os.environ["TS_REQUEST_SEQUENCE_ID"] = load.sequence_headers.id
    os.environ["TS_REQUEST_SEQUENCE_START"] = load.sequence_headers.start
    os.environ["TS_REQUEST_SEQUENCE_END"] = load.sequence_headers.end
    os.chdir(load.model_dir)
    sys.argv = ["torchserve-lite-worker"]  # no arguments: a handler's module may parse them when it is imported
    if "numpy.random" in sys.modules:  # a fork has its parent's generator, and so has every other worker
        sys.modules["numpy.random"].seed()  # random does this by itself; torch starts from one seed in any process
    keep_freed()
    set_up_logging()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(2, all_threads=False)  # a crash in native code names the handler's line, too
    if "PYTHONBREAKPOINT" not in os.environ:  # by which Python's users name a debugger that needs no terminal
        sys.breakpointhook = _GoesOn(load.spec.key.name, load.model_dir)


def prepare_thread(load: Load) -> None:
    """Of a thread of the server, for a debugger: it alone has the model's folder as its current one, as have threads
    that it starts."""
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_OWN_FILE_SYSTEM) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.chdir(load.model_dir)
    except (AttributeError, OSError) as error:  # not Linux, or forbidden, as in many containers
        report(logging.WARNING, f"Relative paths of the handler start in the server's folder, not in its own: {error}")


class _GoesOn:
    """In place of ``sys.breakpointhook``: a worker has no terminal, where Python's debugger would read its end and make
    an error of that."""

    def __init__(self, model: str, folder: str) -> None:
        self._model = model
        self._folder = folder
        self._told: set[str] = set()

    def __call__(self, *args: object, **kwargs: object) -> None:
        caller: FrameType = sys._getframe(1)
        place = f"{named_place(caller.f_code.co_filename, self._model, self._folder)}:{caller.f_lineno}"
        if place not in self._told:
            self._told.add(place)
            report(
                logging.WARNING,
                f"breakpoint() at {place} does not stop: a worker has no terminal. Start the server with --inline to "
                "debug the handler there; without it the handler goes on.",
            )
