"""Programs that the server runs for a while."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Linux sends the signal when the thread that started the program ends. The server may have ended before this runs.
_EXECUTE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
"""


def ends_with_us(command: Sequence[str]) -> list[str]:
    """The command of a program that is killed when this process is, however that ends. Elsewhere than on Linux it is
    the program's own."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _EXECUTE, str(os.getpid()), *command]
