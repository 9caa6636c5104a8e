"""The image in one request: bytes or base64 to a Pillow image, numbers to a tensor, or what is wrong with it."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from ts.torch_handler.image_transforms import UnsuitableImage

_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
_MISPLACED_PADDING = re.compile(r"=(?=[^=])|={3}")
_PNG_IN_BASE64 = "iVBORw0KGgo"


def image_from(value: str | bytes | bytearray | memoryview) -> Image.Image:
    """The decoded image; raises UnsuitableImage with a text for the client."""
    encoded = value if isinstance(value, str) else None
    data = bytes_from_base64(value) if isinstance(value, str) else value
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnsuitableImage(_unknown_image(data, encoded)) from error
    except Image.DecompressionBombError as error:
        raise UnsuitableImage(
            f"The image is refused: {error} (limit_max_image_pixels=false in config.properties lifts the limit)."
        ) from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise UnsuitableImage(f"The image cannot be decoded: {error}. It is damaged or incomplete.") from error
    return image


def bytes_from_base64(text: str) -> bytes:
    """Line breaks and a ``data:image/...;base64,`` prefix are allowed, as mailers and browsers add them."""
    prefix = _DATA_URL.match(text) if text.startswith("data:") else None
    stripped = text[prefix.end() :] if prefix else text
    try:
        return base64.b64decode(stripped, validate=True)
    except ValueError:
        stripped = "".join(stripped.split())
    try:
        return base64.b64decode(stripped, validate=True)
    except ValueError as error:
        raise UnsuitableImage(f"The image is not valid base64: {_base64_problem(stripped, error)}.") from error


def tensor_from(value: Any) -> torch.Tensor:
    """Nested lists of numbers, an array or a tensor, as floats; these are taken as already preprocessed."""
    if isinstance(value, torch.Tensor):
        return value.to(torch.float32)
    if isinstance(value, list) and any(isinstance(entry, bytes | bytearray) for entry in value):
        raise UnsuitableImage(f"The request has {len(value)} parts of one name, where one image is expected.")
    try:
        return torch.from_numpy(np.array(value, np.float32))
    except (ValueError, TypeError, OverflowError) as error:
        raise UnsuitableImage(f"The list is not a tensor of numbers: {error}") from error


def _base64_problem(text: str, error: Exception) -> str:
    if text[:6] == _PNG_IN_BASE64[:6] and not text.startswith(_PNG_IN_BASE64):
        return (
            f'a PNG image begins with "{_PNG_IN_BASE64}", this one with "{text[:12]}", '
            "so a character was added, lost or changed in copying it"
        )
    if stray := _NOT_BASE64.search(text):
        return f"it has {stray.group()!r} at position {stray.start()}"
    if padding := _MISPLACED_PADDING.search(text):
        return f"it has padding ('=') at position {padding.start()}, before its end"
    if len(text) % 4:
        return f"it has {len(text)} characters, which is not a multiple of 4 (cut off, or without its '=' padding)"
    return str(error)


def _unknown_image(data: bytes | bytearray | memoryview, encoded: str | None) -> str:
    if not len(data):
        return "The image is empty."
    if encoded is not None and encoded[:6] == _PNG_IN_BASE64[:6] and not encoded.startswith(_PNG_IN_BASE64):
        return f"The base64 text holds no image Pillow knows: {_base64_problem(encoded, ValueError())}."
    start = bytes(data[:12])
    origin = "The data is" if encoded is None else "The base64 text holds"
    advice = ""
    if start.startswith((b"iVBORw0", b"/9j/")):
        advice = " This looks like base64 text: send it as JSON or with Content-Type: text/plain."
    elif start.lstrip()[:1] in (b"{", b"["):
        advice = " This looks like JSON: send it with Content-Type: application/json."
    elif start.startswith((b"PK\x03\x04", b"\x80\x02")):
        advice = " This looks like a file of torch.save, which is never unpickled here: send nested lists as JSON."
    return f"{origin} no image Pillow knows; it begins with {start!r}.{advice}"


__all__ = ["UnsuitableImage", "bytes_from_base64", "image_from", "tensor_from"]
