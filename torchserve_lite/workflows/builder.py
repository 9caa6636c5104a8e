"""Builds workflow archives: the same entries and the same manifest as torch-workflow-archiver 0.2 writes.

As with model archives, files are read from where they lie, and an archive is written whole or not at all.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchserve_lite.archive.builder import replacing
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.errors import BadRequest, Conflict, InvalidWorkflow, NotFound
from torchserve_lite.workflows.archive import MANIFEST_PATH, check_functions
from torchserve_lite.workflows.spec import WorkflowSpec

ARCHIVER_VERSION = "0.2.15"  # whose format we write

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowArchiveRequest:
    """What to pack; the fields are torch-workflow-archiver's flags, "" where one is not given."""

    workflow_name: str
    spec_file: str
    handler: str = ""
    extra_files: str = ""
    export_path: str = "."
    force: bool = False

    @property
    def target(self) -> Path:
        return Path(self.export_path, f"{self.workflow_name}.war")


def build(request: WorkflowArchiveRequest) -> Path:
    """Writes the archive and returns where. A specification that could not be registered is refused here already."""
    if not _NAME.fullmatch(request.workflow_name):
        raise BadRequest(
            "Workflow name contains special characters.\n"
            rf"The allowed regular expression filter for workflow name is: ^{_NAME.pattern}$"
        )
    if not Path(request.export_path).is_dir():
        raise BadRequest(
            f"Given export-path {request.export_path} is not a directory. Point to a valid export-path directory."
        )
    if request.target.exists() and not request.force:
        raise Conflict(
            f"{request.target} already exists.\n"
            "Please specify --force/-f option to overwrite the workflow archive output file.\n"
            "See -h/--help for more details."
        )
    files = _files(request)
    _check(request)
    with replacing(request.target) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, name)
        archive.writestr(MANIFEST_PATH, manifest_text(request, datetime.now()))
    return request.target


def manifest_text(request: WorkflowArchiveRequest, now: datetime) -> str:
    workflow = {"workflowName": request.workflow_name, "specFile": Path(request.spec_file).name}
    if request.handler:
        workflow["handler"] = Path(request.handler).name
    manifest = {
        "createdOn": now.strftime("%d/%m/%Y %H:%M:%S"),
        "workflow": workflow,
        "archiverVersion": ARCHIVER_VERSION,
    }
    return json.dumps(manifest, indent=2)


def _files(request: WorkflowArchiveRequest) -> dict[str, Path]:
    """Name in the archive -> where it lies. A later one replaces an earlier one of its name, as in the original."""
    given = [("--spec-file", request.spec_file), ("--handler", request.handler)]
    given += [("--extra-files", name.strip()) for name in request.extra_files.split(",")]
    files = {}
    for flag, name in given:
        path = Path(name)
        if name and not path.is_file():
            raise NotFound(
                f"{flag}: {name} is a folder, not a file." if path.is_dir() else f"{flag}: there is no file {name}."
            )
        if name:
            files[path.name] = path
    return files


def _check(request: WorkflowArchiveRequest) -> None:
    spec_file = Path(request.spec_file)
    try:
        spec = WorkflowSpec.parse(spec_file.read_bytes())
    except ArchiveError as error:
        raise InvalidWorkflow(spec_file.name, f"It {error}.") from error
    handler = Path(request.handler)
    try:
        check_functions(handler.parent, handler.name, spec)
    except ArchiveError as error:
        raise InvalidWorkflow(handler.name, f"{error}.") from error
