"""Says what is in an archive, what a worker would call, and what will not work, without running any of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchserve_lite.archive.built_in_handlers import BUILT_IN_HANDLERS
from torchserve_lite.archive.entry_points import check_model_file, describe_entry_point
from torchserve_lite.archive.formats import ModelFormat, format_of
from torchserve_lite.archive.installation import how_to_install
from torchserve_lite.archive.requirements import read_requirements
from torchserve_lite.archive.source_code import ImportedPackage, imported_packages, is_installed
from torchserve_lite.archive.store import Archive
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.archive.weights import pickled_classes

_NEVER_SHADOWED = frozenset({"torch", "numpy", "ts", "yaml", "PIL"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """``problems`` keep the model from working as it is, ``notes`` are worth knowing."""

    entries: Mapping[str, int]  # name -> bytes
    manifest: Mapping[str, Any] | None
    config: Mapping[str, Any]
    entry_point: str
    imports: tuple[ImportedPackage, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def inspect_archive(archive: Archive) -> Inspection:
    manifest, folder = archive.manifest, archive.path
    problems: list[str] = []
    entry_point = ""
    try:
        entry_point = describe_entry_point(folder, manifest.handler)
    except ArchiveError as error:
        problems.append(str(error))
    if manifest.runtime == "LSP":
        problems.append(
            "has the runtime LSP, for C++ handlers, which this server does not run. Use TorchServe's C++ backend"
        )
    if archive.config.unserved:
        problems.append(archive.config.unserved)
    problems += _missing_files(archive)

    module = manifest.handler.partition(":")[0].removesuffix(".py")
    imported_first = [f"{module}.py", f"{module}/__init__.py", *filter(None, [manifest.model_file])]
    imports = imported_packages(folder, [folder / name for name in imported_first])
    problems += _missing_packages(archive, imports)
    if manifest.requirements_file:
        try:
            read_requirements(folder, manifest.requirements_file)
        except ArchiveError as error:
            problems.append(str(error))
    problems += _weights_problems(archive)
    return Inspection(
        entries=entries_of(folder),
        manifest=manifest.raw,
        config=archive.config.raw,
        entry_point=entry_point,
        imports=imports,
        problems=tuple(problems),
        notes=(*archive.warnings, *_shadowing(folder)),
    )


def entries_of(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def packages_missing(names: Sequence[str], *more_advice: str) -> Iterator[str]:
    if names:
        advice = [*map(how_to_install, names), *more_advice]
        yield f"imports what is not installed here: {', '.join(names)}. {'. '.join(advice)}"


def _missing_files(archive: Archive) -> Iterator[str]:
    manifest = archive.manifest
    named = {
        "serializedFile": manifest.serialized_file,
        "modelFile": manifest.model_file,
        "configFile": manifest.config_file,
    }
    for key, name in named.items():
        if name and not (archive.path / name).exists():
            yield f"does not hold {name}, which its manifest names as {key}"


def _missing_packages(archive: Archive, imports: tuple[ImportedPackage, ...]) -> Iterator[str]:
    needed = [package.name for package in imports if package.missing]
    if (module := BUILT_IN_HANDLERS.get(archive.manifest.handler)) and not is_installed(module):
        needed.append(module)
    file = archive.manifest.requirements_file
    advice = [f"With install_py_dep_per_model=true the server installs what {file} asks for"] if file else []
    yield from packages_missing(needed, *advice)


def _weights_problems(archive: Archive) -> Iterator[str]:
    manifest = archive.manifest
    file = archive.path / manifest.serialized_file
    if not manifest.serialized_file or not file.is_file():
        return
    if format_of(file) is not ModelFormat.STATE_DICT:
        return
    name = manifest.serialized_file
    if classes := pickled_classes(file):
        yield (
            f"{name} is a pickle of {', '.join(classes[:5])}, which is not loaded (weights_only): "
            "it could run any code. Save model.state_dict() instead"
        )
    elif not manifest.model_file:
        yield f"{name} holds a state dict: it needs a model file (--model-file), unless its handler loads it by itself"
    model_file = archive.path / manifest.model_file
    if manifest.model_file and model_file.is_file():
        try:
            check_model_file(model_file, archive.path)
        except ArchiveError as error:
            yield str(error)


def _shadowing(folder: Path) -> Iterator[str]:
    """The model's folder comes first on a worker's path."""
    for path in sorted(folder.iterdir()):
        is_module = path.suffix == ".py" or (path / "__init__.py").is_file()
        if is_module and path.stem in sys.stdlib_module_names | _NEVER_SHADOWED:
            yield f"{path.name} hides the module {path.stem} of the same name from everything in the worker"
