"""TorchServe's management service, with the answers of its REST API."""

from __future__ import annotations

import json
from typing import Any

from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Access, Door
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.protocols.grpc.calls import Call, Service
from torchserve_lite.protocols.grpc.messages import Messages
from torchserve_lite.protocols.management import (
    ACCEPTED,
    check_bounds,
    default_set,
    descriptions,
    model_list,
    page,
    registered,
    scaled,
    unregistered,
)
from torchserve_lite.protocols.registration import MOST_WORKERS, NUMBERS, registration_of

_PACKAGE = "org.pytorch.serve.grpc.management"
_TEXTS = ("handler", "model_name", "runtime", "url")


class ManagementService:
    """Pages of other sites, against which the REST API has its guard, cannot call this: browsers speak no gRPC."""

    def __init__(self, manager: ModelManager, plane: DataPlane, access: Access, messages: Messages) -> None:
        self._manager = manager
        self._plane = plane
        self._access = access
        self._answer = messages.named(f"{_PACKAGE}.ManagementResponse")

    @property
    def service(self) -> Service:
        return Service(
            name=f"{_PACKAGE}.ManagementAPIsService",
            methods={
                "DescribeModel": self.describe_model,
                "ListModels": self.list_models,
                "RegisterModel": self.register_model,
                "ScaleWorker": self.scale_worker,
                "SetDefault": self.set_default,
                "UnregisterModel": self.unregister_model,
            },
            door=Door.MANAGEMENT,
        )

    async def describe_model(self, request: Any, call: Call) -> Any:
        described = await descriptions(
            self._manager,
            self._plane,
            _name(request),
            request.model_version or None,
            request_id=call.request_id,
            customized=request.customized,
        )
        return self._json(described)

    async def list_models(self, request: Any, call: Call) -> Any:
        return self._json(page("models", model_list(self._manager), request.limit, request.next_page_token))

    async def register_model(self, request: Any, call: Call) -> Any:
        """Numbers from 0 down say nothing, as in TorchServe; nor is the client waited for unless it asks for it."""
        self._access.check_model_api()
        given: dict[str, object] = {name: getattr(request, name) for name in _TEXTS}
        for name in NUMBERS.keys() & request.DESCRIPTOR.fields_by_name.keys():
            if getattr(request, name) > 0:
                given[name] = getattr(request, name)
        registration = registration_of(
            {**given, "s3_sse_kms": request.s3_sse_kms, "synchronous": request.synchronous},
        )
        deployment = await self._manager.register(registration.options, synchronous=registration.synchronous)
        return self._answer(msg=registered(deployment, registration) or ACCEPTED)

    async def scale_worker(self, request: Any, call: Call) -> Any:
        """0 is what a client sends that says nothing: it cannot scale to 0, as in TorchServe."""
        name, version = _name(request), request.model_version or None
        low = _workers(request, "min_worker") or 1
        high = _workers(request, "max_worker") or low
        check_bounds(low, high)
        if not request.synchronous:
            self._manager.scale_in_background(name, version, low, high)
            return self._answer(msg=ACCEPTED)
        return self._answer(msg=scaled(name, version, await self._manager.scale(name, version, low, high)))

    async def set_default(self, request: Any, call: Call) -> Any:
        name = _name(request)
        if not request.model_version:
            raise BadRequest("Parameter model_version is required.")
        await self._manager.set_default(name, request.model_version)
        return self._answer(msg=default_set(name, request.model_version))

    async def unregister_model(self, request: Any, call: Call) -> Any:
        self._access.check_model_api()
        name = _name(request)
        await self._manager.unregister(name, request.model_version or None)
        return self._answer(msg=unregistered(name))

    def _json(self, value: object) -> Any:
        return self._answer(msg=json.dumps(value, indent=2) + "\n")


def _name(request: Any) -> str:
    if not request.model_name:
        raise BadRequest("Parameter model_name is required.")
    name: str = request.model_name
    return name


def _workers(request: Any, name: str) -> int:
    number: int = getattr(request, name)
    if not 0 <= number <= MOST_WORKERS:
        raise BadRequest(f"{name}={number}: it must be a whole number from 0 to {MOST_WORKERS}.")
    return number
