"""Manners of TorchServe's predecessor: everything through the request processor, the status by ``report_status``."""

from typing import Any

ready = False


def handle(data: Any, context: Any) -> Any:
    global ready
    if data is None:
        ready = True
        return None
    processor = context.request_processor[0]
    content_type = processor.get_request_property("Content-Type")
    processor.report_status(202, reason_phrase="Taken")
    processor.add_response_property("Content-Type", "text/html")
    return [f"<p>{content_type}, ready={ready}</p>"]
