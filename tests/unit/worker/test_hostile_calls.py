"""Whatever a client sends or a handler does, each call gets its one answer, and the next ones are served as before."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tests.conftest import spec_of
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey
from torchserve_lite.ipc import messages
from torchserve_lite.ipc.messages import Answer, Answers, Call, FailureKind, Load, Reply, SentPart
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.handlers import Handler

LOAD = Load(spec=spec_of(key=ModelKey("served", "7"), handler="h"), model_dir=".")
TENSOR = {"name": "a", "shape": [1], "datatype": "INT64", "data": [1]}
ENVELOPES = ["", "kserve", "kservev2"]

EntryPoint = Callable[[list[Any], Any], Any]
Ask = Callable[..., list[Reply]]


@pytest.fixture(params=["plain", "coroutine"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """``ask(handler, call, ...)`` gives the one last answer of each call, as the parent of a worker reads it."""

    def ask(entry_point: EntryPoint, *calls: Call, manifest: Any = None, **facts: Any) -> list[Reply]:
        answers: list[Answer] = []
        if request.param == "plain":
            runner = runner_of(entry_point, manifest, **facts)
            answers += runner.predict(calls, answers.extend, lambda index: False)
        else:

            async def handle(rows: list[Any], context: Any) -> Any:
                await asyncio.sleep(0)
                return entry_point(rows, context)

            runner = runner_of(handle, manifest, **facts)
            answers += asyncio.run(runner.predict_concurrently(calls, answers.extend, lambda index: False))
        return received(answers, len(calls))

    return ask


def runner_of(entry_point: EntryPoint, manifest: Any, **facts: Any) -> BatchRunner:
    context = testing.context(manifest=manifest or {"model": {}}, model_yaml_config={}, model_name="served")
    context.model_version = LOAD.spec.key.version
    load = msgspec.structs.replace(LOAD, **facts)
    return BatchRunner(Handler(entry_point, context), load, lambda stage, row: None)


def received(answers: Sequence[Answer], calls: int) -> list[Reply]:
    frame = [bytearray(piece) for piece in messages.encode(Answers(1, tuple(answers)))]
    message = messages.decode_from_worker(frame)
    assert isinstance(message, Answers)
    last = sorted([answer for answer in message.answers if answer.last], key=lambda answer: answer.index)
    assert [answer.index for answer in last] == list(range(calls))
    return [answer.reply for answer in last]


def call(body: object, name: str = "id", envelope: str = "") -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(name, "predict", (SentPart("body", data),), (), envelope)


def request_for(envelope: str, name: str) -> Call:
    body = {"instances": [1]} if envelope == "kserve" else {"inputs": [TENSOR]}
    return call(body, name, envelope)


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UntellableOnPurpose(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class Liar(Exception):
    """Raises whatever it is asked, but for what Python looks up by type."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def liar(base: type) -> Any:
    """An object of a subclass whose ``__class__`` cannot be asked for."""

    def refuse(self: Any) -> Any:
        raise RuntimeError("no class")

    return type("Liar", (base,), {"__class__": property(refuse)})


