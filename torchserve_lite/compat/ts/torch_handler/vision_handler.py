"""The base of handlers for images: turns each request into a tensor, and explains answers pixel by pixel."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler, InvalidRow, mark_stage
from ts.torch_handler.explanations import attribution
from ts.torch_handler.image_rows import UnsuitableImage, image_from, tensor_from
from ts.torch_handler.rows import value_of

_ENCODED = (str, bytes, bytearray, memoryview)


def __getattr__(name: str) -> Any:
    """captum takes half a second to import, and only explanations need it."""
    if name != "IntegratedGradients":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from captum.attr import IntegratedGradients

    return IntegratedGradients


class VisionHandler(BaseHandler):
    """Subclasses give ``image_processing``: a callable from a Pillow image to a tensor."""

    image_processing: Callable[[Image.Image], Any]

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @cached_property
    def ig(self) -> Any:
        """The algorithm that explains; a handler may set another one."""
        from captum.attr import IntegratedGradients

        return IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: list[Any]) -> torch.Tensor | list[torch.Tensor]:
        """Images as bytes or base64 go through ``image_processing``; lists of numbers are tensors already."""
        return self._stack_images([self.__tensor(request, row) for row, request in enumerate(data)])

    def _stack_images(self, images: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """One tensor of all images. An odd shape is the error of the request it came with, not of the others."""
        _refuse_odd_shape(images)
        batch = torch.stack(images)
        return batch if self.device is None else batch.to(self.device)

    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: Any = 0) -> list[Any]:
        importances: torch.Tensor = attribution(self.ig, tensor_data, target, n_steps=15)
        return importances.tolist()

    def __tensor(self, request: Any, row: int) -> Any:
        mark_stage(self.context, "preprocess", row)
        value = value_of(request)
        try:
            if isinstance(value, _ENCODED):
                return self.image_processing(image_from(value))
            _refuse_other_than_numbers(value, request)
            return tensor_from(value)
        except UnsuitableImage as error:
            raise InvalidRow(row, str(error)) from error


def _refuse_other_than_numbers(value: Any, request: Any) -> None:
    if value is None:
        found = f"found: {', '.join(map(str, request))}" if isinstance(request, dict) and request else "found nothing"
        raise UnsuitableImage(f'The request has no image: it is expected under "data" or as the body; {found}.')
    if not hasattr(value, "__len__") or isinstance(value, dict):
        kind = "a JSON object" if isinstance(value, dict) else f"{value!r:.40}"
        keys = f" with the keys {', '.join(map(str, value))}" if isinstance(value, dict) else ""
        raise UnsuitableImage(
            f"The image must be a file, base64 text or nested lists of numbers; this is {kind}{keys}."
        )


def _refuse_odd_shape(images: list[Any]) -> None:
    """The shape most rows have counts as right; where there is no majority, the first one."""
    shapes = [tuple(getattr(image, "shape", ())) for image in images]
    if len(set(shapes)) <= 1:
        return
    usual = Counter(shapes).most_common(1)[0][0]
    row = next(row for row, shape in enumerate(shapes) if shape != usual)
    raise InvalidRow(
        row, f"The image has shape {list(shapes[row])}, the others in its batch have {list(usual)}: they must be equal."
    )


__all__ = ["BaseHandler", "Image", "VisionHandler", "base64", "io", "torch"]
