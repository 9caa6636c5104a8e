"""Every exception we raise, named for the state it reports. Status numbers live in ``protocols/errors.py`` alone.

ServingError
├── BadRequest                 the request cannot be understood
│   ├── InvalidInput           what is in it cannot be given to the handler
│   ├── BodyTooLarge, BodyTooSlow, HeadTooSlow, ExpectationFailed
│   ├── MalformedRequest       where it ends is in doubt
│   │   └── UnknownCoding
│   └── ConfigurationError     a setting cannot be used (start-up)
├── RouteNotFound, MethodNotAllowed
│   └── ModelApiOff            registering and removing models is switched off
├── InvalidToken               a key is needed, and this is none that opens this door
│   └── InvalidTokenAsBefore
├── Forbidden                  a call that a page of another site may have made
│   └── HostNotAllowed, OriginNotAllowed
├── ConsoleClosed              the web console is not served here
├── NotFound
│   ├── ModelNotFound
│   │   └── NoOpenAIModel      it is served, and does not speak the protocol that it was asked in
│   ├── ModelVersionNotFound
│   │   └── UnknownDefault
│   ├── ArchiveNotFound
│   ├── WorkflowNotFound
│   └── WorkflowArchiveNotFound
├── DownloadFailed             an archive could not be fetched from its URL
├── Conflict                   already registered, or being changed by somebody else
│   └── UnregisteredMeanwhile  the change of it that was under way has ended
├── DefaultVersionKept         the default version of several cannot be unregistered
├── DrainTimeout               requests of what was unregistered did not end in time
├── InvalidArchive             an archive or its manifest cannot be used
│   ├── NoRoom                 it does not fit where it is to be unpacked or kept
│   └── InvalidWorkflow        the same of a workflow's archive
├── InvalidDAG                 the nodes of a workflow and their edges are no graph that can be run
├── WorkflowNotRegistered      a node of it could not be
├── Unavailable                not now; carries when to come back
│   ├── NoWorkers, QueueFull, ModelLoading, ShuttingDown, TooManyConnections
│   ├── NoIdleWorker           of a model whose requests do not wait
│   ├── TooManySequences, SequenceQueueFull, SequenceTimeout
│   ├── WorkerRestarting       the last start of its workers failed, and they are tried again
│   ├── ModelFailed            they are tried no more
│   └── ModelNotRegistered     its archive cannot be used
├── DeadlineExceeded           the client's own time limit passed
├── ReaderTooSlow              so much of a streamed answer waits for its client that the rest is not kept
├── AnswerNotTaken             the client has not read on for too long
├── OutOfMemory                the handler ran out of memory, its process lives on
├── PredictionFailed           the handler failed, or its result cannot be sent
│   ├── HandlerError           with an error code of the handler's own
│   ├── AnswerTooLarge
│   ├── InvalidAnswer          it is not what the client's protocol can carry
│   └── NodeFailed             a node of a workflow did, in each of its attempts
└── WorkerFailure
    ├── WorkerDied             the process of the running batch is gone
    │   ├── WorkerKilled       by SIGKILL, as the kernel does when memory runs out
    │   └── ResponseTimeout    it was hung and has been stopped
    ├── LoadFailed             the handler could not be loaded
    │   └── LoadOutOfMemory
    └── SlotFailed             our own code around a worker failed
"""

from __future__ import annotations

from collections.abc import Sequence


class ServingError(Exception):
    """Base of all. ``str(error)`` is the text a client may read."""


class BadRequest(ServingError):
    pass


class InvalidInput(BadRequest):
    """An envelope or our decoding refused the request before its handler saw it."""


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


class HeadTooSlow(BadRequest):
    def __init__(self, limit: float) -> None:
        super().__init__(f"The request's headers were not complete after {limit:g} s (slow_header_seconds).")


class MalformedRequest(BadRequest):
    """What follows it on its connection is not looked at: two readers may disagree on where it begins."""


class UnknownCoding(MalformedRequest):
    def __init__(self, codings: str) -> None:
        super().__init__(f"The header Transfer-Encoding is {codings!r:.80}; only chunked is understood.")


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


class ModelApiOff(MethodNotAllowed):
    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        ServingError.__init__(
            self,
            "Requested method is not allowed, please refer to API document. Registering and removing is switched off; "
            "enable_model_api=true or --enable-model-api switches it on.",
        )
        self.allowed = allowed


