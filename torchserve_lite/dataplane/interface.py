"""The seam that protocols see: eight verbs over the models that are served, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torchserve_lite.core.jobs import Job, Told
from torchserve_lite.core.memory import Memory
from torchserve_lite.core.models import Signature
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import ServingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What keeps requests from being answered: ``models`` has a cause for each model that is not ready, ``server``
    one that concerns them all."""

    models: Mapping[str, ServingError] = field(default_factory=dict)
    server: ServingError | None = None

    @property
    def ready(self) -> bool:
        return not self.models and self.server is None

    @property
    def causes(self) -> dict[str, object]:
        """For the answer of a health route: fields that are there only when there is something to say."""
        causes: dict[str, object] = {} if self.server is None else {"reason": str(self.server)}
        if self.models:
            causes["models"] = {name: str(error) for name, error in self.models.items()}
        return causes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A model and its versions, in the order in which they were registered. ``openai``: the names under which OpenAI's
    routes serve its default version, its own and its adapters'; none for a model that does not speak that protocol."""

    name: str
    versions: tuple[str, ...]
    loaded_at_startup: bool
    openai: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """``signature``: of the version that was asked about, or of the default one."""

    versions: tuple[str, ...]
    signature: Signature


class DataPlane(Protocol):
    """Local today; a front process of its own would have one that sends the same verbs over a socket."""

    def begin(self, request: InferenceRequest, told: Told) -> Job:
        """Starts a request. ``told`` is called once, when this call has returned, with its answer (a streamed one: as
        soon as its first piece is there) or with why there is none; not when the job is abandoned first.

        Raises the ServingErrors that are known at once: unknown models, full queues, no workers.
        """

    def memory_for(self, length: int) -> Memory:
        """To receive the body of one request into, of so many bytes. What it holds before that is arbitrary, and after
        it has been given to ``begin``: the answer may be written over it."""

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """``begin`` for those who await: any ServingError of the way comes out of here, and cancelling the call
        abandons the job."""

    async def check_known(self, name: str, version: str | None) -> None:
        """Raises ModelNotFound, ModelVersionNotFound or, for one that could not be registered,
        ModelNotRegistered."""

    async def readiness(self, name: str, version: str | None) -> Readiness:
        """Whether requests to this model can be answered; raises what ``check_known`` raises for an unknown one."""

    async def metadata(self, name: str, version: str | None) -> ModelMetadata:
        """Of one version, or of all; raises what ``check_known`` raises for an unknown one."""

    async def models(self) -> Sequence[ModelSummary]:
        """All models, by name."""

    async def server_ready(self) -> Readiness:
        """Ready when every model has all its workers. One that was scaled to 0 on purpose has."""
