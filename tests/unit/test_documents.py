"""What pages of the documentation quote and show is what there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LEAST = 8  # letters of a message between two gaps that tell it from others


def _texts(folder: Path) -> Iterator[str]:
    """All texts in the code, NUL for what is filled in."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)


def _quoted() -> Iterator[str]:
    for line in (_ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        yield from (cell.strip("|` ") for cell in cells[:2] if re.fullmatch(r"\|? ?`.*`", cell))


@pytest.fixture(scope="module")
def texts() -> str:
    return "\n".join(_texts(_ROOT / "torchserve_lite"))


def test_page_of_symptoms_quotes_messages() -> None:
    assert len(list(_quoted())) > 20


@pytest.mark.parametrize("message", list(_quoted()))
def test_message_of_the_page_of_symptoms_is_one_of_ours(message: str, texts: str) -> None:
    """But what the system says (the port)."""
    parts = [part.strip(" .=") for part in message.split("...")]
    telling = [part for part in parts if len(part) >= _LEAST and part != "address already in use"]
    assert telling
    assert [part for part in telling if part not in texts.replace("%s", "\0")] == []


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (_ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_first_handler_of_the_readme_answers_as_it_says(tmp_path: Path) -> None:
    (code,) = _blocks("README.md", "python")
    (session,) = _blocks("README.md", "console")
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "handler.py").write_text(code)
    question, answer = re.findall(r"-d '(.*)'\n(.*)\n", session)[-1]
    (tmp_path / "question.json").write_text(question)
    result = subprocess.run(
        [sys.executable, "-m", "torchserve_lite", "verify", str(folder), "--request", str(tmp_path / "question.json")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.splitlines()[-1] == answer


_PAGES = [page for folder in ("", "*/", "*/*/") for page in sorted(_ROOT.glob(f"{folder}*.md"))]


@pytest.mark.parametrize(
    "page",
    [
        name
        for name in (page.relative_to(_ROOT).as_posix() for page in _PAGES)
        if not name.startswith((".", "docs/", "site/"))
    ],
)
def test_links_of_pages_beside_the_documentation_lead_somewhere(page: str) -> None:
    """Those in docs/ are checked by the build of the site."""
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", (_ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (_ROOT / page).parent.joinpath(link).exists()] == []
