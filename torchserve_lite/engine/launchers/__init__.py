"""How a worker is started: ``forked`` (default), ``exec`` (an interpreter of its own), ``inline`` (in this process)."""

from __future__ import annotations

from torchserve_lite.engine.launchers.exec import start_exec
from torchserve_lite.engine.launchers.forked import start_forked
from torchserve_lite.engine.launchers.inline import start_inline
from torchserve_lite.engine.launchers.process import StartChild


def starter(launcher: str, python: str) -> StartChild:
    """``python``: the interpreter for ``exec``; a model with an interpreter of its own is always started that way."""
    if launcher == "inline":
        return start_inline
    if launcher == "exec" or python:
        return start_exec(python)
    return start_forked
