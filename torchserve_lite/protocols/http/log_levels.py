"""``/logging``: which log lines the server writes, asked and changed while it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.openapi import (
    OF_A_BODY,
    TEXT,
    Answer,
    Named,
    Operation,
    Parameter,
    as_json,
    objects,
)
from torchserve_lite.protocols.http.queries import single_values
from torchserve_lite.protocols.http.requests import READ, is_json
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.registration import parameters_of
from torchserve_lite.telemetry.log_levels import LEVELS, ROOT, UnknownLogger, log_levels, set_log_level

log = logging.getLogger(__name__)

_SHOWN = Named("LogLevels", objects({"level": TEXT, "loggers": {"type": "object", "additionalProperties": TEXT}}))
_PARAMETERS = (
    Parameter(
        name="level",
        description="The least severe lines that are written; default: that of the loggers above.",
        schema={"type": "string", "enum": [*LEVELS, "default"]},
        required=True,
    ),
    Parameter(name="logger", description="Whose: torchserve_lite.engine, say. All where it is not given.", schema=TEXT),
)
_OPTIONAL = tuple(
    Parameter(name=one.name, description=one.description, schema=one.schema) for one in _PARAMETERS
)  # in the query, since they may be in the body
_ASK = Operation(
    id="logLevels",
    path="/logging",
    summary="The levels of the server's log lines.",
    answers={200: Answer("level is that of all that have none of their own.", _SHOWN)},
    tag="Management",
)
_CHANGE = Operation(
    id="setLogLevel",
    path="/logging",
    summary="Change a level, until the server stops.",
    answers={200: Answer("The levels as they are now.", _SHOWN)},
    raises=OF_A_BODY,
    parameters=_OPTIONAL,
    body=as_json("LogLevel", _OPTIONAL),
    tag="Management",
)


class LogLevelRoutes:
    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE, Door.MANAGEMENT)
        group.add(READ, "/logging", self.show, _ASK)
        group.add("PUT", "/logging", self.change, _CHANGE)

    async def show(self, request: web.Request) -> InferenceResponse:
        return _shown()

    async def change(self, request: web.Request) -> InferenceResponse:
        values: Mapping[str, object] = single_values(request)
        if not values and is_json(request):
            values = parameters_of(bytes(await self._bodies.read(request)))
        level, name = values.get("level"), values.get("logger") or ROOT
        if unknown := values.keys() - {"level", "logger"}:
            raise BadRequest(f"{min(unknown):.80} is no parameter of this call; it has level and logger.")
        if not isinstance(level, str) or level.lower() not in (*LEVELS, "default"):
            raise BadRequest(f"level must be one of {', '.join(LEVELS)} and default, not {level!r:.80}.")
        if not isinstance(name, str):
            raise BadRequest(f"logger must be the name of one, not {name!r:.80}.")
        try:
            set_log_level(None if level.lower() == "default" else level, name)
        except UnknownLogger as error:
            raise BadRequest(str(error)) from error
        log.warning("The level of log lines (%s) is %s now, by the management API.", name, level.lower())
        return _shown()


def _shown() -> InferenceResponse:
    root, *own = log_levels().items()
    return json_answer({"level": root[1], "loggers": dict(own)}, indent=2)
