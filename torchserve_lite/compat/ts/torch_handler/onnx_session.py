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
        feed = {}
        for one in inputs:
            if one.name in given:
                value = given[one.name]
                array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                feed[one.name] = np.ascontiguousarray(array, _DTYPES.get(one.type, array.dtype))
        outputs = tuple(
            torch.from_numpy(output) if isinstance(output, np.ndarray) and output.dtype.kind in "biuf" else output
            for output in self.run(None, feed)
        )
        return outputs[0] if len(outputs) == 1 else outputs


def open_session(path: str | Path, device: torch.device) -> CallableSession:
    """With as many threads as torch itself may use: the worker has shared the cores out by then."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    return CallableSession(str(path), sess_options=options, providers=providers)