class NoLength(list[Any]):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class NoWalk(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no walk")


class NoItems(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class NoArray:
    dtype = property(lambda self: 1 / 0)

    def tolist(self) -> Any:
        raise KeyboardInterrupt


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(metaclass=Meta):
    pass


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def raising(error: BaseException) -> Callable[[Any], Any]:
    def fail(context: Any) -> Any:
        raise error

    return fail


def prediction_exception(message: Any, code: Any = 400) -> Any:
    from ts.utils.util import PredictionException

    return PredictionException(message, code)


def invalid_row(row: Any, message: str = "no") -> Any:
    from ts.utils.util import InvalidRow

    return InvalidRow(row, message)


def bare_exception() -> Any:
    """Of a subclass whose ``__init__`` forgot its parent's."""
    from ts.utils.util import PredictionException

    return type("Bare", (PredictionException,), {"__init__": lambda self: None, "__str__": lambda self: "bare"})()


@pytest.mark.parametrize(
    "misbehave",
    [
        pytest.param(raising(Untellable()), id="exception without a text"),
        pytest.param(raising(UntellableOnPurpose()), id="exception whose text ends the process"),
        pytest.param(raising(Liar()), id="exception without attributes"),
        pytest.param(raising(liar(Exception)()), id="exception without a class"),
        pytest.param(raising(GeneratorExit()), id="GeneratorExit"),
        pytest.param(raising(asyncio.CancelledError()), id="CancelledError"),
        pytest.param(raising(BaseException("any")), id="BaseException"),
        pytest.param(raising(BaseExceptionGroup("two", [GeneratorExit(), ValueError()])), id="group"),
        pytest.param(raising(StopIteration(5)), id="StopIteration"),
        pytest.param(raising(ValueError("\ud800")), id="message that is no text"),
        pytest.param(lambda context: raising(invalid_row(99))(context), id="row that there is not"),
        pytest.param(lambda context: raising(invalid_row("0"))(context), id="row that is no number"),
        pytest.param(lambda context: raising(prediction_exception(Untellable()))(context), id="untellable message"),
        pytest.param(lambda context: raising(prediction_exception("\ud800"))(context), id="half a character"),
        pytest.param(lambda context: raising(prediction_exception("m", 10**400))(context), id="enormous code"),
        pytest.param(lambda context: raising(prediction_exception("m", liar(int)()))(context), id="code of a liar"),
        pytest.param(lambda context: raising(bare_exception())(context), id="exception without its parent's init"),
        pytest.param(lambda context: NoLength([1, 1]), id="list without a length"),
        pytest.param(lambda context: NoWalk([1, 1]), id="list that cannot be walked"),
        pytest.param(lambda context: liar(list)([1, 1]), id="list without a class"),
        pytest.param(lambda context: Nameless(), id="class without a name"),
        pytest.param(lambda context: [1, context.__setattr__("metrics", None)][:1], id="context without metrics"),
        pytest.param(lambda context: context.__dict__.clear() or [1, 1], id="emptied context"),
        pytest.param(lambda context: context.request_ids.clear() or [1], id="no request ids"),
    ],
)
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_handler_that_misbehaves_leaves_no_call_of_its_batch_unanswered(
    misbehave: Callable[[Any], Any], envelope: str, ask: Ask
) -> None:
    """An exception whose ``__str__`` raised ended the worker, and so did a result whose length could not be asked."""
    replies = ask(lambda rows, context: misbehave(context), request_for(envelope, "1"), request_for(envelope, "2"))
    assert {reply.failure for reply in replies} <= {"", FailureKind.HANDLER, FailureKind.CODE}
    assert all(200 <= reply.status <= 599 for reply in replies if reply.failure == FailureKind.CODE)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda context: NoItems(a=1), id="mapping that cannot be walked"),
        pytest.param(lambda context: {"a": NoWalk([1])}, id="list inside that cannot be walked"),
        pytest.param(lambda context: NoArray(), id="array that ends the process"),
        pytest.param(lambda context: liar(object)(), id="object without a class"),
        pytest.param(lambda context: {"a": object()}, id="object without a wire form"),
        pytest.param(lambda context: nested(100_000), id="nested too deeply"),
        pytest.param(lambda context: Nameless(), id="class without a name"),
        pytest.param(lambda context: context.set_response_header(0, "X-A", Untellable()), id="header without a text"),
        pytest.param(lambda context: context.set_response_header(0, Untellable(), "a"), id="header without a name"),
        pytest.param(lambda context: context.set_response_content_type(0, Untellable()), id="untellable type"),
        pytest.param(lambda context: context.set_response_status(200, Untellable(), 0), id="untellable reason"),
        pytest.param(lambda context: context.set_response_status(Untellable(), "", 0), id="untellable status"),
        pytest.param(lambda context: context.set_response_status("OK", "", 0), id="status that is no number"),
        pytest.param(lambda context: context.set_response_status(None, "", 0), id="no status"),
        pytest.param(lambda context: context.set_response_status(10**400, "", 0), id="enormous status"),
        pytest.param(lambda context: context.set_response_status(100, "", 0), id="status of no final answer"),
        pytest.param(lambda context: context.set_response_status(-1, "", 0), id="negative status"),
        pytest.param(lambda context: context.set_response_status(600, "", 0), id="status of no class"),
        pytest.param(lambda context: context.set_response_status(True, "", 0), id="status that is a truth"),
        pytest.param(lambda context: vars(context.request_processor[0]).clear(), id="emptied processor"),
    ],
)
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_result_that_cannot_be_sent_costs_its_own_request_only(
    spoil: Callable[[Any], Any], envelope: str, ask: Ask
) -> None:
    bad, good = ask(lambda rows, context: [spoil(context), 1], request_for(envelope, "1"), request_for(envelope, "2"))
    assert bad.failure in (FailureKind.HANDLER, FailureKind.CODE)
    assert bad.failure == FailureKind.HANDLER or bad.status == 500
    assert good.failure == ""


