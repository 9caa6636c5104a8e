"""Files -> the guide's request bodies."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import pytest
from PIL import Image

from torchserve_lite.cli import main

_DATA = Path(__file__).parents[2] / "data"
_TWO = _DATA / "digits" / "2.png"
_SENTENCE = "Bloomberg has reported on the economy"


@pytest.fixture
def sentence(tmp_path: Path) -> Path:
    file = tmp_path / "sentence.txt"
    file.write_text(f"{_SENTENCE}\n")
    return file


def _encoded(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    assert main(["encode", *map(str, argv)]) == 0
    return json.loads(capsys.readouterr().out)


def _sample(name: str) -> Any:
    return json.loads((_DATA / "kserve_requests" / name).read_text())


def _image(folder: Path, mode: str, color: Any, size: tuple[int, int] = (2, 1)) -> Path:
    file = folder / f"{mode}.png"
    Image.new(mode, size, color).save(file)
    return file


def test_image_becomes_the_guides_v1_request(capsys: pytest.CaptureFixture[str]) -> None:
    request = _encoded(capsys, _TWO)
    assert request == {"instances": [{"data": base64.b64encode(_TWO.read_bytes()).decode()}]}


def test_text_becomes_the_guides_v1_request(capsys: pytest.CaptureFixture[str], sentence: Path) -> None:
    assert _encoded(capsys, sentence) == _sample("v1_text_classifier.json")


def test_several_files_become_several_instances(capsys: pytest.CaptureFixture[str], sentence: Path) -> None:
    first, second = _encoded(capsys, _TWO, sentence)["instances"]
    assert second == {"data": _SENTENCE}
    assert first != second


def test_image_becomes_the_guides_v2_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's sample has four digits after the point."""
    request = _encoded(capsys, _DATA / "digits" / "1.png", "--protocol", "v2", "--as", "tensor")
    (made,), (sample,) = request["inputs"], _sample("mnist_v2_tensor.json")["inputs"]
    assert {key: made[key] for key in made if key != "data"} == {key: sample[key] for key in sample if key != "data"}
    assert numpy.shape(made["data"]) == (1, 28, 28)
    assert numpy.max(made["data"]) <= 1.0


def test_image_becomes_v2_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    request = _encoded(capsys, _TWO, "--protocol", "v2", "--id", "7", "--name", "image")
    data = [base64.b64encode(_TWO.read_bytes()).decode()]
    assert request == {
        "id": "7",
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}],
    }


def test_text_becomes_v2_bytes(capsys: pytest.CaptureFixture[str], sentence: Path) -> None:
    (made,) = _encoded(capsys, sentence, "--protocol", "v2")["inputs"]
    assert made == {"name": "input-0", "shape": [1], "datatype": "BYTES", "data": [_SENTENCE]}


def test_text_becomes_code_points_as_in_the_guides_static_batch(
    capsys: pytest.CaptureFixture[str], sentence: Path
) -> None:
    first, second = _encoded(capsys, sentence, sentence, "--protocol", "v2", "--as", "tensor")["inputs"]
    assert (first["name"], second["name"]) == ("input-0", "input-1")
    assert (first["shape"], first["datatype"]) == ([37], "INT64")
    assert first["data"][:9] == [66, 108, 111, 111, 109, 98, 101, 114, 103]


def test_v2_request_has_a_new_uuid_each_time(capsys: pytest.CaptureFixture[str], sentence: Path) -> None:
    ids = {_encoded(capsys, sentence, "--protocol", "v2")["id"] for _ in range(2)}
    assert len({UUID(request_id) for request_id in ids}) == 2


def test_further_inputs_are_numbered_when_the_name_has_no_number(
    capsys: pytest.CaptureFixture[str], sentence: Path
) -> None:
    inputs = _encoded(capsys, sentence, sentence, "--protocol", "v2", "--name", "text")["inputs"]
    assert [made["name"] for made in inputs] == ["text", "text-1"]


@pytest.mark.parametrize(
    ("mode", "color", "channels"),
    [
        pytest.param("L", 51, [[[0.2, 0.2]]], id="grey"),
        pytest.param("1", 1, [[[1.0, 1.0]]], id="black and white"),
        pytest.param("LA", (51, 9), [[[0.2, 0.2]]], id="grey with alpha"),
        pytest.param("RGB", (255, 0, 51), [[[1.0, 1.0]], [[0.0, 0.0]], [[0.2, 0.2]]], id="colours"),
        pytest.param("RGBA", (255, 0, 51, 9), [[[1.0, 1.0]], [[0.0, 0.0]], [[0.2, 0.2]]], id="colours with alpha"),
        pytest.param("P", 0, [[[0.0, 0.0]]] * 3, id="palette"),
    ],
)
def test_image_tensor_is_channel_first_from_0_to_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mode: str, color: Any, channels: Any
) -> None:
    (made,) = _encoded(capsys, _image(tmp_path, mode, color), "--protocol", "v2", "--as", "tensor")["inputs"]
    assert made["shape"] == [len(channels), 1, 2]
    assert made["data"] == channels


def test_every_grey_value_arrives_as_the_same_float32(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "grey.png"
    Image.fromarray(numpy.arange(256, dtype=numpy.uint8).reshape(16, 16)).save(file)
    (made,) = _encoded(capsys, file, "--protocol", "v2", "--as", "tensor")["inputs"]
    expected = numpy.arange(256, dtype=numpy.float32).reshape(1, 16, 16) / numpy.float32(255)
    assert numpy.array_equal(numpy.array(made["data"], dtype=numpy.float32), expected)


def test_request_goes_to_a_file(tmp_path: Path, sentence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(sentence), "-o", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"instances": [{"data": _SENTENCE}]}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\xff\xfe\x00", "is neither an image that Pillow can read nor UTF-8 text", id="neither"),
        pytest.param(_TWO.read_bytes()[:150], "is a damaged or unsuitable image", id="truncated image"),
    ],
)
def test_unusable_file_is_named_with_its_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    file = tmp_path / "input"
    if content is not None:
        file.write_bytes(content)
    assert main(["encode", str(file)]) == 1
    assert f"{file} {message}" in capsys.readouterr().err


def test_deep_image_is_refused_as_a_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _image(tmp_path, "I;16", 1000)
    assert main(["encode", str(file), "--as", "tensor"]) == 1
    assert "more than 8 bits a channel" in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_an_error(sentence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(sentence), "-o", str(sentence.parent)]) == 1
    assert "cannot be written: Is a directory" in capsys.readouterr().err
