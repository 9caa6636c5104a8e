"""The parser of every command: short help with examples, and for a word that is not known the one that was meant."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

DOCUMENTATION = "docs/command-line.md"


class Parser(argparse.ArgumentParser):
    """``examples``: command lines that the help shows. ``documented``: where the command is described.
    ``commands``: the parsers of its own commands, by name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"formatter_class": HelpFormatter} | options))
        self.examples: Sequence[str] = ()
        self.documented = DOCUMENTATION
        self.commands: Mapping[str, Parser] = {}

    def all_actions(self) -> Iterator[argparse.Action]:
        """Also those of the commands in this one."""
        yield from self._actions
        for command in self.commands.values():
            yield from command.all_actions()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Flags are looked at first: of a mistyped flag that is required, argparse says that it is missing."""
        words = list(args or ())
        if self._subparsers is not None:  # what follows a command's name is for its own parser
            words = list(takewhile(lambda word: word.startswith("-"), words))
        for word in takewhile(lambda word: word != "--", words):
            flag = word.partition("=")[0]
            if not word.startswith("--") or " " in word:  # with a blank in it argparse takes it for a value
                continue
            if not any(known.startswith(flag) for known in self._option_string_actions):
                self.error(f"there is no flag {flag}.{did_you_mean(flag, self._option_string_actions)}")
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"nothing is known to do with: {' '.join(left)}")
        return found, left

    def format_help(self) -> str:
        examples = "".join(f"  {line}\n" for line in self.examples)
        examples = f"\nexamples:\n{examples}" if examples else ""
        return f"{super().format_help()}{examples}\nDocumentation: {self.documented}\n"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n\n{self.format_usage()}Help: {self.prog} --help\n")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A usage of one line, which leaves the optional flags to the list below it."""

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: Any = None) -> None:
        shown = [action for action in actions if action.required or not action.option_strings]
        options = argparse.Action([], "options", nargs="?", metavar="OPTIONS")
        super().add_usage(usage, [options, *shown], [], prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Sentences are wrapped; what is indented is laid out already."""
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width, initial_indent=indent)
            for line in text.splitlines()
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        """A help of several lines keeps them."""
        return [part for line in text.splitlines() for part in textwrap.wrap(line, width)]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A question to put behind a message, empty when nothing is near."""
    import difflib

    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
