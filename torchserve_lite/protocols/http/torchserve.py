"""TorchServe's own inference routes: /ping, /predictions, /explanations."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from torchserve_lite.core.requests import InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest, BodyTooLarge, RouteNotFound
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.exchange import check_method, json_answer, make_request, media_type
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_MOST_FIELDS = 1000
_FORM = "application/x-www-form-urlencoded"


class TorchServeRoutes:
    """Routes of the inference address. ``max_body``: bytes a form may have in all."""

    def __init__(self, plane: DataPlane, health: Health, max_body: int) -> None:
        self._plane = plane
        self._health = health
        self._max_body = max_body

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.TORCHSERVE)
        group.add(ANY, "/ping", self.ping)
        group.add(ANY, "/predictions/{path:.+}", self.predictions)
        group.add(ANY, "/explanations/{path:.+}", self.explanations)
        group.add(ANY, "/invocations", self.invocations)
        group.add(ANY, "/models/{model}/invoke", self.invoke)
        group.add(ANY, "/{model}/predict", self.invoke)
        group.add(ANY, "/{model}/{version}/predict", self.invoke)

    async def ping(self, request: web.Request) -> InferenceResponse:
        """TorchServe's health: its two bodies and statuses, but truthful (no Healthy while a model fails to load), and
        when something is wrong it says what."""
        found = await self._health.server()
        status = "Healthy" if found.ready else "Unhealthy"
        return json_answer({"status": status, **found.causes}, 200 if found.ready else 500, indent=2)

    async def predictions(self, request: web.Request) -> InferenceResponse:
        return await self._infer(request, Verb.PREDICT)

    async def explanations(self, request: web.Request) -> InferenceResponse:
        return await self._infer(request, Verb.EXPLAIN)

    async def invoke(self, request: web.Request) -> InferenceResponse:
        """SageMaker's and the legacy routes: query arguments are parts of the request, too."""
        model, version = request.match_info["model"], request.match_info.get("version")
        return await self._invoke(request, model, version, await self._parts_with_query(request))

    async def invocations(self, request: web.Request) -> InferenceResponse:
        """The model is named by the query or a form field, or it is the only one loaded at start."""
        parts = await self._parts_with_query(request)
        named = next((part.data.decode("utf-8", "replace") for part in parts if part.name == "model_name"), None)
        if named:
            return await self._invoke(request, named, None, parts)
        startup = [model.name for model in await self._plane.models() if model.loaded_at_startup]
        if len(startup) != 1:
            raise BadRequest("Parameter model_name is required.")
        return await self._invoke(request, startup[0], None, parts)

    async def _parts_with_query(self, request: web.Request) -> Sequence[Part]:
        check_method(request)
        arguments = [Part(name, value.encode()) for name, value in request.query.items()]
        return [*arguments, *await read_parts(request, self._max_body)]

    async def _invoke(
        self, request: web.Request, model: str, version: str | None, parts: Sequence[Part]
    ) -> InferenceResponse:
        question = make_request(request, model=model, version=version, parts=parts, tell_verb=False)
        return await self._plane.infer(question)

    async def _infer(self, request: web.Request, verb: Verb) -> InferenceResponse:
        check_method(request)
        model, version, rest = split_path(request.match_info["path"])
        await self._plane.check_known(model, version)  # an unknown model is told before its body is read
        parts = await read_parts(request, self._max_body)
        question = make_request(
            request, model=model, version=version, verb=verb, parts=parts, more_headers=(("url_path", rest),)
        )
        return await self._plane.infer(question)


def split_path(path: str) -> tuple[str, str | None, str]:
    """``model[/version[/rest]]``; slashes at the end do not count."""
    model, *more = path.strip("/").split("/", 2)
    if not model:
        raise RouteNotFound
    return model, more[0] if more else None, more[1] if len(more) > 1 else ""


async def read_parts(request: web.Request, max_body: int) -> Sequence[Part]:
    """The parts of a form, or one part ``body``."""
    kind = media_type(request)
    if kind.lower() == "multipart/form-data" and "boundary=" in request.headers["Content-Type"]:
        return await _multipart(request, max_body)
    body = await request.read()
    if kind.lower() == _FORM and b"=" in body:
        return _form(body)
    return (Part("body", body, kind),)


def _form(body: bytes) -> list[Part]:
    fields = [field for field in body.split(b"&") if field]
    if len(fields) > _MOST_FIELDS:
        raise BadRequest(f"The form has {len(fields)} fields; at most {_MOST_FIELDS} are accepted.")
    pairs = (field.replace(b"+", b" ").partition(b"=") for field in fields)
    return [
        Part(unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(value)) for name, _, value in pairs
    ]


async def _multipart(request: web.Request, max_body: int) -> list[Part]:
    parts: list[Part] = []
    left = max_body
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or len(parts) >= _MOST_FIELDS:
                raise BadRequest(f"The multipart body is nested or has more than {_MOST_FIELDS} parts.")
            data = await _read_part(part, left, max_body)
            left -= len(data)
            parts.append(Part(part.name or "", data, _part_type(part)))
    except (ValueError, HttpProcessingError) as fault:
        raise BadRequest(f"The multipart body cannot be read: {fault}") from fault
    return parts


async def _read_part(part: BodyPartReader, left: int, max_body: int) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk():
        data += chunk
        if len(data) > left:
            raise BodyTooLarge(max_body)
    return bytes(data)


def _part_type(part: BodyPartReader) -> str:
    """Only a part with a file name keeps its content type, as in TorchServe; others reach the handler as bytes."""
    if part.filename is None:
        return ""
    return part.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip()
