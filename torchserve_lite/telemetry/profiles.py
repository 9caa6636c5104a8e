"""Profiles of single requests, for clients that ask for one: where they are kept, and for how long.

The worker makes them (``worker/profiling.py``); a header of the answer says which file it is.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.errors import BadRequest

log = logging.getLogger(__name__)

HEADER = "x-torchserve-profile"
_MOST = 20  # files that are kept: a profile has some megabytes, and anybody may ask for one
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


class Profiles:
    """In ``folder``, the newest of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # workers have folders of their own

    def begin(self, request: InferenceRequest, spec: ModelSpec) -> None:
        """Has the request profiled if its client asks for that. BadRequest when its model cannot run one alone."""
        if request.verb is Verb.DESCRIBE or not _is_asked_for(request):
            return
        if spec.continuous:
            raise BadRequest(
                f"{HEADER}: model {spec.key.name} has continuousBatching, whose handler works at all requests "
                "together, so that none can be profiled alone."
            )
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{_NOT_OF_A_NAME.sub('_', str(spec.key))}-{request.id}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._folder.glob("*.json"))[: 1 - _MOST]:
                file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("Request %s is not profiled: %s cannot be used (%s)", request.id, self._folder, error.strerror)
        else:
            request.profile = str(self._folder / name)

    def tell(self, request: InferenceRequest, answer: InferenceResponse) -> None:
        """Which file it is, if the worker has written one. Of a streamed answer it is written behind the last piece."""
        file = Path(request.profile)
        if answer.stream is not None or file.exists():
            answer.headers = (*answer.headers, (HEADER, file.name))


def _is_asked_for(request: InferenceRequest) -> bool:
    return any(name.lower() == HEADER and value.strip().lower() == "true" for name, value in request.headers)
