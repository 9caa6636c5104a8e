"""What tests of several layers need: a model's spec and jobs for it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceRequest, Part, Verb
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.ipc.slabs import Slabs
from torchserve_lite.management.deployments import Deployment, DeploymentState, Revision

KEY = ModelKey("tiny", "1.0")
NO_SLABS = Slabs(0)

NewJob = Callable[..., Job]


class Holder:
    """A job's holder that calls ``hear`` with a job that nobody waits for any more."""

    def __init__(self, hear: Callable[[Job], object]) -> None:
        self._hear = hear

    def unwanted(self, job: Job) -> None:
        self._hear(job)


def spec_of(**facts: Any) -> ModelSpec:
    """``spec_of(queue_size=3)``: the spec of a model that needs no archive."""
    return ModelSpec(**{"key": KEY, "archive_url": "tiny.mar", "handler": "tiny", **facts})


def deployment_of(**facts: Any) -> Deployment:
    """What serves such a spec, without an archive on a disk."""
    spec = spec_of(**facts)
    archive = Archive(
        url=spec.archive_url,
        path=Path("unpacked"),
        scratch=Path("no such folder"),
        digest="",
        manifest=Manifest(),
        config=ModelConfig(),
    )
    options = ServingOptions(url=spec.archive_url)
    revision = Revision(spec=spec, options=options, archive=archive)
    return Deployment(
        name=spec.key.name,
        options=options,
        revision=revision,
        min_workers=spec.min_workers,
        max_workers=spec.max_workers,
        state=DeploymentState.SERVING,
    )


def failed_deployment(name: str, why: str) -> Deployment:
    """One whose archive could not be opened."""
    deployment = Deployment(name=name, options=ServingOptions(url=f"{name}.mar"))
    deployment.failed(ServingError(why))
    return deployment


def job_maker() -> NewJob:
    """``make(b"body", within=2)``: a job that arrives now, with a request id of its own and 2 s to live."""
    numbers = itertools.count(1)

    def make(body: Buffer = b"", *, within: float | None = None, key: ModelKey = KEY, **facts: Any) -> Job:
        request = {"verb": Verb.PREDICT, "parts": (Part("body", body),), **facts}
        now = asyncio.get_running_loop().time()
        asked = InferenceRequest(id=f"request-{next(numbers)}", model=key.name, version=None, **request)
        return Job(asked, key, now, None if within is None else now + within)

    return make


async def stream_of(job: Job) -> AnswerStream:
    """What follows the first piece of an answer that comes in pieces."""
    stream = (await job.answer).stream
    assert stream is not None
    return stream


@pytest.fixture
def new_job() -> NewJob:
    return job_maker()