@pytest.mark.parametrize("status", [99, 600, "abc", None])
def test_status_of_no_final_answer_is_told_in_the_models_log(
    status: Any, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.set_response_status(status)
        return [1]

    (reply,) = ask(handle, call(b"", "request-5"))
    assert (reply.failure, reply.status) == (FailureKind.CODE, 500)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "request-5" in line.getMessage()
    assert f"the response status {status}" in line.getMessage()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["sys.exit", "interrupt"])
def test_handler_that_ends_its_process_ends_it(error: BaseException, ask: Ask) -> None:
    """As in TorchServe: a handler whose device is lost does this to get a fresh worker."""
    with pytest.raises(type(error)):
        ask(lambda rows, context: raising(error)(context), call(b""))


def test_handler_that_refuses_every_row_with_one_batch_leaves_none_unanswered(ask: Ask) -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        raise invalid_row(len(rows) - 1)

    replies = ask(handle, call(b"a"), call(b"b"), call(b"c"))
    assert [reply.failure for reply in replies] == [FailureKind.REFUSED] * 3


# ---- what clients send


def tensor(shape: Any, data: Any, datatype: str = "INT64", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "a", "shape": shape, "datatype": datatype, "data": data, **more}]}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(tensor([0, 4611686018427387904], []), id="nothing of very many"),
        pytest.param(tensor([30_000_000, 0], []), id="very many of nothing"),
        pytest.param(tensor([1000, 1000, 0], []), id="many times many of nothing"),
        pytest.param(
            {"inputs": [{**TENSOR, "name": str(i), "shape": [900, 0], "data": []} for i in range(2000)]},
            id="many tensors of nothing",
        ),
        pytest.param(tensor([2**62, 2**62], []), id="product beyond 64 bits"),
        pytest.param(tensor([10**4000] * 60, []), id="product of more digits than Python writes"),
        pytest.param(tensor([0] * 32, []), id="as many dimensions as can be"),
        pytest.param(tensor([0] * 100_000, []), id="more dimensions than can be"),
        pytest.param(tensor([-1, 0], []), id="any number of nothing"),
        pytest.param(tensor([-1, -1], [1]), id="two open dimensions"),
        pytest.param(tensor([100_000] + [1] * 31, [1] * 100_000), id="many lists of one"),
        pytest.param(tensor([3], "x" * 1000, "BYTES"), id="fewer elements than announced"),
        pytest.param(tensor([10**18], ["a"], "BYTES"), id="elements announced and not sent"),
        pytest.param(tensor([2**31, 0], [], "BYTES"), id="lists of no elements"),
        pytest.param(
            tensor([-1], [""] * 20_000, "BYTES", **{f"k{i}": 1 for i in range(20_000)}),
            id="many keys for each of many elements",
        ),
        pytest.param(tensor([1], nested(900)), id="data nested deeply"),
        pytest.param(tensor(nested(900), [1]), id="shape nested deeply"),
        pytest.param(tensor([1], [{"a": nested(900)}]), id="value nested deeply"),
        pytest.param(tensor([1], [1], nested(900)), id="datatype nested deeply"),  # type: ignore[arg-type]
        pytest.param(tensor([1], [nested(900)], "BYTES"), id="element nested deeply"),
        pytest.param({"id": nested(900), "inputs": [TENSOR]}, id="id nested deeply"),
        pytest.param(b'{"inputs": [' + b'{"name":' * 5000 + b"1" + b"}" * 5000 + b"]}", id="objects nested deeply"),
        pytest.param(tensor([-1], [""] * 900_000, "BYTES"), id="very many elements"),
        pytest.param(
            {"inputs": [{**tensor([-1], [""] * 250_001, "BYTES")["inputs"][0], "name": name} for name in "ab"]},
            id="very many elements in all",
        ),
        pytest.param(
            json.dumps(dict.fromkeys(map(str, range(100_000)))).encode()[:-1] + b', "99999": 1}', id="late key"
        ),
        pytest.param({"inputs": [TENSOR] * 2}, id="two tensors of one name"),
        pytest.param(b'{"inputs": [], "inputs": [{"name": "a"}]}', id="one key twice"),
        pytest.param({"inputs": [{**TENSOR, "name": "\ud800"}] * 2}, id="name that is no text"),
    ],
)
@pytest.mark.parametrize("envelope", ["kserve", "kservev2"])
def test_body_that_announces_more_than_it_holds_costs_little_and_only_itself(
    body: Any, envelope: str, ask: Ask
) -> None:
    """``[30000000, 0]`` took gigabytes and many seconds in the worker."""
    sent = call(body, envelope=envelope)
    data = sent.parts[0].data
    assert not isinstance(data, int)
    tracemalloc.start()
    try:
        bad, good = ask(lambda rows, context: [1] * len(rows), sent, request_for(envelope, "good"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bad.failure in ("", FailureKind.REFUSED)
    assert good.failure == ""
    assert peak < 20_000_000 + 150 * len(data)


@pytest.mark.parametrize("row", [b"1,", b"{},", b'"",', b"[],"])
def test_rows_beyond_the_limit_are_refused(row: bytes, ask: Ask) -> None:
    body = b'{"instances": [' + row * 500_000 + b"1]}"
    (reply,) = ask(lambda rows, context: rows, call(body, envelope="kserve"))
    assert reply.body == b"The request has 500001 rows; at most 500000 are accepted."


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param({"model": {"modelName": "packed", "modelVersion": "1.0"}}, id="another name in the archive"),
        pytest.param({"model": {}}, id="none in the archive"),
    ],
)
def test_v2_answer_names_the_model_as_it_is_served(manifest: Any, ask: Ask) -> None:
    (reply,) = ask(lambda rows, context: [1], request_for("kservev2", "1"), manifest=manifest)
    answer = json.loads(bytes(reply.body))
    assert (answer["model_name"], answer["model_version"]) == ("served", "7")


