"""Which handler answers which method and path: a table that an application is made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import MethodNotAllowed, RouteNotFound
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import JSON
from torchserve_lite.protocols.http.guard import Guard
from torchserve_lite.protocols.http.openapi import ApiDescription, Operation
from torchserve_lite.protocols.http.requests import Target

Handler = Callable[[web.Request], Awaitable[InferenceResponse]]
"""A route: it takes a request and gives the answer, which the exchange sends."""

Check = Callable[[web.Request], Awaitable[None]]
"""Raises the ServingError that a request is to be answered with."""

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
    """Paths in aiohttp's notation. Every request, a refused one too, goes through ``answering``; and past the guard at
    the door that its group names, unless it is OPTIONS.

    Not aiohttp's middlewares: they would cost each request a third of what routing costs, and do not see its own
    answers for unknown paths and methods.
    """

    def __init__(self, answering: Answering, guard: Guard) -> None:
        self._answering = answering
        self._guard = guard
        self._paths: dict[str, tuple[dict[str, Handler], RouteGroup]] = {}
        self._checks: dict[str, Check] = {}
        self.plain: list[PlainRoute] = []
        self.description = ApiDescription()

    def group(self, form: ErrorForm, door: Door, *, private: bool = False) -> RouteGroup:
        """Routes that tell of their errors, refusals included, in one form, and that one key opens. ``private``: where
        there are no keys, pages of other sites may not read them either."""
        return RouteGroup(self._paths, self._checks, self.plain, self.description, self._guard, form, door, private)

    def fill(self, app: web.Application) -> None:
        self.group(ErrorForm.TORCHSERVE, self._guard.elsewhere).add_unknown("/{path:.*}")
        for path, (by_method, group) in self._paths.items():
            endpoint = self._endpoint(by_method, group, self._checks.get(path))
            path = path.replace(":.", ":(?s:.)")  # a name may have line breaks, which a dot leaves out
            app.router.add_route(ANY, path, endpoint, expect_handler=_leave_to_the_exchange)
            if not path.endswith(("/", "*}", "+}")) and f"{path}/" not in self._paths:  # as with TorchServe
                app.router.add_route(ANY, f"{path}/", endpoint, expect_handler=_leave_to_the_exchange)

    def _endpoint(
        self, by_method: dict[str, Handler], group: RouteGroup, check: Check | None
    ) -> Callable[..., Awaitable[web.StreamResponse]]:
        answering, form = self._answering, group.form
        for_any = by_method.get(ANY) or group.behind_its_door(_refusal(tuple(by_method)))
        by_method = {"OPTIONS": self._options(tuple(by_method), check), **by_method}

        async def endpoint(request: web.Request) -> web.StreamResponse:
            return await answering(request, by_method.get(request.method, for_any), form)

        return endpoint

    def _options(self, methods: tuple[str, ...], check: Check | None) -> Handler:
        """OPTIONS, on every path: the part of the API description that is about it. A browser asks it before it sends
        what crosses origins; what it wants to see are the headers of CORS, which are on every answer."""

        async def answer_options(request: web.Request) -> InferenceResponse:
            path = request.path
            allowed = methods if ANY not in methods else self.description.methods_at(path)
            headers = (("Allow", ", ".join((*allowed, "OPTIONS"))),)
            if "Access-Control-Request-Method" in request.headers:
                return InferenceResponse(b"", headers=headers)
            if check is not None:
                await check(request)
            return InferenceResponse(self.description.at(path, request.query), content_type=JSON, headers=headers)

        return answer_options


class RouteGroup:
    """Of groups that share a path, the first one refuses the methods that the path has not."""

    def __init__(
        self,
        paths: dict[str, tuple[dict[str, Handler], RouteGroup]],
        checks: dict[str, Check],
        plain: list[PlainRoute],
        description: ApiDescription,
        guard: Guard,
        form: ErrorForm,
        door: Door,
        private: bool,
    ) -> None:
        self._paths = paths
        self._checks = checks
        self._plain = plain
        self._description = description
        self._guard = guard
        self._door = door
        self._private = private
        self.form = form

    def add(self, methods: str | Sequence[str], path: str, handler: Handler, *described: Operation) -> None:
        """``methods``: one, several, or ANY. ``described``: what the route does, once for each path that the API
        description is to have for it."""
        if not described:
            raise TypeError(
                f"The route {path} has no description. Give add() an Operation for it, as the routes beside it have "
                "(openapi.py): its id, its path as clients write it, a summary, its parameters, and what it answers."
            )
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        self._answer(methods, path, handler)
        refusals = self._guard.refusals(self._door, methods, private=self._private)
        for operation in described:
            guarded = replace(operation, raises=(*operation.raises, *refusals))
            self._description.add(("GET",) if methods == (ANY,) else methods, guarded, self.form)

    def _answer(self, methods: Sequence[str], path: str, handler: Handler) -> None:
        by_method, _ = self._paths.setdefault(path, ({}, self))
        for method in methods:
            by_method[method] = handler if method == "OPTIONS" else self.behind_its_door(handler)

    def add_plain(self, path: str, target_of: TargetOf) -> None:
        """Lets the fast path answer the same as this path's handler, which takes its target from ``target_of`` too. It
        knows no door but that of inference."""
        assert self._door is Door.INFERENCE
        self._plain.append(PlainRoute(path, target_of, self.form))

    def add_unknown(self, path: str) -> None:
        """Refuse what is under this path and is no route, in this group's form."""
        self._answer((ANY,), path, _not_found)

    def check_options(self, path: str, check: Check) -> None:
        """OPTIONS is refused where ``check`` raises."""
        self._checks[path] = check

    def behind_its_door(self, handler: Handler) -> Handler:
        if not self._guard.watches(self._door):
            return handler

        async def guarded(request: web.Request) -> InferenceResponse:
            self._guard.check(request, self._door, private=self._private)
            return await handler(request)

        return guarded


def _refusal(allowed: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> InferenceResponse:
        raise MethodNotAllowed(allowed)

    return refuse


async def _not_found(request: web.Request) -> InferenceResponse:
    raise RouteNotFound


async def _leave_to_the_exchange(request: web.Request) -> None:
    """aiohttp would ask for a body, however long, before the route has looked at what it is for."""
