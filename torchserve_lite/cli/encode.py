"""``torchserve-lite encode``: image or text files -> the JSON that KServe's v1 or v2 protocol wants."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_lite.errors import BadRequest

if TYPE_CHECKING:
    from PIL import Image

_PLAIN_MODES = {"1": "L", "L": "L", "LA": "L"}  # grey stays grey: one channel; all else becomes RGB
_DEEP_MODES = ("I", "F")  # more than 8 bits a channel; a conversion would cut the values off

EXAMPLES = (
    "torchserve-lite encode 2.png > input.json",
    "torchserve-lite encode --protocol v2 --as tensor 2.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="an image or a UTF-8 text; several: a batch"
    )
    parser.add_argument("--protocol", choices=("v1", "v2"), default="v1", help="default: v1")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("bytes", "tensor"),
        default="bytes",
        help="bytes: the image in base64, the text as it is; tensor: pixels from 0 to 1, channel first, or code points",
    )
    parser.add_argument("--name", default="input-0", help="name of the v2 input; default: input-0")
    parser.add_argument("--id", help="id of the v2 request; default: a new UUID")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="file to write; default: standard output")


def run(arguments: argparse.Namespace) -> int:
    contents = [read_content(file) for file in arguments.files]
    as_tensor = arguments.form == "tensor"
    if arguments.protocol == "v1":
        request = {"instances": [{"data": c.tensor().data if as_tensor else c.as_text()} for c in contents]}
    else:
        request = _v2_request(contents, arguments.name, arguments.id or str(uuid.uuid4()), as_tensor=as_tensor)
    if arguments.output is None:
        try:
            print(json.dumps(request), flush=True)
        except BrokenPipeError:  # the reader, `head` for instance, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    try:
        arguments.output.write_text(f"{json.dumps(request)}\n")
    except OSError as error:
        raise BadRequest(f"{arguments.output} cannot be written: {error.strerror}") from error
    return 0


def _v2_request(contents: Sequence[Content], name: str, request_id: str, *, as_tensor: bool) -> dict[str, Any]:
    """``input-0`` counts on: ``input-1``; a name without a number gets one from the second input on."""
    numbered = re.fullmatch(r"(.*-)(\d+)", name)
    inputs = []
    for index, content in enumerate(contents):
        own_name = f"{name}-{index}" if index else name
        if numbered:
            own_name = f"{numbered[1]}{int(numbered[2]) + index}"
        tensor = content.tensor() if as_tensor else Tensor(shape=[1], datatype="BYTES", data=[content.as_text()])
        described = {"shape": tensor.shape, "datatype": tensor.datatype, "data": tensor.data}
        inputs.append({"name": own_name, **described})
    return {"id": request_id, "inputs": inputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    shape: list[int]
    datatype: str
    data: list[Any]


@dataclass(frozen=True, slots=True)
class TextContent:
    text: str

    def as_text(self) -> str:
        return self.text

    def tensor(self) -> Tensor:
        return Tensor(shape=[len(self.text)], datatype="INT64", data=[ord(character) for character in self.text])


@dataclass(frozen=True, slots=True)
class ImageContent:
    file: Path
    encoded: bytes

    def as_text(self) -> str:
        return base64.b64encode(self.encoded).decode("ascii")

    def tensor(self) -> Tensor:
        import numpy

        pixels = numpy.asarray(self._pixels(), dtype=numpy.float32) / numpy.float32(255)
        channels = pixels[numpy.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        shortest = channels.astype(str).astype(float)  # digits enough to give the same FP32 number, and no more
        return Tensor(shape=list(channels.shape), datatype="FP32", data=shortest.tolist())

    def _pixels(self) -> Image.Image:
        from PIL import Image

        with Image.open(io.BytesIO(self.encoded)) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise BadRequest(f"{self.file}: more than 8 bits a channel ({image.mode}); convert it to 8 bits first")
            return image.convert(_PLAIN_MODES.get(image.mode, "RGB"))


Content = TextContent | ImageContent


def read_content(file: Path) -> Content:
    """Told apart by what is in the file: an image if Pillow can read it, else UTF-8 text."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}") from error
    if not data:
        raise BadRequest(f"{file} is empty")
    if _is_image(file, data):
        return ImageContent(file, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is neither an image that Pillow can read nor UTF-8 text ({error.reason})") from error
    return TextContent(text.removesuffix("\n").removesuffix("\r"))  # an editor's line end is not part of the input


def _is_image(file: Path, data: bytes) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return False
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRequest(f"{file} is a damaged or unsuitable image: {error}") from error
    return True
