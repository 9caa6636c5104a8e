"""Forms of both encodings, from a request to the row that a handler gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy

from tests.fuzz.target import Choices, Target
from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import Part
from torchserve_lite.errors import BadRequest
from torchserve_lite.ipc.messages import Call, Predict, SentPart, decode_to_worker, encode
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.http import forms
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.worker.inputs import headers_of, row_of

_loop = asyncio.new_event_loop()
_bodies = Bodies(HttpConfig())
_NAMES = ("data", "body", "a", "", 'q"uote', "back\\slash", "é", "\u2603", "a;b=c", "..", "name*", "x" * 300, "a\tb")
_KINDS = ("", "application/json", "text/plain", "image/png", "text/plain; charset=\xff", "multipart/mixed; boundary=x")
_CONTENTS = (
    b"1",
    b"",
    b"[" * 900,
    b"\xff\xfe",
    b"{}",
    b"\r\n",
    b"--",
    b"\r\n--b",
    b"--b--",
    b"a\r\n\r\nb",
    b"NaN",
    b"9" * 5000,
)


def check(data: bytes) -> None:
    """The first byte chooses: a content type and a body as they come, one made of parts, or one that must come back."""
    form = Choices(data[:1]).below(4)
    choices = Choices(data[1:])
    if form == 3:
        _check_round_trip(choices)
        return
    if form == 2:
        content_type, body = b"multipart/form-data; boundary=b", _made_of_parts(choices)
    else:
        content_type, _, body = data[1:].partition(b"\n")
    try:
        parts = _loop.run_until_complete(_parts(content_type, body))
    except BadRequest as error:
        reply = reply_to(error, ErrorForm.TORCHSERVE)
        assert 400 <= reply.status < 500
        assert len(reply.json) < 3000
        return
    assert len(parts) <= 1000
    assert sum(len(part.data) for part in parts) <= len(body)
    _check_rows(parts)


async def _parts(content_type: bytes, body: bytes) -> Sequence[Part]:
    content = StreamReader(BaseProtocol(_loop), 2**16, loop=_loop)
    content.feed_data(body)
    content.feed_eof()
    request = make_mocked_request("POST", "/", payload=content)
    text = content_type.decode("utf-8", "surrogateescape")  # as aiohttp's parser has it, and its mock does not take
    request._headers = CIMultiDictProxy(CIMultiDict({"Content-Type": text}))
    return await _bodies.parts(request)


def _check_rows(parts: Sequence[Part]) -> None:
    """Nothing is lost on the way into the handler's row: each part is there, alone or in a list."""
    sent = tuple(SentPart(part.name, part.data, part.content_type) for part in parts)
    predict = decode_to_worker([bytearray(piece) for piece in encode(Predict(1, (Call("id", "predict", sent, ()),)))])
    assert isinstance(predict, Predict)
    (call,) = predict.calls
    row, headers = row_of(call, decode=True), headers_of(call)
    names = [part.name for part in parts]
    for name in names:
        assert names.count(name) == 1 or len(row[name]) >= names.count(name)
    assert set(row) == set(names)
    assert set(headers) == {*names, "explain"}


def _check_round_trip(choices: Choices) -> None:
    wanted = []
    for _ in range(choices.below(5)):
        name = choices.one_of(_NAMES) if choices.chance() else "".join(filter(str.isprintable, choices.text()))
        wanted.append((name.strip(), choices.some(choices.below(64))))
    boundary = choices.one_of(("b", "----WebKitFormBoundary0123456789", "'()+_,-./:=?"))
    if any(f"--{boundary}".encode() in content for _, content in wanted):
        return
    pieces = []
    for name, content in wanted:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{quoted}"\r\n\r\n'
        pieces.append(head.encode() + content + b"\r\n")
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    found = forms.boundary_of(f'multipart/form-data; boundary="{boundary}"')
    assert found is not None
    assert [(part.name, part.data) for part in forms.multipart(body, found)] == wanted


def _made_of_parts(choices: Choices) -> bytes:
    end = (b"\r\n", b"\n", b"\r", b"")
    body = choices.some(choices.below(8)) + b"--b\r\n"
    for _ in range(choices.below(6)):
        star = choices.one_of(("", "*"))
        head = f'Content-Disposition: form-data; name{star}="{choices.one_of(_NAMES)}"'
        if choices.chance():
            head += f'; filename{choices.one_of(("", "*"))}="{choices.one_of(_NAMES)}"'
        if choices.chance():
            head += f"\r\nContent-Type: {choices.one_of(_KINDS)}"
        if choices.chance(4):
            encoding = choices.one_of(("base64", "quoted-printable", "binary", "x", choices.text()))
            head += f"\r\nContent-Transfer-Encoding: {encoding}"
        content = choices.one_of(_CONTENTS) if choices.chance() else choices.some(choices.below(32))
        line = choices.one_of(end) if choices.chance(6) else b"\r\n"
        body += (
            head.encode() + b"\r\n" + line + content + line + choices.one_of((b"--b", b"--b", b"--b--", b"--bc")) + line
        )
    return body


_SEEDS = (
    b"multipart/form-data; boundary=b\n--b\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n7\r\n--b--\r\n",
    b'multipart/form-data; boundary="b c"\npre\r\n--b c\r\nContent-Disposition: form-data; name=a; filename="f\\"x"\r\n'
    b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\naGk=\r\n--b c\r\n\r\nx\r\n--b c--\r\nafter",
    b"multipart/form-data; boundary=b\n--b\r\nContent-Disposition: form-data;\r\n name*=utf-8''%e2%98%83\r\n"
    b"\r\n7\r\n--b--",
    b"application/x-www-form-urlencoded\na=1&b=%ff%00&c+d=e+f&a=2&%=%%",
    b"application/json\n{}",
    b"MULTIPART/FORM-DATA\nx",
    b"multipart/form-data; boundary=\xff\n--\xff\r\n",
    b"multipart/form-data; boundary=b\n" + b"--b\r\n\r\n" * 100,
)  # fmt: skip

TARGETS = {
    "multipart": Target(
        check=check,
        seeds=[b"\0" + seed for seed in _SEEDS]
        + [bytes([2]) + bytes([3, i, 2, i // 2, 1, i % 7, 0, 5]) * 9 for i in range(0, 250, 11)]
        + [bytes([3, 4]) + bytes([i, 7, 3, i // 3]) * 20 for i in range(0, 250, 31)],
        words=[
            b"--b", b"\r\n", b"\r\n\r\n", b"--b--", b"Content-Disposition: form-data; ", b'name="a"', b"name*=",
            b'filename="f"',
            b"Content-Type: ", b"Content-Transfer-Encoding: ", b"base64", b"quoted-printable", b"boundary=",
            b"utf-8''", b"%ff",
            b"multipart/form-data; boundary=b\n", b"application/x-www-form-urlencoded\n", b"\\\"", b"=\r\n", b"=FF",
            b"&", b"\t",
            *_CONTENTS[:10],
        ],
    )
}  # fmt: skip
