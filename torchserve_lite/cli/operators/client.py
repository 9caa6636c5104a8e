"""One server's management API, as a client sees it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from torchserve_lite.cli.operators.connection import Connection

_CONNECTS_WITHIN = 10.0  # seconds
_ASKED_AT_ONCE = 8  # descriptions, of a server with many models

Described = Mapping[str, Any]  # one version, as the describe call has it


class NoServer(Exception):
    """Nobody answers at the address, or not in time, or not in HTTP."""


class Refused(Exception):
    """The server answered that it will not, or cannot. ``advice``: what helps, if we know."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer
        self.advice = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A call of the API. Parameters that are None are not sent."""

    method: str
    path: str
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def target(self) -> str:
        given = {name: _as_text(value) for name, value in self.parameters.items() if value is not None}
        return f"{self.path}?{urlencode(given)}" if given else self.path


@dataclass(frozen=True, slots=True)
class Answer:
    """``text`` is the body as it came; ``document`` what it says, None when that is no JSON."""

    status: int
    text: str
    document: Any

    @property
    def message(self) -> str:
        """In words, for somebody who reads no JSON."""
        if isinstance(self.document, Mapping):
            for field_name in ("message", "status", "error"):
                if isinstance(self.document.get(field_name), str):
                    return str(self.document[field_name])
        if self.document is None:
            return f"What answers is no management API: HTTP status {self.status} and a body that is no JSON."
        return f"The server answered with HTTP status {self.status} and no message."

    @property
    def type(self) -> str:
        """The class name that an error carries."""
        return str(self.document.get("type", "")) if isinstance(self.document, Mapping) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model's versions and which of them is the default; or what the server says instead of describing it."""

    name: str
    versions: Sequence[Described] = ()
    default: str = ""
    trouble: str = ""


def model_path(name: str, version: str | None = None) -> str:
    parts = [name] if version is None else [name, version]
    return "/models/" + "/".join(quote(part, safe="") for part in parts)


def session_to(connection: Connection, patience: float) -> aiohttp.ClientSession:
    """``patience``: the longest that one call may take, in seconds."""
    url, key = connection.url, connection.key.value
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(url.removeprefix("unix:"))
        if url.startswith("unix:")
        else aiohttp.TCPConnector(ssl=connection.certificates),
        timeout=aiohttp.ClientTimeout(total=patience, sock_connect=_CONNECTS_WITHIN),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


def url_of(connection: Connection, target: str) -> URL:
    base = "http://localhost" if connection.url.startswith("unix:") else connection.url
    return URL(base + target, encoded=True)


@contextmanager
def no_server_without_answer(connection: Connection, patience: float) -> Iterator[None]:
    """What hinders an answer comes out as ``NoServer``."""
    try:
        yield
    except aiohttp.ClientSSLError as error:
        raise NoServer(
            f"No trusted connection to {connection.url}: {_reason(error)}. Name the certificate of its authority (or "
            "its own) with --cacert; --insecure does without, for trying things out."
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise NoServer(
            f"No server answers at {connection.url} ({connection.source}): {_reason(error)}. Is it running? Name "
            "another address with --url."
        ) from error
    except TimeoutError as error:
        raise NoServer(
            f"No answer from {connection.url} within {patience:g} s; it may still be at it. --timeout waits longer."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoServer(
            f"What listens at {connection.url} ({connection.source}) gave no answer in HTTP: {_reason(error)}. Is it "
            "the right address, and is it http or https?"
        ) from error


class ManagementClient:
    """Use as an async context manager. ``patience``: the longest that one call may take, in seconds."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self._connection = connection
        self._patience = patience

    async def __aenter__(self) -> ManagementClient:
        self._session = session_to(self._connection, self._patience)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    @property
    def url(self) -> str:
        return self._connection.url

    async def send(self, request: Request) -> Answer:
        """Its answer when that is a success."""
        with no_server_without_answer(self._connection, self._patience):
            # No redirects: whoever they lead to must not be shown the key.
            async with self._session.request(
                request.method, url_of(self._connection, request.target), allow_redirects=False
            ) as response:
                status, text = response.status, await response.text(errors="replace")
        answer = Answer(status, text, _parsed(text))
        if not 200 <= status < 300 or answer.document is None:
            raise Refused(answer)
        return answer

    async def model_names(self) -> list[str]:
        """Of all pages of the list."""
        names: list[str] = []
        token: object = None
        while True:
            page = (await self.send(Request("GET", "/models", {"limit": 100, "next_page_token": token}))).document
            names += [str(model["modelName"]) for model in page["models"]]
            if not page["models"] or not page.get("nextPageToken"):
                return names
            token = page["nextPageToken"]

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        """With all its versions, or the one that is named."""
        versions = (await self.send(Request("GET", model_path(name, version or "all")))).document
        default = (await self.send(Request("GET", model_path(name)))).document[0]
        return ServedModel(name=name, versions=versions, default=str(default["modelVersion"]))

    async def models(self) -> list[ServedModel]:
        """All that are listed, without those that are removed while they are asked for."""
        places = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def ask(name: str) -> ServedModel | None:
            async with places:
                try:
                    return await self.model(name)
                except Refused as refused:
                    if refused.answer.status == 404:
                        return None
                    return ServedModel(name=name, trouble=refused.answer.message)

        found = await asyncio.gather(*(ask(name) for name in await self.model_names()))
        return [model for model in found if model is not None]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """What the system said, without what asyncio and aiohttp put around it."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ConnectionError | FileNotFoundError | PermissionError) and cause.errno:
        return os.strerror(cause.errno)
    return str(getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or cause or type(cause).__name__)
