"""Image transforms under torchvision's names and with its results, made of Pillow and numpy alone.

The default handlers use these, so that they need no torchvision; handlers that set torchvision's own transforms keep
working. Arithmetic is done by numpy on the CPU: on a small image a torch operator costs several times the sum itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


class UnsuitableImage(ValueError):
    """The image is sound but not of the kind this transform takes. The text may be shown to a client."""


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({list(self.transforms)})"


class Resize:
    """Antialiased bilinear resizing: to ``(height, width)``, or until the shorter side measures ``size``."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if not isinstance(self.size, int):
            target = int(self.size[1]), int(self.size[0])
        elif width <= height:
            target = self.size, int(self.size * height / width)
        else:
            target = int(self.size * width / height), self.size
        return image if target == image.size else image.resize(target, Image.Resampling.BILINEAR)

    def __repr__(self) -> str:
        return f"Resize({self.size})"


class CenterCrop:
    """Cuts ``(height, width)``, or a square of ``size``, out of the middle; a smaller image gets black margins."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = _offset(image.width, self.width), _offset(image.height, self.height)
        return image.crop((left, top, left + self.width, top + self.height))

    def __repr__(self) -> str:
        return f"CenterCrop({self.height, self.width})"


class ToTensor:
    """A Pillow image or an array ``[H, W(, C)]`` as a tensor ``[C, H, W]``; bytes become floats from 0 to 1."""

    def __call__(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        pixels = _pixels(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if pixels.dtype == np.uint8:
            return torch.from_numpy(np.divide(pixels, np.float32(255), order="C"))
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """``(tensor - mean) / std`` for each channel of a tensor ``[..., C, H, W]``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace
        self._mean = np.asarray(mean, np.float32).reshape(-1, 1, 1)
        self._std = np.asarray(std, np.float32).reshape(-1, 1, 1)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        pixels = tensor.numpy()
        expected, channels = len(self._mean), pixels.shape[-3] if pixels.ndim >= 3 else 0
        if expected not in (1, channels) or not channels:
            plural = "" if channels == 1 else "s"
            advice = ": convert it to RGB." if expected == 3 else "."
            raise UnsuitableImage(f"The image has {channels} channel{plural}, this model takes {expected}{advice}")
        result = np.subtract(pixels, self._mean, out=pixels if self.inplace else None)
        result /= self._std
        return torch.from_numpy(result)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


def imagenet_evaluation() -> Compose:
    """What networks trained as ImageNet's usually are expect of an image."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize(mean, std)])


def torchvision_transforms() -> Any:
    """What ``from ts.torch_handler.image_classifier import transforms`` gives a handler: torchvision's module, or this
    one where torchvision is missing or does not fit the installed torch."""
    try:
        from torchvision import transforms
    except (ImportError, RuntimeError):
        return sys.modules[__name__]
    return transforms


def _offset(size: int, crop: int) -> int:
    """Where a crop begins. Margins round down on the near side and cuts to even, as torchvision does."""
    return -((crop - size) // 2) if crop > size else round((size - crop) / 2)


_WIDE_MODES = {"I": np.int32, "I;16": np.int16, "F": np.float32}


def _pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    wide = _WIDE_MODES.get(image.mode)
    return np.asarray(image) if wide is None else np.array(image, wide)