class InvalidToken(ServingError):
    """``check``: which one failed, in TorchServe's word."""

    def __init__(self, check: str) -> None:
        super().__init__(f"Token {check} failed. Token either incorrect, expired, or not provided correctly")


class InvalidTokenAsBefore(InvalidToken):
    """The same with TorchServe's status, for clients that count on it."""


class Forbidden(ServingError):
    pass


class HostNotAllowed(Forbidden):
    def __init__(self, host: str) -> None:
        super().__init__(
            f"This call is the operators' alone, and its header Host is {host!r:.80}, a name that this server does not "
            "know as its own: a web page may have made it. If the name is yours, add it to management_allowed_hosts; "
            "with token authorization on, a token is enough."
        )


class OriginNotAllowed(Forbidden):
    def __init__(self, origin: str) -> None:
        super().__init__(
            f"This call is the operators' alone, and a page of another site has made it (Origin is {origin!r:.80}). "
            "If the site is yours, add its host to management_allowed_hosts; with token authorization on, a token is "
            "enough."
        )


class ConsoleClosed(ServingError):
    """Built from why it is closed, and what opens it."""


class NotFound(ServingError):
    pass


class ModelNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {name}")


class NoOpenAIModel(ModelNotFound):
    def __init__(self, name: str) -> None:
        ServingError.__init__(
            self,
            f"Model {name} does not answer OpenAI's requests. If its handler does, say so in its model-config.yaml: "
            "openai: true.",
        )


class ModelVersionNotFound(NotFound):
    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model version: {version} does not exist for model: {name}")


class UnknownDefault(ModelVersionNotFound):
    """A version that is to become the default. Scripts know TorchServe's words for it."""

    def __init__(self, name: str, version: str) -> None:
        ServingError.__init__(self, f"Model version {version} does not exist for model {name}")


class ArchiveNotFound(NotFound):
    pass


class WorkflowNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"Workflow not found: {name}")


class WorkflowArchiveNotFound(NotFound):
    def __init__(self, url: str) -> None:
        super().__init__(f"Workflow not found in workflow store: {url}")


class Conflict(ServingError):
    pass


class UnregisteredMeanwhile(Conflict):
    def __init__(self, model: str) -> None:
        super().__init__(f"Model {model} has been unregistered meanwhile.")


class DownloadFailed(ServingError):
    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"Failed to download archive from: {url}: {problem}")


class DefaultVersionKept(ServingError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"Cannot remove default version for model {name}. Make another version the default, or unregister the "
            "others first."
        )


class DrainTimeout(ServingError):
    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(
            f"Timed out while cleaning resources: {name}. Its workers had not answered their last requests after "
            f"unregister_model_timeout={timeout:g} s and have been stopped; the model is unregistered."
        )


class InvalidArchive(ServingError):
    """``archive`` names the file, ``problem`` says what is wrong with it and how to mend it."""

    def __init__(self, archive: str, problem: str) -> None:
        super().__init__(f"{archive}: {problem}")
        self.archive = archive
        self.problem = problem


class NoRoom(InvalidArchive):
    pass


class InvalidWorkflow(InvalidArchive):
    pass


class InvalidDAG(ServingError):
    pass


class WorkflowNotRegistered(ServingError):
    """``failures``: one for each node that could not be registered."""

    def __init__(self, name: str, failures: Sequence[str]) -> None:
        super().__init__(f"Workflow {name} has failed to register. Failures: [{', '.join(failures)}]")


class Unavailable(ServingError):
    """``retry_after``: seconds after which a new try makes sense."""

    retry_after: int = 1


class NoWorkers(Unavailable):
    """``kind``: TorchServe's word for what was asked for."""

    def __init__(self, name: str, kind: str = "inference") -> None:
        super().__init__(
            f'Model "{name}" has no worker to serve {kind} request. Please use scale workers API to add workers.'
        )


class QueueFull(Unavailable):
    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f'The job queue of model "{name}" is full ({size} jobs wait, job_queue_size={size}). Try again later.'
        )


class NoIdleWorker(Unavailable):
    def __init__(self, name: str) -> None:
        super().__init__(
            f'No worker of model "{name}" is free, and none of its requests may wait for one (useJobTicket: true). '
            "Try again later."
        )


class TooManySequences(Unavailable):
    def __init__(self, name: str, most: int) -> None:
        super().__init__(
            f'Model "{name}" has as many sequences as it may have (maxNumSequence: {most}). Try again when one has '
            "ended or has been idle for sequenceMaxIdleMSec."
        )