LONG = "x" * 5_000_000


class Wordy(ValueError):
    def __str__(self) -> str:
        return LONG


def chained(links: int, text: str) -> Exception:
    """As a handler leaves it that tries again and again."""
    error = ValueError(text)
    for _ in range(links):
        later = ValueError(text)
        later.__context__ = error
        error = later
    return error


@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda: ValueError(LONG), id="text"),
        pytest.param(Wordy, id="text made anew"),
        pytest.param(lambda: ValueError(LONG.replace("xx", "x\n")), id="lines"),
        pytest.param(lambda: KeyError(*[LONG[:100_000]] * 50), id="arguments"),
        pytest.param(lambda: chained(100, LONG[:100_000]), id="chain of long ones"),
        pytest.param(lambda: chained(5000, "x"), id="long chain"),
        pytest.param(lambda: ExceptionGroup("x", [ValueError(LONG[:100_000])] * 50), id="group"),
        pytest.param(lambda: prediction_exception(LONG, 418), id="answer of the handler's own"),
        pytest.param(lambda: prediction_exception(LONG), id="refusal"),
        pytest.param(lambda: invalid_row(0, LONG), id="one row's refusal"),
    ],
)
def test_failure_is_told_at_a_length_that_can_be_read(
    ask: Ask, envelope: str, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A message of 50 MB went to the client, and over the link, and into the log."""

    def fail(rows: list[Any], context: Any) -> Any:
        raise error()

    (reply,) = ask(fail, request_for(envelope, "id"))
    assert len(bytes_of(reply)) < 10_000
    told = caplog.messages or [bytes_of(reply).decode()]
    assert all(len(message) < 70_000 for message in told)
    assert any("characters are left out here" in message for message in told)
    assert not any("cannot be shown" in message for message in told)


@pytest.mark.parametrize(
    "speak",
    [
        pytest.param(lambda context: context.set_response_status(200, LONG), id="phrase"),
        pytest.param(lambda context: context.set_response_header(0, "X-Long", LONG), id="header"),
        pytest.param(lambda context: context.set_response_header(0, "X" * 5_000_000, "1"), id="name of a header"),
    ],
)
def test_head_of_an_answer_counts_as_its_body_does(ask: Ask, speak: Callable[[Any], None]) -> None:
    def handle(rows: list[Any], context: Any) -> Any:
        speak(context)
        return ["ok"]

    (reply,) = ask(handle, call(7), max_response_size=1_000_000)
    assert (reply.failure, b"max_response_size" in bytes_of(reply)) == (FailureKind.TOO_LARGE, True)


def bytes_of(reply: Reply) -> bytes:
    assert not isinstance(reply.body, int)
    return bytes(reply.body)
