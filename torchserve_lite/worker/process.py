"""The process of a worker as a handler finds it: its folder, its arguments, its environment, its output."""

from __future__ import annotations

import os
import re
import sys

from torchserve_lite.core.memory import keep_freed
from torchserve_lite.ipc.messages import Load
from torchserve_lite.worker.log_lines import set_up_logging


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
