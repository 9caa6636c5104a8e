"""Image handlers: torchvision's transforms without torchvision, one bad image hurts one request, results per image."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from ts.torch_handler import image_transforms
from ts.torch_handler.densenet_handler import DenseNetHandler
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.image_segmenter import ImageSegmenter
from ts.torch_handler.object_detector import ObjectDetector
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import InvalidRow

from torchserve_lite import testing

DIGITS = Path(__file__).parents[1] / "data" / "digits"


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x, channel = np.mgrid[0:height, 0:width, 0:3]
    pixels = (x * x // 3 + y * 5 + channel * 71 + x * y // 7) % 256
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def ready(handler: VisionHandler, model: Any = None, requests: int = 1, **facts: Any) -> Any:
    """As after ``initialize``, without an archive."""
    handler.model, handler.device, handler.initialized = model, torch.device("cpu"), True
    handler.context = testing.context(manifest={"model": {}}, requests=requests, **facts)
    return handler


class Grey(VisionHandler):
    """28x28 pictures, as MNIST's handler takes them."""

    image_processing = image_transforms.Compose(
        [image_transforms.ToTensor(), image_transforms.Normalize((0.1307,), (0.3081,))]
    )


# Computed by torchvision 0.29.1 on the same pictures: mean, standard deviation and three single values.
BY_TORCHVISION = {
    (640, 479): (0.2268, 0.44394, 0.02269, 0.01261, 0.9668),
    (199, 411): (0.2257, 0.9015, -0.7308, 1.51821, 1.31538),
    (256, 256): (0.22657, 1.2905, 1.32417, 0.78291, 0.30449),
    (31, 20): (0.28653, 1.20414, -1.82678, 0.64286, 2.13455),
}


@pytest.mark.parametrize(("size", "expected"), BY_TORCHVISION.items(), ids=str)
def test_imagenet_transform_gives_torchvisions_values(size: tuple[int, int], expected: tuple[float, ...]) -> None:
    tensor = ImageClassifier.image_processing(picture(*size))
    found = (tensor.mean(), tensor.std(), tensor[0, 0, 0], tensor[1, 100, 37], tensor[2, 223, 223])
    assert tensor.shape == (3, 224, 224)
    assert [value.item() for value in found] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("mode", "channels", "white"),
    [("1", 1, 1.0), ("L", 1, 1.0), ("RGB", 3, 1.0), ("RGBA", 4, 1.0), ("I", 1, 255), ("F", 1, 255.0)],
)
def test_pixels_become_floats_only_when_they_are_bytes(mode: str, channels: int, white: float) -> None:
    tensor = image_transforms.ToTensor()(Image.new("RGB", (3, 2), "white").convert(mode))
    assert tensor.shape == (channels, 2, 3)
    assert tensor.max().item() == white


def test_crop_has_black_margins_when_image_is_smaller() -> None:
    tensor = image_transforms.ToTensor()(image_transforms.CenterCrop(5)(Image.new("L", (2, 2), "white")))
    assert tensor.shape == (1, 5, 5)
    assert tensor[0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_transforms_are_ours_when_torchvision_cannot_be_imported() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from torchserve_lite import compat; compat.install()\n"
        "from ts.torch_handler.image_classifier import transforms\n"
        "print(transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Compose([Resize(256)")


