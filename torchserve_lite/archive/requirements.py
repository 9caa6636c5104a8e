"""Reads an archive's requirements file with distrust: it may choose packages, not where they come from.

Packages come from the index the server's operator configured for pip, or lie in the archive. Otherwise whoever can
register a model chooses which host the server fetches code from. What was read and found good is written out again
for pip, in plain lines, so that no trick of the grammar makes pip read another thing than we did.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.unpacking.entries import ArchiveError, name_problem, shown

# All that pip takes for a file rather than a name when it stands in a line without a slash.
PACKAGE_SUFFIXES = (
    *(".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz"),
    *(".tar.xz", ".txz", ".tar.lz", ".tlz", ".tar.lzma"),
)

_COMMENT = re.compile(r"(^|\s+)#.*$")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_INCLUDE = re.compile(r"(?P<option>-r|--requirement|-c|--constraint)[\s=]*(?P<file>[^\s=]+)")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_HARMLESS = frozenset({"--pre", "--prefer-binary", "--require-hashes", "--only-binary", "--no-binary"})
_DEEPEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """Lines for pip: what to install, and the constraints on versions (from included ``-c`` files)."""

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()


def read_requirements(folder: Path, name: str) -> Requirements:
    """``name`` is relative to ``folder``, the model's. An ArchiveError names file and line of what pip may not see."""
    read = list(_read(folder, name, False, 0))
    return Requirements(
        lines=tuple(line for line, constrains in read if not constrains),
        constraints=tuple(line for line, constrains in read if constrains),
    )


def _read(folder: Path, name: str, constrains: bool, depth: int) -> Iterator[tuple[str, bool]]:
    if name_problem(name) or not (folder / name).is_file():
        raise ArchiveError(f"asks for the requirements file {shown(name)}, which it does not hold")
    if depth > _DEEPEST:
        raise ArchiveError(f"has requirements files that include one another more than {_DEEPEST} deep")
    for number, line in _lines(folder / name):
        if included := _INCLUDE.fullmatch(line):
            inner = (Path(name).parent / included["file"]).as_posix()
            yield from _read(folder, inner, constrains or "-c" in included["option"], depth + 1)
            continue
        if problem := _problem(folder, line):
            raise ArchiveError(
                f"{name} line {number}: {shown(line)} {problem}. Packages come from the index that the server's pip "
                "is configured for (pip.conf, PIP_INDEX_URL) or from files in the archive"
            )
        yield line, constrains


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """A backslash continues a line, ' #' begins a comment; the number is that of the last line joined."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"has a requirements file that is not UTF-8 ({file.name}, byte {error.start})") from error
    joined = ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        joined += line.removesuffix("\\")
        if not line.endswith("\\") or _COMMENT.match(line):
            if complete := _COMMENT.sub("", joined).strip():
                yield number, complete
            joined = ""


def _problem(folder: Path, line: str) -> str:
    if variable := _VARIABLE.search(line):  # pip would replace it, ask the index for its value and tell it in its error
        return f"reads the variable {variable[0]} of the server, which an archive may not"
    try:
        words = shlex.split(line) if "-" in line else [line]
    except ValueError as error:
        return f"cannot be read ({error})"
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    allowed = _HARMLESS if line.startswith("-") else {"--hash"}
    if forbidden := next((option for option in options if option not in allowed), None):
        return f"uses the option {forbidden[:40]}, which an archive may not"
    return "" if line.startswith("-") else _source_problem(folder, line)


def _source_problem(folder: Path, requirement: str) -> str:
    wanted = _without_conditions(requirement)
    if "@" in wanted or _URL.match(wanted):
        return "names a place to fetch a package from"
    path = _path_in(requirement)
    if path and (name_problem(path) or not (folder / path).exists()):
        return "is not in the archive"
    return ""


def for_pip(lines: Iterable[str], folder: Path) -> str:
    """The text of a file for pip, which runs elsewhere than in ``folder``: paths in the archive become absolute."""
    located = []
    for line in lines:
        path = "" if line.startswith("-") else _path_in(line)
        located.append(f"{(folder / path).resolve()}{line.strip().removeprefix(path)}" if path else line)
    return "\n".join(located)


def _path_in(requirement: str) -> str:
    """The file or folder that a line names, if it does so rather than naming a package."""
    path = _without_conditions(requirement).partition("[")[0].strip()
    is_path = "/" in path or "\\" in path or path.startswith((".", "~")) or path.lower().endswith(PACKAGE_SUFFIXES)
    return path if is_path else ""


def _without_conditions(requirement: str) -> str:
    return re.split(r"\s--|;", requirement)[0].strip()
