"""Every exception we raise, named for the state it reports. Status numbers live in ``protocols/errors.py`` alone.

ServingError
├── BadRequest                 the request cannot be understood
│   ├── BodyTooLarge, BodyTooSlow, ExpectationFailed
│   └── ConfigurationError     a setting cannot be used (start-up)
├── RouteNotFound, MethodNotAllowed
├── NotFound
│   ├── ModelNotFound
│   ├── ModelVersionNotFound
│   └── ArchiveNotFound
├── Conflict                   already registered
├── InvalidArchive             an archive or its manifest cannot be used
├── Unavailable                not now; carries when to come back
│   ├── NoWorkers, QueueFull, ModelFailed, ModelLoading, ShuttingDown
├── DeadlineExceeded           the client's own time limit passed
├── PredictionFailed           the handler's failure, with the status TorchServe gives it
└── WorkerFailure
    ├── WorkerDied             the process of the running batch is gone
    ├── ResponseTimeout        the worker was hung and has been stopped
    └── LoadFailed             the handler could not be loaded
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of all. ``str(error)`` is the text a client may read."""


class BadRequest(ServingError):
    pass


class BodyTooLarge(BadRequest):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than max_request_size={limit} bytes.")
        self.limit = limit


class BodyTooSlow(BadRequest):
    def __init__(self, least: int, window: float) -> None:
        super().__init__(
            f"The request body comes too slowly: fewer than {least} bytes in {window:g} s (slow_client_seconds, "
            "slow_client_bytes_per_second)."
        )


class ExpectationFailed(BadRequest):
    def __init__(self, expectation: str) -> None:
        super().__init__(f"The header Expect is {expectation!r}; only 100-continue can be met.")


class ConfigurationError(BadRequest):
    pass


class RouteNotFound(ServingError):
    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


class MethodNotAllowed(ServingError):
    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")
        self.allowed = allowed


class NotFound(ServingError):
    pass


class ModelNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {name}")


class ModelVersionNotFound(NotFound):
    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model version: {version} does not exist for model: {name}")


class ArchiveNotFound(NotFound):
    pass


class Conflict(ServingError):
    pass


class InvalidArchive(ServingError):
    """``archive`` names the file, ``fault`` says what is wrong with it and how to mend it."""

    def __init__(self, archive: str, fault: str) -> None:
        super().__init__(f"{archive}: {fault}")
        self.archive = archive
        self.fault = fault


class Unavailable(ServingError):
    """``retry_after``: seconds after which a new try makes sense."""

    retry_after: int = 1


class NoWorkers(Unavailable):
    def __init__(self, name: str) -> None:
        super().__init__(
            f'Model "{name}" has no worker to serve inference request. Please use scale workers API to add workers.'
        )


class QueueFull(Unavailable):
    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f'The job queue of model "{name}" is full ({size} jobs wait, job_queue_size={size}). Try again later.'
        )


class ModelFailed(Unavailable):
    retry_after = 30

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f'Model "{name}" cannot be served: its workers failed and are no longer restarted. {cause}')


class ModelLoading(Unavailable):
    retry_after = 2

    def __init__(self, name: str) -> None:
        super().__init__(f'Model "{name}" is still loading. Try again in a few seconds.')


class ShuttingDown(Unavailable):
    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class DeadlineExceeded(ServingError):
    def __init__(self, timeout: float) -> None:
        super().__init__(f"No answer within the request's time limit of {timeout:g} s.")


class PredictionFailed(ServingError):
    """The handler failed in a way TorchServe has a status for (503 ``Prediction failed``, 507, its own code)."""

    def __init__(self, message: str, status: int = 503, *, from_handler: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.from_handler = from_handler  # False: we refused the input before any handler saw it


class WorkerFailure(ServingError):
    status = 500


class WorkerDied(WorkerFailure):
    """``out_of_memory``: the process was killed by SIGKILL, which is how the kernel's OOM killer ends one."""

    def __init__(self, cause: str = "", *, out_of_memory: bool = False) -> None:
        super().__init__(f"Worker died. {cause}".rstrip())
        self.cause = cause
        self.status = 507 if out_of_memory else 500


class ResponseTimeout(WorkerDied):
    def __init__(self, timeout: float, doing: str = "") -> None:
        super().__init__(f"It gave no answer within responseTimeout={timeout:g} s{doing} and was stopped.")


class LoadFailed(WorkerFailure):
    """``traceback`` is the handler's own, for the log; ``fault`` its last line."""

    def __init__(self, fault: str, traceback: str = "", *, out_of_memory: bool = False) -> None:
        super().__init__(fault)
        self.traceback = traceback
        self.status = 507 if out_of_memory else 500