TWO = (DIGITS / "2.png").read_bytes()
TWO_IN_BASE64 = base64.b64encode(TWO).decode()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"data": TWO}, id="bytes"),
        pytest.param({"body": bytearray(TWO)}, id="bytearray-body"),
        pytest.param({"data": memoryview(TWO)}, id="memoryview"),
        pytest.param({"data": TWO_IN_BASE64}, id="base64"),
        pytest.param({"data": "data:image/png;base64," + TWO_IN_BASE64}, id="data-url"),
        pytest.param({"data": "\n".join((TWO_IN_BASE64[:76], TWO_IN_BASE64[76:]))}, id="base64-in-lines"),
        pytest.param(TWO_IN_BASE64, id="no-dict-after-an-envelope"),
    ],
)
def test_image_is_read_however_it_is_sent(row: Any) -> None:
    expected = (np.asarray(Image.open(DIGITS / "2.png"), np.float32) / 255 - 0.1307) / 0.3081
    batch = ready(Grey()).preprocess([row])
    assert batch.shape == (1, 1, 28, 28)
    np.testing.assert_allclose(batch[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("numbers", [[[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]])], ids=["list", "array"])
def test_numbers_are_taken_as_tensor_without_transform(numbers: Any) -> None:
    batch = ready(Grey()).preprocess([{"data": numbers}])
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[[1.0, 2.0], [3.0, 4.0]]]


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    small = bytearray(png(Image.new("L", (1, 1))))
    small[16:24] = (50_000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(bytes(small[12:29])).to_bytes(4, "big")
    return bytes(small)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param("iVBORw0eKGgo" + TWO_IN_BASE64[11:], r"not valid base64: a PNG image begins", id="the-guides"),
        pytest.param("not*base64!!", r"not valid base64: it has '\*' at position 3", id="stray-character"),
        pytest.param(TWO_IN_BASE64[:101], r"not valid base64: it has 101 characters", id="cut-base64"),
        pytest.param("QUJD=REV", r"not valid base64: it has padding \('='\) at position 4", id="padding-inside"),
        pytest.param("aGVsbG8gd29ybGQh", r"no image Pillow knows; it begins with b'hello world!'", id="base64-text"),
        pytest.param(b"neither PNG nor JPEG", r"no image Pillow knows; it begins with b'neither PNG '", id="no-image"),
        pytest.param(b"iVBORw0KGgoAAAAN", r"looks like base64 text: send it", id="base64-as-bytes"),
        pytest.param(b'{"data": "x"}', r"looks like JSON: send it with Content-Type", id="json-as-bytes"),
        pytest.param(TWO[:120], r"cannot be decoded: .* damaged or incomplete", id="cut-image"),
        pytest.param(bomb(), r"refused: .*decompression bomb.*limit_max_image_pixels", id="bomb"),
        pytest.param([[1, 2], [3]], r"list is not a tensor of numbers", id="ragged"),
        pytest.param([["a"]], r"list is not a tensor of numbers", id="words"),
        pytest.param([10**400], r"list is not a tensor of numbers", id="number-beyond-floats"),
        pytest.param([bytearray(TWO), bytearray(TWO)], r"2 parts of one name, where one image", id="two-parts"),
        pytest.param({"b64": "x"}, r"a JSON object with the keys b64", id="object"),
        pytest.param(7, r"nested lists of numbers; this is 7", id="a-number"),
        pytest.param(None, r'no image: it is expected under "data".*found: data', id="nothing"),
    ],
)
def test_bad_image_is_refused_alone_with_its_fault(value: Any, fault: str) -> None:
    handler = ready(Grey(), requests=2)
    with pytest.raises(InvalidRow, match=fault) as refused:
        handler.preprocess([{"data": TWO}, {"data": value}])
    assert (refused.value.row, refused.value.error_code) == (1, 400)


def test_grey_image_is_refused_when_model_takes_colours() -> None:
    with pytest.raises(InvalidRow, match="The image has 1 channel, this model takes 3: convert it to RGB"):
        ready(ImageClassifier()).preprocess([{"data": TWO}])


@pytest.mark.parametrize(("shapes", "odd"), [([4, 3, 3], 0), ([3, 4, 3], 1), ([3, 4], 1)], ids=str)
def test_odd_shape_is_refused_alone_when_the_others_agree(shapes: list[int], odd: int) -> None:
    rows = [{"data": [[0.0] * width]} for width in shapes]
    with pytest.raises(InvalidRow, match=r"shape \[1, 4\], the others in its batch have \[1, 3\]") as refused:
        ready(Grey()).preprocess(rows)
    assert refused.value.row == odd


def test_rows_are_marked_while_they_are_decoded() -> None:
    handler = ready(Grey(), requests=2)
    seen: list[tuple[str, int]] = []
    handler.context.mark_stage = lambda stage, row: seen.append((stage, row))
    handler.preprocess([{"data": TWO}, {"data": TWO}])
    assert seen == [("preprocess", 0), ("preprocess", 1)]


@pytest.mark.parametrize(("classes", "answers"), [(2, 2), (5, 5), (1000, 5)])
def test_classifier_gives_the_best_classes_whatever_their_number(classes: int, answers: int) -> None:
    logits = torch.arange(float(classes)).expand(3, classes)
    results = ready(ImageClassifier()).postprocess(logits)
    assert [len(result) for result in results] == [answers] * 3
    assert list(results[0]) == [str(index) for index in range(classes - 1, classes - 1 - answers, -1)]
    assert results[0][str(classes - 1)] == pytest.approx(logits[0].softmax(0).max().item())


def test_classifier_names_classes_when_there_is_a_mapping() -> None:
    handler = ready(ImageClassifier())
    handler.mapping = {"0": "cat", "1": "dog"}
    handler.set_max_result_classes(1)
    assert handler.postprocess(torch.tensor([[0.0, 2.0]])) == [{"dog": pytest.approx(0.8808, abs=1e-4)}]


def found(*scores: float) -> Mapping[str, torch.Tensor]:
    boxes = torch.arange(4.0 * len(scores)).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.arange(len(scores)), "scores": torch.tensor(scores)}


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted-with-losses"])
def test_detector_gives_boxes_that_are_sure_enough(scripted: bool) -> None:
    handler = ready(ObjectDetector())
    handler.mapping = {"0": "person", "1": "bus"}
    detections = [found(0.75, 0.25), found(), found(0.25, 0.5)]
    assert handler.postprocess(({}, detections) if scripted else detections) == [
        [{"person": [0.0, 1.0, 2.0, 3.0], "score": 0.75}],
        [],
        [{"bus": [4.0, 5.0, 6.0, 7.0], "score": 0.5}],
    ]


