"""What a request that fails in the worker is told, and what the model's log says of it.

Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

import logging

from ts.utils.util import PredictionException

from torchserve_lite.core.shortening import MESSAGE, shortened
from torchserve_lite.ipc.messages import FailureKind, Reply
from torchserve_lite.worker.log_lines import report
from torchserve_lite.worker.outputs import ImpossibleStatus, Unserialisable, status_of
from torchserve_lite.worker.tracebacks import explain_failure, is_out_of_memory, named_place, text_of


class Failures:
    """Of one model, whose own code is told apart in tracebacks by its name and folder."""

    def __init__(self, model_name: str, model_dir: str, *, whole_tracebacks: bool = False) -> None:
        self._model_name = model_name
        self._model_dir = model_dir
        self._whole = whole_tracebacks

    def of_handler(self, request_ids: list[str], error: BaseException) -> Reply:
        """What each request of the handler's call is told."""
        self._report(f"The handler failed for request {', '.join(request_ids)}", error)
        return out_of_memory() if is_out_of_memory(error) else failed("Prediction failed")

    def of_result(self, request_id: str, error: BaseException, entry_point: object) -> Reply:
        """What the handler returned for this request cannot be sent."""
        if isinstance(error, Unserialisable):
            why = f"The handler's result for request {request_id} has no wire form: {error}"
            self.tell_of_results(why.removesuffix("."), entry_point)
            return failed("Unsupported model output data type.")
        if isinstance(error, ImpossibleStatus):
            report(logging.ERROR, f"Request {request_id} cannot be answered. {error}")
            return failed(str(error), FailureKind.CODE, 500)
        if isinstance(error, PredictionException):
            return chosen(error)
        return self.of_ours(request_id, "has a result that could not be sent", error)

    def of_ours(self, request_id: str, what: str, error: BaseException) -> Reply:
        """Something raised in our own code around the handler: this request alone fails, with 500."""
        self._report(f"Request {request_id} {what}", error)
        if is_out_of_memory(error):
            return out_of_memory()
        return failed(f"The request {what}; the model's log says why.", FailureKind.CODE, 500)

    def tell_of_results(self, why: str, entry_point: object) -> None:
        """In the model's log: what is wrong with results, and which of the handler's functions returned them."""
        handler = getattr(entry_point, "__self__", None)
        for function in (getattr(handler, "postprocess", None), entry_point):
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if code is not None and code.co_filename.startswith(f"{self._model_dir}/"):
                place = named_place(code.co_filename, self._model_name, self._model_dir)
                why = f"{why} (see {code.co_name}, {place}:{code.co_firstlineno})"
                break
        report(logging.ERROR, f"{why}.")

    def tell_of_exit(self, error: BaseException) -> None:
        """It ends the worker, which is told of without a traceback otherwise."""
        failure = explain_failure(error, self._model_name, self._model_dir)
        stage = f" in {failure.stage}" if failure.stage else ""
        report(logging.ERROR, f"The handler ends its worker{stage}: {failure.cause} ({failure.place})")

    def _report(self, what: str, error: BaseException) -> None:
        """In the model's log: what failed, in which of the handler's methods and where, then the traceback."""
        failure = explain_failure(error, self._model_name, self._model_dir, whole=self._whole)
        stage = f" in {failure.stage}" if failure.stage else ""
        place = f" ({failure.place})" if failure.place else ""
        report(logging.ERROR, f"{what}{stage}: {failure.cause}{place}\n{failure.traceback}")


def failed(message: str, kind: FailureKind = FailureKind.HANDLER, code: int = 0) -> Reply:
    return Reply(shortened(message, MESSAGE).encode("utf-8", "replace"), code, failure=kind)


def out_of_memory() -> Reply:
    return failed("Out of resources", FailureKind.MEMORY)


def chosen(error: PredictionException) -> Reply:
    """The handler chose message and code itself."""
    return failed(message_of(error), FailureKind.CODE, _code(error))


def refused(error: PredictionException, where: str = "") -> Reply:
    """The request is at fault. An envelope of the user's own may have chosen another code than a bad request's."""
    code = _code(error)
    return failed(where + message_of(error), FailureKind.REFUSED if code == 400 else FailureKind.CODE, code)


def message_of(error: PredictionException) -> str:
    """For the client. A subclass may have left the attribute out, or made something else of it."""
    return text_of(getattr(error, "message", error))


def _code(error: PredictionException) -> int:
    """Its code, where that can be the status of an answer."""
    try:
        return status_of(error.error_code)
    except Exception:
        return 500
