"""V2 tensors as bytes behind the JSON of a body, which is the protocol's binary tensor data extension.

Elements stand back to back, row by row, little-endian; each element of BYTES has its length before it, in four bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ts.torch_handler.request_envelope.base import bad_request, expect_few_rows, plain, shown

if TYPE_CHECKING:
    import numpy as np

HEADER = "Inference-Header-Content-Length"  # how many bytes of a body are its JSON
PART = "tensors"  # of a request: what stands behind its JSON
CONTENT_TYPE = "application/octet-stream"

_PACKED = {"BOOL": "u1", "BF16": "<u2", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_PACKED |= {f"{sign}INT{8 * size}": f"<{sign.lower() or 'i'}{size}" for sign in ("U", "") for size in (1, 2, 4, 8)}


class BytesBehind:
    """What stands behind a body's JSON; each binary tensor takes its own, in the order of the inputs."""

    def __init__(self, content: bytes | bytearray | memoryview | None) -> None:
        self._content = None if content is None else memoryview(content)
        self._taken = 0

    @property
    def left(self) -> int:
        return 0 if self._content is None else len(self._content) - self._taken

    def take(self, size: Any, label: str) -> memoryview:
        if type(size) is not int or size < 0:
            raise bad_request(f'{label}: "binary_data_size" must be a number of bytes, not {shown(size)}.')
        if self._content is None:
            raise bad_request(f'{label} has "binary_data_size", but the header {HEADER}, which it needs, is missing.')
        if size > self.left:
            raise bad_request(f'{label}: its "binary_data_size" is {size}, but there are only {self.left} bytes left.')
        self._taken += size
        return self._content[self._taken - size : self._taken]

    def expect_end(self) -> None:
        if self.left:
            raise bad_request(f"{self.left} bytes follow the last binary tensor: no input's binary_data_size has them.")


def numbers_in(raw: memoryview, datatype: str, shape: list[int], label: str) -> np.ndarray:
    """The numbers of a tensor as they were sent, NaN and the infinities too: here they have a form. ``shape`` may have
    one -1."""
    import numpy as np

    packed = np.dtype(_PACKED[datatype])
    size = math.prod(shape) * packed.itemsize
    if len(raw) % packed.itemsize or (-1 not in shape and len(raw) != size):
        takes = f"whole values of {packed.itemsize} bytes" if -1 in shape else f"{size} bytes"
        raise bad_request(f"{label}: shape {shape} of {datatype} takes {takes}, but it has {len(raw)}.")
    numbers = np.frombuffer(raw, dtype=packed)
    if datatype == "BF16":  # they are the upper halves of FP32
        return (numbers.astype("<u4") << 16).view("<f4")
    if datatype != "BOOL":
        return numbers
    if len(strays := np.flatnonzero(numbers > 1)):
        [first, *_] = strays.tolist()
        raise bad_request(f"{label}: byte {numbers[first]} at position {first} is no BOOL, which is 0 or 1.")
    return numbers.astype(bool)


def elements_in(raw: memoryview, shape: list[int], label: str) -> list[bytes]:
    """The elements of a BYTES tensor, whose one dimension may be -1: as many as there are."""
    expected = None if shape == [-1] else math.prod(shape)
    if expected is not None and (expected < 0 or expected * 4 > len(raw)):
        raise bad_request(
            f"{label}: shape {shape} is for elements with 4 bytes of length each, but it has {len(raw)} bytes in all."
        )
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        if len(elements) == expected:
            raise bad_request(
                f"{label}: shape {shape} is for {expected} elements, but {len(raw) - position} bytes follow them."
            )
        start = position + 4
        (length,) = struct.unpack_from("<I", raw, position) if start <= len(raw) else (0,)
        position = start + length
        if position > len(raw):
            raise bad_request(
                f"{label}: element {len(elements)} ends at byte {position} by its length, but it has {len(raw)}."
            )
        elements.append(bytes(raw[start:position]))
        expect_few_rows(len(elements))
    if expected is not None and len(elements) != expected:
        raise bad_request(f"{label}: shape {shape} is for {expected} elements, but there are {len(elements)}.")
    return elements


def packed_numbers(array: np.ndarray, datatype: str) -> bytes:
    """``datatype`` BF16: of FP32 values that are some."""
    if datatype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype(_PACKED[datatype]).tobytes()


def packed_elements(values: Iterable[Any]) -> bytes:
    """Text is UTF-8, bytes are themselves, and what is neither is JSON."""
    pieces: list[bytes] = []
    for value in values:
        element = _element_of(value)
        pieces += (struct.pack("<I", len(element)), element)
    return b"".join(pieces)


def _element_of(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    return text.encode(errors="replace")


def with_tensors(document: dict[str, Any], tensors: Sequence[bytes], context: Any, index: int) -> bytes:
    """The body of an answer, whose headers it sets."""
    head = json.dumps(document, allow_nan=False).encode()
    context.set_response_content_type(index, CONTENT_TYPE)
    context.set_response_header(index, HEADER, str(len(head)))
    return b"".join([head, *tensors])
