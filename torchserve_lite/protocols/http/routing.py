"""Which handler answers which method and path: a table that an application is made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import MethodNotAllowed, RouteNotFound
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.requests import READ, Target

Handler = Callable[[web.Request], Awaitable[InferenceResponse]]
"""A route: it takes a request and gives the answer, which the exchange sends."""

Answering = Callable[[web.Request, Handler, ErrorForm], Awaitable[web.StreamResponse]]
"""The exchange: it sends what the handler answers, or the error that stands for it."""

TargetOf = Callable[[Mapping[str, str]], Target | None]
"""What a path asks for, from the parts of it that a route names; it may raise ServingErrors."""

ANY = "*"


@dataclass(frozen=True, slots=True)
class PlainRoute:
    """A path on which a plain request is answered by the fast path."""

    path: str
    target_of: TargetOf
    form: ErrorForm


class Routes(Protocol):
    """The routes of one protocol."""

    def add_to(self, table: RouteTable) -> None: ...


class RouteTable:
    """Paths in aiohttp's notation. Every request, a refused one too, goes through ``answering``.

    Not aiohttp's middlewares: they would cost each request a third of what routing costs, and do not see its own
    answers for unknown paths and methods.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._paths: dict[str, tuple[dict[str, Handler], ErrorForm]] = {}
        self.plain: list[PlainRoute] = []

    def group(self, form: ErrorForm) -> RouteGroup:
        """Routes that tell of their errors, refusals included, in one form."""
        return RouteGroup(self._paths, self.plain, form)

    def fill(self, app: web.Application) -> None:
        unknown: tuple[dict[str, Handler], ErrorForm] = ({ANY: _not_found}, ErrorForm.TORCHSERVE)
        for path, (by_method, form) in {**self._paths, "/{path:.*}": unknown}.items():
            app.router.add_route(ANY, path, self._endpoint(by_method, form), expect_handler=_leave_to_the_exchange)

    def _endpoint(self, by_method: dict[str, Handler], form: ErrorForm) -> Callable[..., Awaitable[web.StreamResponse]]:
        answering = self._answering
        for_any = by_method.get(ANY) or _refusal(tuple(by_method))
        by_method = {
            "OPTIONS": _allowing((*READ, "POST", "PUT") if ANY in by_method else tuple(by_method)),
            **by_method,
        }

        async def endpoint(request: web.Request) -> web.StreamResponse:
            return await answering(request, by_method.get(request.method, for_any), form)

        return endpoint


class RouteGroup:
    def __init__(
        self, paths: dict[str, tuple[dict[str, Handler], ErrorForm]], plain: list[PlainRoute], form: ErrorForm
    ) -> None:
        self._paths = paths
        self._plain = plain
        self._form = form

    def add(self, methods: str | Sequence[str], path: str, handler: Handler) -> None:
        """``methods``: one, several, or ANY."""
        by_method, _ = self._paths.setdefault(path, ({}, self._form))
        for method in (methods,) if isinstance(methods, str) else methods:
            by_method[method] = handler

    def add_plain(self, path: str, target_of: TargetOf) -> None:
        """Lets the fast path answer the same as this path's handler, which takes its target from ``target_of`` too."""
        self._plain.append(PlainRoute(path, target_of, self._form))

    def add_unknown(self, path: str) -> None:
        """Refuse what is under this path and is no route, in this group's form."""
        self.add(ANY, path, _not_found)


def _refusal(allowed: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> InferenceResponse:
        raise MethodNotAllowed(allowed)

    return refuse


def _allowing(methods: tuple[str, ...]) -> Handler:
    """OPTIONS, on every path: a browser asks it before it sends what crosses origins, and the headers of CORS that it
    wants to see are on every answer."""
    allow = ", ".join((*methods, "OPTIONS"))

    async def answer_options(request: web.Request) -> InferenceResponse:
        return InferenceResponse(b"", headers=(("Allow", allow),))

    return answer_options


async def _not_found(request: web.Request) -> InferenceResponse:
    raise RouteNotFound


async def _leave_to_the_exchange(request: web.Request) -> None:
    """aiohttp would ask for a body, however long, before the route has looked at what it is for."""
