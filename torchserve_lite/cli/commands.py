"""``torchserve-lite COMMAND``: finds the command's module and runs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from torchserve_lite import __version__
from torchserve_lite.cli.parsing import DOCUMENTATION, Parser, did_you_mean
from torchserve_lite.errors import ServingError

GROUPS = {  # each command is a module beside this one, with EXAMPLES, add_arguments(parser) and run(arguments)
    "Serve": {
        "start": "serve the models that a configuration names",
        "llm": "serve one language model, from its folder or the Hugging Face hub",
        "stop": "stop the server, letting requests in flight finish",
        "logs": "show the log files of the running server, and follow them",
        "completion": "print the script by which a shell completes commands and flags",
        "config": "show the effective configuration, and where each value comes from",
    },
    "Make models": {
        "init": "write a handler project to start from",
        "archive": "pack a model into a .mar archive",
        "workflow-archive": "pack a workflow into a .war archive",
        "inspect": "show what an archive holds, and what will not work",
        "verify": "load an archive and ask it a sample request",
        "encode": "turn images or texts into the JSON of a KServe request",
        "kserve": "write the manifests by which KServe serves an archive",
    },
    "Speak to a running server": {  # these are in the package operators
        "predict": "ask a model of a running server, and print its answer",
        "status": "show a running server at a glance, its models and their workers",
        "top": "show what a running server is doing, live",
        "models": "show what a running server serves, and how it is",
        "register": "have a running server load an archive",
        "unregister": "have a running server give up a model, once its requests are answered",
        "scale": "set how many workers a model of a running server has",
        "default": "set which version of a model answers requests that name none",
        "update": "have a running server replace a model's archive without a gap",
        "log-level": "show or change which log lines a running server writes",
        "rollback": "have a running server return to the archive before the last update",
    },
}
OPERATORS = GROUPS["Speak to a running server"]
COMMANDS = {name: purpose for group in GROUPS.values() for name, purpose in group.items()}
_SECTIONS = {  # of the documentation, where it is not the command's name
    **dict.fromkeys(OPERATORS, "operators-commands"),
    "predict": "predict",
    "top": "top",
}
_EXAMPLES = (
    "torchserve-lite init words",
    "torchserve-lite start --model-store model_store --models all",
    "torchserve-lite predict mnist 4.png",
    "torchserve-lite status",
)


def run_command(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(argv)
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"there is no command {argv[0]}.{did_you_mean(argv[0], COMMANDS)}")
    arguments = parser.parse_args(argv)
    return reporting_errors("torchserve-lite", lambda: arguments.run(arguments))


def reporting_errors(program: str, run: Callable[[], int]) -> int:
    """Our own errors are for the user, who needs their message and no traceback."""
    _open_missing_streams()
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read has seen enough: ``torchserve-lite config | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would try to write the rest
        return 128 + signal.SIGPIPE
    except ServingError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell has it


def _open_missing_streams() -> None:
    """A process started without standard streams (``>&-``) would get sockets of its own under their numbers."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def parser_of_all() -> Parser:
    """With every command's flags, which costs the time to import them all."""
    return _parser(list(COMMANDS))


def _parser(argv: Sequence[str]) -> Parser:
    listed = "\n\n".join(
        "\n".join([f"{title}:", *(f"  {name:<18}{purpose}" for name, purpose in group.items())])
        for title, group in GROUPS.items()
    )
    parser = Parser(
        prog="torchserve-lite",
        usage="torchserve-lite COMMAND [OPTIONS]",
        description=f"Serves TorchServe model archives.\n\n{listed}",
        epilog="What a command takes: torchserve-lite COMMAND --help",
    )
    parser.examples = _EXAMPLES
    parser.add_argument(
        "--version", action="version", version=f"torchserve-lite {__version__}", help="print the version"
    )
    commands = parser.add_subparsers(prog=parser.prog, help=argparse.SUPPRESS)
    parser.commands = commands.choices
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if name in argv:  # the others are spared: their modules cost start-up time
            package = "torchserve_lite.cli.operators" if name in OPERATORS else "torchserve_lite.cli"
            module = import_module(f"{package}.{name.replace('-', '_')}")
            command.examples = module.EXAMPLES
            command.documented = f"{DOCUMENTATION}#{_SECTIONS.get(name, name)}"
            module.add_arguments(command)
            families = getattr(module, "FAMILIES", ())  # of flags that have any name after these beginnings
            for flag in {word.partition("=")[0] for word in argv if word.startswith(families)}:
                command.add_argument(flag, nargs="?", const="true")
            command.set_defaults(run=module.run)
    return parser
