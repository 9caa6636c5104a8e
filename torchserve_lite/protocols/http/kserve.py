"""What KServe's two REST protocols have in common: how they tell of a model's readiness, and of their models' names."""

from __future__ import annotations

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.openapi import KSERVE_ERROR, TEXT, YES_OR_NO, Answer, Named, lists, objects

_READINESS = Named("ModelReadiness", objects({"name": TEXT, "ready": YES_OR_NO}))
READINESS = {
    200: Answer("The model can answer.", _READINESS),
    503: Answer("It cannot, and why: an error, with name and ready where the model is known.", KSERVE_ERROR),
}
MODEL_NAMES = {200: Answer("The names of all models.", Named("ModelNames", objects({"models": lists(TEXT)})))}


async def readiness(health: Health, name: str, version: str | None = None) -> InferenceResponse:
    """503 while the model cannot answer, because a Kubernetes probe sees the status only."""
    found = await health.model(name, version)
    cause = found.server or found.models.get(name)
    if cause is None:
        return json_answer({"name": name, "ready": True})
    return json_answer({"name": name, "ready": False, **reply_to(cause, ErrorForm.KSERVE).body}, 503)
