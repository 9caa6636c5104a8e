"""Makes workflow archives for tests."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

SPEC = "models: {m: {url: m.mar}}\ndag: {pre: [m]}\n"
HANDLER = "def pre(data, context):\n    return data\n"


def war(
    folder: Path,
    *,
    name: str = "w",
    spec: str = SPEC,
    handler: str | None = HANDLER,
    manifest: object = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """``w.war`` in ``folder``, with the entries that torch-workflow-archiver writes. ``manifest``: another one."""
    path = folder / f"{name}.war"
    workflow = {"workflowName": name, "specFile": "workflow.yaml"}
    if handler is not None:
        workflow["handler"] = "h.py"
    honest = {"createdOn": "26/11/2026 20:45:27", "workflow": workflow, "archiverVersion": "0.2.15"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("workflow.yaml", spec)
        if handler is not None:
            archive.writestr("h.py", handler)
        for file, text in (files or {}).items():
            archive.writestr(file, text)
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(honest if manifest is None else manifest))
    return path
