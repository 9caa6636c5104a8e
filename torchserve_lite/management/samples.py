"""A sample request: what an archive is asked before others may ask it."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path

from torchserve_lite.archive.store import Archive
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import Envelope, InferenceRequest, Part, Verb

SAMPLE_NAME = "sample_request"
"""A file of this name in the archive, with any suffix that tells its content type, is its sample request."""

_LARGEST = 16 * 2**20


def sample_request(archive: Archive, key: ModelKey) -> InferenceRequest | None:
    """The request that the archive brings to try itself with; None when it has none that can be sent."""
    files = sorted(path for path in archive.path.glob(f"{SAMPLE_NAME}.*") if path.is_file() and not path.is_symlink())
    if not files or files[0].stat().st_size > _LARGEST:
        return None
    return request_of(files[0].read_bytes(), str(files[0]), key.name, key.version)


def request_of(
    data: bytes,
    file: str | Path,
    model: str,
    version: str | None = None,
    *,
    request_id: str = "sample",
    content_type: str = "",
    explain: bool = False,
) -> InferenceRequest:
    """A request with this body, in KServe's envelope when it looks like one of KServe's."""
    envelope = Envelope.NONE
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "instances" in body:
        envelope = Envelope.KSERVE
    elif isinstance(body, dict) and "inputs" in body:
        envelope = Envelope.KSERVE_V2
    kind = content_type or mimetypes.guess_type(file)[0] or "application/octet-stream"
    return InferenceRequest(
        id=request_id,
        model=model,
        version=version,
        verb=Verb.EXPLAIN if explain else Verb.PREDICT,
        parts=(Part("body", data, kind),),
        headers=(("explain", str(explain)),),
        envelope=envelope,
    )
