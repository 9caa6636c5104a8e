"""The web console: a page of static files, the events that it shows, and a way to ask models from it.

What it does to models it does by the management routes beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aiohttp import web

from torchserve_lite.core.requests import Headers, InferenceResponse, Part
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import ConsoleClosed, RouteNotFound, ShuttingDown
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http import kserve_v1, kserve_v2, torchserve
from torchserve_lite.protocols.http.answers import JSON
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.console_feed import ConsoleFeed
from torchserve_lite.protocols.http.openapi import (
    MODEL_INPUT,
    MODEL_OUTPUT,
    OF_AN_INFERENCE,
    TEXT,
    TIME_LIMIT,
    Answer,
    Operation,
)
from torchserve_lite.protocols.http.requests import READ, Target, make_request
from torchserve_lite.protocols.http.routing import RouteTable

_FILES = Path(__file__).parents[2] / "console"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SAFE = (
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_OF_AN_ANSWER = (  # which a handler wrote: a browser that is led to it shall run nothing of it
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)
_KEPT_FROM_HANDLERS = {"authorization", "cookie"}  # the management key is no handler's business

_TAG = "Console"
_OPEN = Operation(
    id="console",
    path="/console",
    summary="The web console.",
    answers={200: Answer("The page.", TEXT, "text/html")},
    raises=(ConsoleClosed,),
    tag=_TAG,
)
_FILE = Operation(
    id="consoleFile",
    path="/console/{file}",
    summary="A file that the page loads.",
    answers={200: Answer("The file.", TEXT, "*/*")},
    raises=(ConsoleClosed, RouteNotFound),
    tag=_TAG,
)
_WATCH = Operation(
    id="consoleEvents",
    path="/console/events",
    summary="What the page shows: the last minutes at once, then what is new, once a second, without end.",
    answers={200: Answer("Server-Sent Events, each a JSON object.", TEXT, "text/event-stream")},
    raises=(ConsoleClosed, ShuttingDown),
    tag=_TAG,
)


def _asking(id_: str, path: str, summary: str) -> Operation:
    return Operation(
        id=id_,
        path=path,
        summary=summary,
        answers={200: MODEL_OUTPUT},
        raises=(*OF_AN_INFERENCE, ConsoleClosed),
        parameters=(TIME_LIMIT,),
        body=MODEL_INPUT,
        tag=_TAG,
    )


_PREDICT = _asking("consolePredict", "/console/predictions/{model_name}", "A prediction, for the page.")
_EXPLAIN = _asking("consoleExplain", "/console/explanations/{model_name}", "An explanation, for the page.")
_V1 = _asking("consoleV1", "/console/v1/models/{model_name}:predict", "KServe's V1, for the page.")
_V2 = _asking("consoleV2", "/console/v2/models/{model_name}/infer", "KServe's V2, for the page.")


class ConsoleRoutes:
    """Routes of the management address. ``feed`` is None where the console is closed; the routes then say ``closed``,
    why that is so."""

    def __init__(self, feed: ConsoleFeed | None, plane: DataPlane, bodies: Bodies, closed: str) -> None:
        self._feed = feed
        self._plane = plane
        self._bodies = bodies
        self._closed = closed
        self._files = {} if feed is None else {file.name: file.read_bytes() for file in _FILES.iterdir()}
        # Its links begin with ./, which is right at /console/; all others are relative to a file that is there.
        self._page_without_slash = self._files.get(_PAGE, b"").replace(b'"./', b'"console/')

    def add_to(self, table: RouteTable) -> None:
        static = table.group(ErrorForm.TORCHSERVE, Door.OPEN)  # the page has nothing in it, and asks for the key
        group = table.group(ErrorForm.TORCHSERVE, Door.MANAGEMENT, private=True)
        static.add(READ, "/console", self.page, _OPEN)
        group.add(READ, "/console/events", self.watch, _WATCH)
        group.add("POST", "/console/predictions/{path:.+}", self.predict, _PREDICT)
        group.add("POST", "/console/explanations/{path:.+}", self.explain, _EXPLAIN)
        group.add("POST", "/console/v1/models/{target:.+}", self.ask_v1, _V1)
        for path in ("/console/v2/models/{model}", "/console/v2/models/{model}/versions/{version}"):
            group.add("POST", f"{path}/{{verb:infer|explain}}", self.ask_v2, _V2)
        static.add(READ, "/console/{file}", self.file, _FILE)

    async def page(self, request: web.Request) -> InferenceResponse:
        """With and without a slash at the end; behind a proxy under any path."""
        self._check_open()
        page = self._files[_PAGE] if request.path.endswith("/") else self._page_without_slash
        return InferenceResponse(page, content_type=_TYPES[".html"], headers=_SAFE)

    async def file(self, request: web.Request) -> InferenceResponse:
        self._check_open()
        name = request.match_info["file"]
        if name not in self._files:
            raise RouteNotFound
        return InferenceResponse(self._files[name], content_type=_TYPES[Path(name).suffix], headers=_SAFE)

    async def watch(self, request: web.Request) -> InferenceResponse:
        return await self._check_open().open()

    async def predict(self, request: web.Request) -> InferenceResponse:
        return await self._ask(request, torchserve.prediction(request.match_info))

    async def explain(self, request: web.Request) -> InferenceResponse:
        return await self._ask(request, torchserve.explanation(request.match_info))

    async def ask_v1(self, request: web.Request) -> InferenceResponse:
        return await self._ask(request, kserve_v1.call(request.match_info))

    async def ask_v2(self, request: web.Request) -> InferenceResponse:
        return await self._ask(request, kserve_v2.call(request.match_info))

    async def _ask(self, request: web.Request, target: Target | None) -> InferenceResponse:
        """As the inference routes do, for whoever has the key to management."""
        self._check_open()
        if target is None:
            raise RouteNotFound
        await self._plane.check_known(target.model, target.version)
        parts = await self._bodies.parts(request)
        if target.content_type == JSON:
            parts = [Part("body", part.data, JSON) for part in parts]
        asked = make_request(request, target, parts)
        headers = tuple((name, value) for name, value in asked.headers if name.lower() not in _KEPT_FROM_HANDLERS)
        answer = await self._plane.infer(replace(asked, headers=headers))
        return replace(answer, headers=(*_without(answer.headers), *_OF_AN_ANSWER))

    def _check_open(self) -> ConsoleFeed:
        if self._feed is None:
            raise ConsoleClosed(self._closed)
        return self._feed


def _without(headers: Headers) -> Headers:
    ours = {name.lower() for name, _ in _OF_AN_ANSWER}
    return tuple((name, value) for name, value in headers if name.lower() not in ours)