def test_detector_takes_images_of_different_sizes_in_one_batch() -> None:
    def model(images: list[torch.Tensor]) -> list[tuple[int, ...]]:
        return [tuple(image.shape) for image in images]

    handler = ready(ObjectDetector(), model)
    batch = handler.preprocess([{"data": png(picture(5, 4))}, {"data": png(picture(3, 2))}])
    assert handler.inference(batch) == [(3, 4, 5), (3, 2, 3)]


def test_segmenter_gives_class_and_probability_of_each_pixel() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    logits[1, 2] = 9.0
    first, second = ready(ImageSegmenter()).postprocess({"out": logits})
    assert (len(first), len(first[0])) == (4, 5)
    assert first[0][0] == [0.0, pytest.approx(1 / 3)]
    assert second[3][4] == [2.0, pytest.approx(1.0, abs=1e-3)]


def test_torch_save_body_is_never_unpickled() -> None:
    """TorchServe's densenet handler unpickled what a client sent."""
    file = io.BytesIO()
    torch.save(torch.zeros(3, 224, 224), file)
    with pytest.raises(InvalidRow, match=r"torch\.save, which is never unpickled here"):
        ready(DenseNetHandler()).preprocess([{"body": bytearray(file.getvalue())}])


def test_densenet_answers_each_request_with_its_tensor() -> None:
    handler = ready(DenseNetHandler(), nn.Flatten(), requests=2)
    results = handler.handle([{"data": [[1.0, 2.0]]}, {"data": [[3.0, 4.0]]}], handler.context)
    assert [result.tolist() for result in results] == [[[1.0, 2.0]], [[3.0, 4.0]]]


def test_pixel_limit_is_lifted_when_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    (tmp_path / "net.py").write_text("from torch import nn\nclass Net(nn.Identity): ...\n")
    context = testing.context(tmp_path, manifest={"model": {"modelFile": "net.py"}})
    context.system_properties["limit_max_image_pixels"] = False
    Grey().initialize(context)
    assert Image.MAX_IMAGE_PIXELS is None


def explained(handler: VisionHandler, *rows: dict[str, Any]) -> list[Any]:
    made = testing.context(manifest={"model": {}}, requests=len(rows), explain=True)
    explanations: list[Any] = handler.handle(list(rows), made)
    return explanations


@pytest.fixture
def linear() -> Any:
    torch.manual_seed(3)
    return ready(Grey(), nn.Sequential(nn.Flatten(), nn.Linear(784, 3)))


def test_explanation_is_the_weighted_picture_when_model_is_linear(linear: VisionHandler) -> None:
    """Integrated gradients of a linear model are exactly its weights times its input."""
    (explanation,) = explained(linear, {"data": TWO, "target": 2})
    expected = linear.model[1].weight[2].reshape(1, 28, 28) * linear.preprocess([{"data": TWO}])[0]
    torch.testing.assert_close(torch.tensor(explanation), expected, atol=1e-5, rtol=0)


def test_explanations_of_a_batch_are_those_of_its_requests_alone(linear: VisionHandler) -> None:
    rows: list[dict[str, Any]] = [{"data": TWO, "target": 1}, {"data": (DIGITS / "7.png").read_bytes()}]
    assert explained(linear, *rows) == [*explained(linear, rows[0]), *explained(linear, rows[1])]


def test_unknown_target_is_refused_alone_when_batch_is_explained(linear: VisionHandler) -> None:
    with pytest.raises(InvalidRow, match="the model has 3 classes, 0 to 2") as refused:
        explained(linear, {"data": TWO}, {"data": TWO, "target": 3})
    assert refused.value.row == 1


def test_handlers_own_algorithm_is_used_when_it_sets_one(linear: VisionHandler) -> None:
    class Ones:
        def attribute(self, inputs: torch.Tensor, target: Any, n_steps: int) -> torch.Tensor:
            return torch.ones_like(inputs)

    linear.ig = Ones()
    assert explained(linear, {"data": TWO}) == torch.ones(1, 1, 28, 28).tolist()


MNIST_HANDLER = Path(__file__).parents[2] / "handlers" / "mnist"


def test_digits_are_recognised_and_explained_when_mnist_sample_is_loaded() -> None:
    files = {"modelFile": "mnist.py", "serializedFile": "mnist_cnn.pt"}
    handler = testing.load(MNIST_HANDLER / "mnist_handler.py", manifest={"model": files})
    rows = [{"data": (DIGITS / f"{digit}.png").read_bytes()} for digit in range(10)]
    assert json.dumps(handler(rows)) == json.dumps(list(range(10)))
    assert np.array(handler(rows[:2], explain=True)).shape == (2, 1, 28, 28)
