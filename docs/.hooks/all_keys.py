"""Writes docs/all-keys.md: python docs/.hooks/all_keys.py. A test holds the page to this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torchserve_lite.config.keys import KEYS, Key, Support
from torchserve_lite.config.meanings import MEANINGS

PAGE = Path(__file__).parents[1] / "all-keys.md"
_HEAD = """# All keys

Every key of `config.properties`, in alphabetical order; [configuration](configuration.md) tells them by subject, and
`torchserve-lite config KEY` what one is set to and where. This page is written by `docs/.hooks/all_keys.py`.

*Whose*: a key of TorchServe 0.12 does what it does there, unless [differences](differences.md) say otherwise; one of
ours is not known there. *No effect*: accepted so that existing files work.

Variables count where the file has `enable_envvars_config=true`.

| key | meaning | default | variable | flag | whose |
|---|---|---|---|---|---|
"""


def page() -> str:
    told = (PAGE.parent / "configuration.md").read_text(encoding="utf-8")
    ours = set(re.findall(r"^\| `(\w+)` .*\(ours\)", told, re.MULTILINE))
    rows = (_row(key, "ours" if name in ours else "TorchServe's") for name, key in sorted(KEYS.items()))
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(key: Key, whose: str) -> Iterator[str]:
    states = {Support.NOW: "", Support.LATER: " To come.", Support.NONE: " No effect."}
    yield f"`{key.name}`"
    yield MEANINGS[key.name].replace("|", "\\|") + states[key.support]
    yield f"`{key.default}`" if key.default else ""
    yield f"`{key.variable}`" if key.variable else ""
    yield f"`{key.flag}`" if key.flag else ""
    yield whose


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
