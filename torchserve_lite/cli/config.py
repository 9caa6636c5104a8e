"""``torchserve-lite config``: what a start with the same flags would be configured as, and from where each value is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_lite.cli.server_arguments import (
    add_address_arguments,
    add_server_arguments,
    find_configuration,
    read_configuration,
)
from torchserve_lite.cli.start_checks import check_settings

if TYPE_CHECKING:
    from torchserve_lite.config.effective import EffectiveSetting

_WIDE = 120  # columns of a terminal that has room for every key on one line
_NAME = 30  # columns that a narrower one has for a key

EXAMPLES = (
    "torchserve-lite config --changed",
    "torchserve-lite config job_queue_size",
    "torchserve-lite config --json --ts-config config.properties",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", metavar="KEY", help="explain this one (or its variable, TS_...)")
    parser.add_argument("--config", dest="ts_config", type=Path, metavar="FILE", help="the same as --ts-config")
    parser.add_argument("--changed", action="store_true", help="only what is not at its default")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_address_arguments(parser)
    add_server_arguments(parser)
    parser.epilog = (
        "Nothing is started. The exit status is 1 when a server would not start with this configuration, "
        "or when there is no such KEY."
    )


def run(arguments: argparse.Namespace) -> int:
    from torchserve_lite.config.effective import effective_settings
    from torchserve_lite.config.sources import gather_settings

    found = find_configuration(arguments, os.environ)
    file = found.file
    settings = gather_settings(file, found.command_line, found.environ)
    shown = effective_settings(settings)
    if arguments.key:
        return _explain(arguments, _named(arguments.key, shown))
    notices, problems = _verdict(arguments, [setting.problem for setting in shown if setting.problem])
    if arguments.changed:
        shown = [setting for setting in shown if setting.origin != "default"]
    if arguments.json:
        print(json.dumps(_document(file, shown, notices, problems), indent=2))
        return 1 if problems else 0
    _print(shown, f"configuration file: {file or 'none'}")
    for notice in notices:
        print(f"warning: {_printable(notice)}")
    for problem in problems:
        print(f"torchserve-lite: {_printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


def _verdict(arguments: argparse.Namespace, problems: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The notices that a start would show, and why it would not start. All bad values are told, not the first alone."""
    from torchserve_lite.errors import ConfigurationError

    if problems:
        return (), problems
    try:
        config = read_configuration(arguments, os.environ)
        check_settings(config)
    except ConfigurationError as error:
        return (), (str(error),)
    return config.notices, ()


def _named(name: str, settings: Sequence[EffectiveSetting]) -> EffectiveSetting:
    from torchserve_lite.config.effective import nearest_key
    from torchserve_lite.errors import ConfigurationError

    for setting in settings:
        if name == setting.name or (setting.key is not None and name == setting.key.variable):
            return setting
    nearest = nearest_key(name)
    raise ConfigurationError(f"{name} is not a known setting." + (f" Did you mean {nearest}?" if nearest else ""))


def _explain(arguments: argparse.Namespace, setting: EffectiveSetting) -> int:
    if arguments.json:
        print(json.dumps({setting.name: _fields(setting)}, indent=2))
    else:
        key = setting.key
        lines = {"value": setting.text or "(none)", "origin": setting.where}
        if key is not None:
            lines["default"] = "***" if key.secret and key.default else key.default or "(none)"
            lines["variable"] = f"{key.variable}, with enable_envvars_config=true" if key.variable else "(file only)"
            lines["flag"] = key.flag or "(none)"
            lines["meaning"] = setting.meaning
        lines |= {"note": setting.note} if setting.note else {}
        print(_printable(setting.name))
        for label, text in lines.items():
            print(f"  {label:<9} {_printable(text)}")
    if setting.problem:
        print(f"torchserve-lite: {_printable(setting.problem)}", file=sys.stderr)
    return 1 if setting.problem or setting.key is None else 0


def _print(settings: Sequence[EffectiveSetting], title: str) -> None:
    rows = [_row(setting) for setting in settings]
    if sys.stdout.isatty():
        _print_table(rows, title)
        return
    print(title)
    width = max((len(row[0]) for row in rows), default=0)
    for name, value, where, note in rows:
        print(f"{name:<{width}}  {value}  [{where}]{f'  {note}' if note else ''}")


def _row(setting: EffectiveSetting) -> tuple[str, str, str, str]:
    """The file is in the title."""
    where = setting.origin if setting.origin == "file" else setting.where
    note = "cannot be used" if setting.problem else setting.note
    return _printable(setting.name), _printable(setting.text or "-"), _printable(where), _printable(note)


def _print_table(rows: Sequence[tuple[str, str, str, str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("key", overflow="fold", max_width=None if console.width >= _WIDE else _NAME)
    for heading in ("value", "origin"):
        table.add_column(heading, overflow="fold")
    for name, value, where, note in rows:
        style = "dim" if where == "default" else "red" if note == "cannot be used" else ""
        cells = (name, value, f"{where}, {note}" if note else where)
        table.add_row(*(Text(cell) for cell in cells), style=style)  # as Text: brackets in it are no markup
    console.print(table)


def _document(
    file: Path | None, settings: Sequence[EffectiveSetting], notices: Sequence[str], problems: Sequence[str]
) -> Mapping[str, Any]:
    return {
        "file": None if file is None else str(file),
        "settings": {setting.name: _fields(setting) for setting in settings},
        "notices": list(notices),
        "problems": list(problems),
    }


def _fields(setting: EffectiveSetting) -> Mapping[str, Any]:
    key = setting.key
    fields: dict[str, Any] = {
        "value": setting.value,
        "origin": setting.origin,
        "place": setting.place or None,
        "known": key is not None,
        "note": setting.note or None,
        "problem": setting.problem or None,
    }
    if key is not None:
        fields |= {
            "default": "***" if key.secret and key.default else key.default or None,
            "variable": key.variable or None,
            "flag": key.flag or None,
            "meaning": setting.meaning,
        }
    return fields


def _printable(text: str) -> str:
    """On one line, and without escape sequences that would have their way with the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(text.split()))
