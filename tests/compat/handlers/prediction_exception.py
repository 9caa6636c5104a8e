"""PredictionException carries its own status and the message for the client."""

from typing import Any

from ts.utils.util import PredictionException


class Refuses:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        request = data[0]["body"]
        if code := request.get("code"):
            raise PredictionException(request["message"], code)
        raise PredictionException(request["message"])
