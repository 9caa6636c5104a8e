"""Opens workflow archives (.war): unpacked in a folder of their own, manifest and specification read."""

from __future__ import annotations

import ast
import shutil
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchserve_lite.archive.manifest import Manifest, checked_name, kind_of, read_object
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.source_code import parsed, top_level
from torchserve_lite.archive.store import Archive, is_url, last_part
from torchserve_lite.archive.unpacking.entries import ArchiveError, UnpackLimits, name_problem, shown
from torchserve_lite.archive.unpacking.unpack import unpack
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import (
    InvalidArchive,
    InvalidDAG,
    InvalidWorkflow,
    NoRoom,
    ServingError,
    WorkflowArchiveNotFound,
)
from torchserve_lite.workflows.spec import WorkflowSpec

MANIFEST_PATH = "WAR-INF/MANIFEST.json"

_FUNCTIONS_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowArchive:
    """An opened archive. ``path`` is the folder it is unpacked in, which leaving the archive removes; ``handler`` the
    file in it that its functions are in, "" when it has none."""

    url: str
    path: Path
    digest: str
    name: str
    handler: str
    spec: WorkflowSpec

    def function(self, node: str) -> Archive:
        """The archive of a node that is a function: all functions run in the folder of the workflow."""
        handler = f"{self.handler}:{node}"
        manifest = {
            "runtime": "python",
            "model": {"modelName": node, "handler": handler, "modelVersion": _FUNCTIONS_VERSION},
        }
        return Archive(
            url="",
            path=self.path,
            scratch=self.path.parent / f"{self.path.name}-{node}",  # nothing is unpacked for it, so it is never made
            digest="",
            manifest=Manifest(model_name=node, model_version=_FUNCTIONS_VERSION, handler=handler, raw=manifest),
            config=ModelConfig(),
        )

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStore:
    """The folder that workflow archives are looked up in, by name. ``open`` blocks; it ends with ShuttingDown on an
    ``interruption``."""

    folder: Path | None
    scratch: Path
    limits: UnpackLimits = field(default_factory=UnpackLimits)
    interruption: Interruption = field(default_factory=Interruption)

    def interrupted_by(self, interruption: Interruption) -> WorkflowStore:
        return replace(self, interruption=interruption)

    def locate(self, url: str) -> Path:
        """The file of the store that ``url`` names: its last part counts, whatever stands before."""
        name = last_part(url)
        if not name or ".." in url or is_url(url) or self.folder is None:
            raise WorkflowArchiveNotFound(url)
        path = self.folder / name
        try:
            found = path.exists()
        except (OSError, ValueError):  # a name too long for the file system, or with a NUL byte
            found = False
        if not found:
            raise WorkflowArchiveNotFound(url)
        return path

    def open(self, url: str) -> WorkflowArchive:
        return self.open_at(url, self.locate(url))

    def open_at(self, url: str, path: Path) -> WorkflowArchive:
        """Opens what lies at ``path`` under the name ``url``. Whatever is wrong with it is InvalidWorkflow or
        InvalidDAG."""
        folder = self.scratch / "workflows" / uuid.uuid4().hex
        name = last_part(url)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                if path.is_dir():
                    raise ArchiveError("is a folder. Pack it with torchserve-lite workflow-archive")
                digest = unpack(path, folder, self.limits, self.interruption)
                archive = _read(url, folder, digest)
            except NoRoom:
                raise
            except InvalidArchive as error:
                raise InvalidWorkflow(name, error.problem) from error
            except ArchiveError as error:
                raise InvalidWorkflow(name, str(error)) from error
            except ServingError:
                raise
            except Exception as error:  # whatever it is, it is about this archive alone
                reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                raise InvalidWorkflow(name, f"cannot be read: {reason}") from error
            undo.pop_all()
        return archive


def _read(url: str, folder: Path, digest: str) -> WorkflowArchive:
    if not (folder / MANIFEST_PATH).is_file():
        raise ArchiveError(
            f"has no {MANIFEST_PATH}, so it is no workflow archive. Make it with torchserve-lite workflow-archive"
        )
    try:
        manifest = read_object(folder / MANIFEST_PATH)
        workflow = manifest.get("workflow")
        if not isinstance(workflow, dict):
            raise ArchiveError("has no object named workflow")
        name = checked_name(_text(workflow, "workflowName"), "workflowName")
        spec_file, handler = _file(folder, workflow, "specFile"), _file(folder, workflow, "handler")
    except ArchiveError as error:
        raise ArchiveError(f"{MANIFEST_PATH}: {error}") from error
    if not spec_file:
        raise ArchiveError(f"{MANIFEST_PATH}: has no specFile, which names the file with models and dag")
    try:
        spec = WorkflowSpec.parse((folder / spec_file).read_bytes())
    except ArchiveError as error:
        raise ArchiveError(f"{spec_file} {error}") from error
    check_functions(folder, handler, spec)
    return WorkflowArchive(url=url, path=folder, digest=digest, name=name, handler=handler, spec=spec)


def check_functions(folder: Path, handler: str, spec: WorkflowSpec) -> None:
    """Nodes that are no models must be functions of the handler file. It is read, not run."""
    wanted = [name for name, node in spec.nodes.items() if not node.url]
    if not wanted:
        return
    if not handler:
        raise InvalidDAG(
            f"The node {wanted[0]} is not under models, and the archive has no handler with a function of its name."
        )
    there: set[str] = set()
    for statement in top_level(parsed(folder / handler, folder).body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            there.add(statement.name)
        elif isinstance(statement, ast.Assign):
            there |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            there |= {alias.asname or alias.name for alias in statement.names}
    if missing := [name for name in wanted if name not in there and "*" not in there]:
        raise InvalidDAG(f"The node {missing[0]} is neither under models nor a function in {handler}.")


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise ArchiveError(f"{key} must be a string, not {kind_of(value)}")
    return value


def _file(folder: Path, fields: Mapping[str, Any], key: str) -> str:
    """A file of the archive; "" when none is named."""
    name = _text(fields, key)
    if not name:
        return ""
    if problem := name_problem(name):
        raise ArchiveError(f"{key} {shown(name)} {problem}")
    if not (folder / name).is_file():
        raise ArchiveError(f"names the {key} {shown(name)}, which the archive does not hold")
    return name
