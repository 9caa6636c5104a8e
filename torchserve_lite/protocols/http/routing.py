"""Which handler answers which method and path: a table that an application is made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiohttp import web

from torchserve_lite.errors import MethodNotAllowed, RouteNotFound

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Exchange = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
ANY = "*"


class Routes(Protocol):
    """The routes of one protocol."""

    def add_to(self, table: RouteTable) -> None: ...


class RouteTable:
    """Paths in aiohttp's notation. Every request, a refused one too, goes through ``exchange``.

    Not aiohttp's middlewares: they would cost each request a third of what routing costs, and do not see its own
    answers for unknown paths and methods.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._paths: dict[str, dict[str, Handler]] = {}

    def add(self, methods: str | Sequence[str], path: str, handler: Handler) -> None:
        """``methods``: one, several, or ANY."""
        for method in (methods,) if isinstance(methods, str) else methods:
            self._paths.setdefault(path, {})[method] = handler

    def fill(self, app: web.Application) -> None:
        for path, by_method in self._paths.items():
            app.router.add_route(ANY, path, self._endpoint(by_method))
        app.router.add_route(ANY, "/{path:.*}", self._endpoint({ANY: _not_found}))

    def _endpoint(self, by_method: dict[str, Handler]) -> Handler:
        exchange = self._exchange
        for_any = by_method.get(ANY) or _refusal(tuple(sorted(by_method)))

        async def endpoint(request: web.Request) -> web.StreamResponse:
            return await exchange(request, by_method.get(request.method, for_any))

        return endpoint


def _refusal(allowed: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise MethodNotAllowed(allowed)

    return refuse


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise RouteNotFound
