"""``python -m ts.llm_launcher``: a server for one language model, as ``torchserve-lite llm`` starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """``args``: the command line's. This process becomes the server."""
    arguments = sys.argv[1:] if args is None else args
    os.execv(sys.executable, [sys.executable, "-m", "torchserve_lite", "llm", *arguments])


if __name__ == "__main__":
    main()
