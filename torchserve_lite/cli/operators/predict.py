"""``torchserve-lite predict``: files in, a running server's answers out."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import json
import mimetypes
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import ClientSession

from torchserve_lite.cli.operators.calling import DONE, NO_SERVER, REFUSED, add_common_arguments, shown, tell
from torchserve_lite.cli.operators.client import Answer, NoServer, no_server_without_answer, session_to, url_of
from torchserve_lite.cli.operators.connection import INFERENCE, Connection, find_connection
from torchserve_lite.cli.operators.heat_map import write_heat_map
from torchserve_lite.cli.parsing import did_you_mean
from torchserve_lite.errors import BadRequest

EXAMPLES = (
    "torchserve-lite predict mnist 4.png",
    "torchserve-lite predict mnist 4.png --explain",
    'echo "Once upon a time" | torchserve-lite predict story -',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Sends each file to a model of a running server and prints the answer, as it comes where the model streams it. "
        'JSON with "instances" or "inputs" is sent as KServe V1 or V2, anything else as it is.'
    )
    parser.add_argument("model", metavar="MODEL", help="the model")
    parser.add_argument("files", nargs="+", metavar="FILE", help="what it is asked; - is standard input")
    parser.add_argument("--version", help="default: the default version")
    parser.add_argument(
        "--explain", action="store_true", help="ask for an explanation; that of an image is saved as PNG beside it"
    )
    parser.add_argument("--content-type", metavar="TYPE", help="of the files; default: by their names")
    add_common_arguments(parser, loads=True, role=INFERENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    file: str
    status: int
    content_type: str
    milliseconds: float
    body: bytes

    @property
    def text(self) -> str:
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return f"{len(self.body)} bytes of {self.content_type}; redirect the output to keep them"

    @property
    def document(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def run(arguments: argparse.Namespace) -> int:
    contents = [(file, _content(file)) for file in arguments.files]  # before anything is asked
    connection = find_connection(arguments, os.environ, INFERENCE)
    try:
        return asyncio.run(_ask_all(arguments, connection, contents))
    except NoServer as error:
        tell(str(error))
        return NO_SERVER


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.") from error


async def _ask_all(arguments: argparse.Namespace, connection: Connection, contents: list[tuple[str, bytes]]) -> int:
    code, replies, handler_failed = DONE, [], False
    async with session_to(connection, arguments.timeout) as session:
        for file, data in contents:
            with no_server_without_answer(connection, arguments.timeout):
                reply = await _ask(arguments, connection, session, file, data)
            replies.append(reply)
            if reply.status >= 400:
                code = REFUSED
                answer = Answer(reply.status, reply.text, reply.document)
                advice = await _advice(arguments.model, answer, connection, session)
                tell(f"{'' if len(contents) == 1 else f'{file}: '}{answer.message}{advice}")
                handler_failed = handler_failed or answer.type == "InternalServerException"
    if handler_failed:  # its words are not for every client
        print("The server's terminal says why, and so does: torchserve-lite logs model", file=sys.stderr)
    if arguments.json:
        print(json.dumps([_document(reply) for reply in replies], indent=2))
    return code


def _document(reply: _Reply) -> dict[str, Any]:
    facts = asdict(reply)
    facts.pop("body")
    return {**facts, "answer": reply.text if reply.document is None else reply.document}


async def _ask(
    arguments: argparse.Namespace, connection: Connection, session: ClientSession, file: str, data: bytes
) -> _Reply:
    """Prints a good answer piece by piece, unless the whole of it is needed first."""
    kind = arguments.content_type or mimetypes.guess_type(file)[0] or "application/octet-stream"
    begun = time.perf_counter()
    async with session.post(
        url_of(connection, _path(arguments, data)), data=data, headers={"Content-Type": kind}, allow_redirects=False
    ) as response:
        if response.status < 400 and len(arguments.files) > 1 and not arguments.json:
            print(f"{shown(file)}: ", end="", flush=True)
        as_it_comes = response.status < 400 and not arguments.json and not arguments.explain
        printed = _Printed(alone=len(arguments.files) == 1)
        pieces = []
        async for piece in response.content.iter_any():
            pieces.append(piece)
            if as_it_comes:
                printed.add(piece)
        if as_it_comes:
            printed.end()
        reply = _Reply(
            file=file,
            status=response.status,
            content_type=response.content_type,
            milliseconds=round((time.perf_counter() - begun) * 1000, 1),
            body=b"".join(pieces),
        )
    if reply.status < 400 and arguments.explain:
        map_file = write_heat_map(Path(file), data, reply.document)
        if not arguments.json:
            print(f"explanation saved as {shown(str(map_file))}" if map_file else shown(reply.text))
    return reply


def _path(arguments: argparse.Namespace, data: bytes) -> str:
    name, version = quote(arguments.model, safe=""), arguments.version and quote(arguments.version, safe="")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "inputs" in body:
        place = f"{name}/versions/{version}" if version else name
        return f"/v2/models/{place}/{'explain' if arguments.explain else 'infer'}"
    if isinstance(body, dict) and "instances" in body and not version:  # V1 knows no versions
        return f"/v1/models/{name}:{'explain' if arguments.explain else 'predict'}"
    return f"/{'explanations' if arguments.explain else 'predictions'}/{name}{f'/{version}' if version else ''}"


class _Printed:
    """An answer on its way to standard output: bytes as they are, or, on a terminal, text that cannot drive it."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._terminal = sys.stdout.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._last = ""

    def add(self, piece: bytes, *, final: bool = False) -> None:
        if not self._terminal:
            sys.stdout.flush()
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            self._last = piece[-1:].decode("latin-1") or self._last
            return
        text = self._decoder.decode(piece, final)
        print("".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text), end="")
        sys.stdout.flush()
        self._last = text[-1:] or self._last

    def end(self) -> None:
        """The next answer or a prompt is to begin a line of its own; a file or a pipe gets the bytes that came."""
        self.add(b"", final=True)
        if self._last != "\n" and (self._terminal or not self._alone):
            print()


async def _advice(model: str, answer: Answer, connection: Connection, session: ClientSession) -> str:
    if answer.type == "InvalidKeyException":
        return (
            "\nThe inference key is looked for in --key, --key-file, TS_INFERENCE_KEY, and key_file.json of this "
            f"folder and beside the configuration file: {'; '.join(connection.key.looked)}."
        )
    if answer.type == "ModelNotFoundException":
        async with session.get(url_of(connection, "/v1/models")) as response:
            known = (await response.json()).get("models", []) if response.status == 200 else []
        there_are = f" There are: {', '.join(known)}." if known else ""
        return f".{did_you_mean(model, known) or there_are}"
    return ""
