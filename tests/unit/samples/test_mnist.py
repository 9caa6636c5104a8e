"""The MNIST sample: what the guide shows, with the weights that ship."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite import testing

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "handlers" / "mnist"
DIGITS = ROOT / "tests" / "data" / "digits"
REQUESTS = ROOT / "tests" / "data" / "kserve_requests"
FILES = {"modelFile": "mnist.py", "serializedFile": "mnist_cnn.pt"}


@pytest.fixture(scope="module")
def mnist() -> testing.LoadedHandler:
    return testing.load(SAMPLE / "mnist_handler.py", manifest={"model": {"modelName": "mnist", **FILES}})


def rows_of(request: str, key: str) -> list[Any]:
    rows: list[Any] = json.loads((REQUESTS / request).read_text())[key]
    return rows


def test_all_digits_are_recognised_when_sent_as_one_batch(mnist: testing.LoadedHandler) -> None:
    rows = [{"data": (DIGITS / f"{digit}.png").read_bytes()} for digit in range(10)]
    assert mnist(rows) == list(range(10))


def test_guides_picture_is_a_two(mnist: testing.LoadedHandler) -> None:
    assert mnist(rows_of("v1_mnist.json", "instances")) == [2]


def test_plain_pixels_of_a_v2_tensor_are_recognised_without_normalisation(mnist: testing.LoadedHandler) -> None:
    """The picture in TorchServe's sample request is a nought, whatever its test script expects."""
    assert mnist(rows_of("mnist_v2_tensor.json", "inputs")) == [0]


def test_picture_is_recognised_when_it_is_coloured_and_larger(mnist: testing.LoadedHandler) -> None:
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.open(DIGITS / "7.png").convert("RGB").resize((112, 112)).save(picture, "PNG")
    assert mnist([{"body": picture.getvalue()}]) == [7]


@pytest.mark.parametrize(
    ("numbers", "shape"),
    [
        pytest.param([[0.0] * 28] * 28, "[28, 28]", id="no channel"),
        pytest.param([[[0.0] * 8] * 8], "[1, 8, 8]", id="another size"),
        pytest.param([0.0] * 784, "[784]", id="flat"),
        pytest.param([], "[0]", id="empty"),
    ],
)
def test_numbers_of_another_shape_are_their_senders_mistake(
    mnist: testing.LoadedHandler, numbers: Any, shape: str
) -> None:
    """The network failed, with 500 for the whole batch."""
    from ts.utils.util import InvalidRow

    right = (DIGITS / "7.png").read_bytes()
    with pytest.raises(InvalidRow, match=re.escape(f"the shape {shape}; a digit is [1, 28, 28]")) as refused:
        mnist([{"data": right}, {"data": numbers}])
    assert (refused.value.row, refused.value.error_code) == (1, 400)


def test_each_instance_is_explained_pixel_by_pixel(mnist: testing.LoadedHandler) -> None:
    import torch

    (instance,) = rows_of("v1_mnist.json", "instances")
    both = mnist([instance, {**instance, "target": 2}], explain=True)
    assert torch.tensor(both).shape == (2, 1, 28, 28)
    assert both[0] != both[1]


def test_network_has_the_weights_layout_of_the_original() -> None:
    import torch

    state = torch.load(SAMPLE / "mnist_cnn.pt", weights_only=True)
    assert sum(tensor.numel() for tensor in state.values()) == 1_199_882
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
