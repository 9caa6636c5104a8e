"""``torchserve-lite completion``: the script by which a shell completes our commands, flags and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torchserve_lite.cli.parsing import Parser

EXAMPLES = (
    "torchserve-lite completion bash >> ~/.bash_completion",
    "torchserve-lite completion zsh > ~/.zfunc/_torchserve-lite",
    "torchserve-lite completion fish > ~/.config/fish/completions/torchserve-lite.fish",
)

_NAME = "torchserve-lite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that is to complete")


def run(arguments: argparse.Namespace) -> int:
    from torchserve_lite.cli.commands import COMMANDS, parser_of_all

    words = {name: _Words.of(parser) for name, parser in parser_of_all().commands.items()}
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]
    print("\n".join(script(COMMANDS, words)))
    return 0


@dataclass(frozen=True, slots=True)
class _Words:
    """What may follow a command: its flags and what they are for, the values of those that have few, and the words
    that may stand for themselves."""

    flags: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    takes_value: set[str] = field(default_factory=set)
    alone: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, parser: Parser) -> _Words:
        words = cls()
        for action in parser.all_actions():
            choices = tuple(str(choice) for choice in action.choices or ())
            if not action.option_strings:
                words.alone.extend(choices)
            purpose = " ".join((action.help or "").replace("%(default)", "").split())
            for flag in action.option_strings:
                words.flags[flag] = purpose
                if choices:
                    words.values[flag] = choices
                if action.nargs != 0:
                    words.takes_value.add(flag)
        return words


def _bash(purposes: Mapping[str, str], commands: Mapping[str, _Words]) -> Iterator[str]:
    yield "_torchserve_lite() {"
    yield '  local words="" current=${COMP_WORDS[COMP_CWORD]}'
    yield '  if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'    words="{" ".join(purposes)} --help --version"'
    yield "  else"
    yield '    case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in'
    for command, words in commands.items():
        for flag, values in words.values.items():
            yield f'      "{command} {flag}") words="{" ".join(values)}";;'
    yield '      *) case "${COMP_WORDS[1]} $current" in'
    for command, words in commands.items():
        yield f'        "{command} -"*) words="{" ".join(words.flags)}";;'
        if words.alone:
            yield f'        "{command} "*) words="{" ".join(words.alone)}";;'
    yield "      esac;;"
    yield "    esac"
    yield "  fi"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield f"complete -o bashdefault -o default -F _torchserve_lite {_NAME}"


def _zsh(purposes: Mapping[str, str], commands: Mapping[str, _Words]) -> Iterator[str]:
    yield f"#compdef {_NAME}"
    yield "_torchserve_lite() {"
    yield "  local -a found"
    yield "  if (( CURRENT == 2 )); then"
    yield f"    found=({' '.join(_zsh_word(name, purpose) for name, purpose in purposes.items())})"
    yield "    _describe command found"
    yield "    return"
    yield "  fi"
    yield '  case "$words[2] $words[CURRENT-1]" in'
    for command, words in commands.items():
        for flag, values in words.values.items():
            yield f"    '{command} {flag}') compadd -- {' '.join(values)}; return;;"
    yield "  esac"
    yield '  case "$words[2] $PREFIX" in'
    for command, words in commands.items():
        flags = " ".join(_zsh_word(flag, purpose) for flag, purpose in words.flags.items())
        yield f"    '{command} -'*) found=({flags}); _describe -o flag found;;"
        if words.alone:
            yield f"    '{command} '*) compadd -- {' '.join(words.alone)};;"
    yield "    *) _files;;"
    yield "  esac"
    yield "}"
    yield f'if [ "$funcstack[1]" = _{_NAME} ]; then _torchserve_lite; else compdef _torchserve_lite {_NAME}; fi'


def _zsh_word(word: str, purpose: str) -> str:
    return _quoted(f"{word}:{purpose}")


def _fish(purposes: Mapping[str, str], commands: Mapping[str, _Words]) -> Iterator[str]:
    for name, purpose in purposes.items():
        yield f"complete -c {_NAME} -n __fish_use_subcommand -f -a {name} -d {_fish_quoted(purpose)}"
    for command, words in commands.items():
        where = f"complete -c {_NAME} -n '__fish_seen_subcommand_from {command}'"
        if words.alone:
            yield f"{where} -f -a '{' '.join(words.alone)}'"
        for flag, purpose in words.flags.items():
            form = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            values = f" -x -a '{' '.join(words.values[flag])}'" if flag in words.values else ""
            needs = " -r" if flag in words.takes_value and not values else ""
            yield f"{where} {form}{needs}{values} -d {_fish_quoted(purpose)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
