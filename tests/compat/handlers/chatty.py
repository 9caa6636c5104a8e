"""Writes to standard output, standard error and the log while it works; none of it reaches the client."""

import logging
import sys
import warnings
from typing import Any

logger = logging.getLogger(__name__)


class Chatty:
    def initialize(self, context: Any) -> None:
        print("loading", flush=True)
        warnings.warn("an old habit", DeprecationWarning, stacklevel=1)

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        print("printed, caf\u00e9")
        print("to stderr", file=sys.stderr)
        logger.info("logged")
        logger.debug("not shown")
        sys.stdout.write("no line end")
        return ["quiet" for _ in data]
