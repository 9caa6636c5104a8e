"""Ways for a request to end its worker; the next request is served by the one that takes its place."""

import os
import sys
from typing import Any


class Exits:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        match data[0]["body"]:
            case "sys.exit":
                sys.exit(3)
            case "os._exit":
                os._exit(4)
            case "header":
                context.set_response_header(0, "X-Number", 5)
        return ["still here"]
