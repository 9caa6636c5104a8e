"""Intermediate answers before the last one; a word tells it to break off."""

from typing import Any

from ts.protocol.otf_message_handler import send_intermediate_predict_response


class Streams:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        context.set_response_header(0, "X-Stream", "yes")
        context.set_response_content_type(0, "text/x-words")
        for word in data[0]["body"].split():
            if word == "break":
                raise ValueError("broken off after the first part")
            send_intermediate_predict_response([word], context.request_ids, "Intermediate", 200, context)
        return [{"last": True}]