class SequenceQueueFull(Unavailable):
    def __init__(self, name: str, sequence: str, most: int) -> None:
        super().__init__(
            f'As many requests of sequence "{sequence}" of model "{name}" wait as may '
            f"(maxSequenceJobQueueSize: {most}). Send the next one when one of them has been answered."
        )


class SequenceTimeout(Unavailable):
    def __init__(self, name: str, sequence: str, seconds: float) -> None:
        super().__init__(
            f'Sequence "{sequence}" of model "{name}" has ended before this request of it was '
            f"run: it has taken longer than sequenceTimeoutMSec: {seconds * 1000:.0f}. Begin a new one."
        )


class WorkerRestarting(Unavailable):
    """``cause``: why the last attempt failed."""

    retry_after = 5

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f'Model "{name}" has no worker at the moment; starting one is tried again. {cause}')


class ModelFailed(Unavailable):
    retry_after = 30

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(
            f'Model "{name}" cannot be served: its workers failed and are no longer restarted. Scale the model to have '
            f"them started again. {cause}"
        )


class ModelNotRegistered(Unavailable):
    """It was to be served, and its archive or its settings cannot be used."""

    retry_after = 30

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(
            f'Model "{name}" could not be set up. Mend the cause, and unregister it and register it again, or restart '
            f"the server. {cause}"
        )


class ModelLoading(Unavailable):
    retry_after = 2

    def __init__(self, name: str) -> None:
        super().__init__(f'Model "{name}" is still loading. Try again in a few seconds.')


class ShuttingDown(Unavailable):
    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class TooManyConnections(Unavailable):
    retry_after = 5

    def __init__(self) -> None:
        super().__init__(
            "Too many clients are connected: the server's limit of open files is reached (ulimit -n). Try again later."
        )


class DeadlineExceeded(ServingError):
    """``timeout``: the request's time limit in seconds, when it is known."""

    def __init__(self, timeout: float | None = None) -> None:
        limit = "" if timeout is None else f" of {timeout:g} s"
        super().__init__(f"No answer within the request's time limit{limit}.")


class ReaderTooSlow(ServingError):
    def __init__(self) -> None:
        super().__init__(
            "The client reads its streamed answer too slowly: too much of it has been waiting, and the handler makes "
            "more without waiting. Read faster, or let the handler return a generator, which waits for its reader."
        )


class AnswerNotTaken(ServingError):
    def __init__(self, size: int, seconds: float) -> None:
        super().__init__(
            f"The client did not take the next {size} bytes of its streamed answer in {seconds:g} s "
            "(slow_client_seconds, slow_client_bytes_per_second)."
        )


class OutOfMemory(ServingError):
    pass


class PredictionFailed(ServingError):
    pass


class HandlerError(PredictionFailed):
    """``code``: the one that the handler raised ``PredictionException`` with, a fact of the handler's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class AnswerTooLarge(PredictionFailed):
    pass


class InvalidAnswer(PredictionFailed):
    def __init__(self, problem: str) -> None:
        super().__init__(f"The model's answer cannot be sent as tensors. {problem}")


class NodeFailed(PredictionFailed):
    def __init__(self, node: str, cause: Exception | str) -> None:
        super().__init__(f"Error executing {node}: {cause}")
        self.node = node


class WorkerFailure(ServingError):
    pass


class WorkerDied(WorkerFailure):
    def __init__(self, cause: str = "") -> None:
        super().__init__(f"Worker died. {cause}".rstrip())
        self.cause = cause


class WorkerKilled(WorkerDied):
    pass


class ResponseTimeout(WorkerDied):
    """``doing``: what it was at."""

    def __init__(self, timeout: float, doing: str) -> None:
        super().__init__(f"It gave no answer within responseTimeout={timeout:g} s while at {doing}, and was stopped.")


class LoadFailed(WorkerFailure):
    """``cause`` is the last line of ``traceback``, which is the handler's own, for the log."""

    def __init__(self, cause: str, traceback: str = "") -> None:
        super().__init__(cause)
        self.traceback = traceback


class LoadOutOfMemory(LoadFailed):
    pass


class SlotFailed(WorkerFailure):
    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"The server's own code around this worker failed ({type(error).__name__}: {error}); the log has the "
            "traceback. The next scaling of the model tries again."
        )
