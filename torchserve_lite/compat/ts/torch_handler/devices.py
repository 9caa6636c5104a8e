"""Which device a handler runs on, by the accelerator this machine has and the id the server gave the worker."""

from __future__ import annotations

import importlib.util
import os

import torch


def select_device(gpu_id: int | None) -> tuple[str | None, torch.device]:
    """``(map_location, device)``, in TorchServe's order of preference."""
    if gpu_id is not None and torch.cuda.is_available():
        return "cuda", torch.device(f"cuda:{gpu_id}")
    if gpu_id is not None and os.environ.get("TS_IPEX_GPU_ENABLE") == "true" and torch.xpu.is_available():
        return "xpu", torch.device(f"xpu:{gpu_id}")
    if gpu_id is not None and torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    if importlib.util.find_spec("torch_xla") is not None:
        import torch_xla.core.xla_model as xm

        return None, xm.xla_device()
    return "cpu", torch.device("cpu")


def allow_tensor_cores() -> None:
    """Float32 products may run on tensor cores (TF32) where the GPU has them, as TorchServe sets it.

    Called once a handler is made, not at import: a process that forks workers may have imported handlers, and must
    not have touched CUDA.
    """
    if torch.version.cuda and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        torch.set_float32_matmul_precision("high")
