"""An ONNX model that is called like a PyTorch one: tensors in, tensors out. Needs onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

_DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


class CallableSession(onnxruntime.InferenceSession):
    """Still a session with ``run``, for handlers that use it as one.

    Called, it takes the inputs in the model's order or by name and gives its output, or a tuple of several.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        inputs = self.get_inputs()
        if len(args) > len(inputs):
            raise TypeError(f"The ONNX model takes {len(inputs)} inputs, {len(args)} were given")
        given = dict(zip((one.name for one in inputs), args, strict=False)) | kwargs
        feed = {one.name: _array(given[one.name], one.type) for one in inputs if one.name in given}
        outputs = tuple(_tensor(output) for output in self.run(None, feed))
        return outputs[0] if len(outputs) == 1 else outputs


def open_session(path: str | Path, device: torch.device) -> CallableSession:
    """With as many threads as torch itself may use: the worker has shared the cores out by then."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return CallableSession(str(path), sess_options=options, providers=_providers(device))


def _providers(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]


def _array(value: Any, kind: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return np.ascontiguousarray(array, _DTYPES.get(kind, array.dtype))


def _tensor(output: Any) -> Any:
    return torch.from_numpy(output) if isinstance(output, np.ndarray) and output.dtype.kind in "biuf" else output
