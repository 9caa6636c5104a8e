"""Tensors of every datatype that the echo model gives back."""

import numpy as np

NUMBERS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], dtype=np.uint8),
    "UINT16": np.array([[0, 65535]], dtype=np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], dtype=np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], dtype=np.uint64),
    "INT8": np.array([[-128, 127]], dtype=np.int8),
    "INT16": np.array([[-32768, 32767]], dtype=np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], dtype=np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], dtype=np.int64),
    "FP16": np.array([[0.5, 65504]], dtype=np.float16),
    "FP32": np.array([[0.5, -3.25]], dtype=np.float32),
    "FP64": np.array([[0.1, -1e300]], dtype=np.float64),
}
NOT_FINITE = np.array([[np.nan, np.inf]], dtype=np.float32)
TEXTS = np.array(["é".encode(), b"b"], dtype=np.object_)
BINARY = np.array([b"\xff\x00\x89PNG"], dtype=np.object_)
