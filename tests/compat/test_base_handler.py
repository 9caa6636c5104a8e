"""BaseHandler: the route of a batch, explanations for each request, compilation, and what importing it costs."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.compilation import compile_options, optimised
from ts.torch_handler.explanations import UnknownTarget, attribution
from ts.torch_handler.rows import one_row, value_of
from ts.utils.util import InvalidRow, PredictionException

from torchserve_lite import compat, testing


class Doubling(BaseHandler):
    """Defines ``__init__`` as a fifth of all handlers do: without calling the base class."""

    def __init__(self) -> None:
        self.model = lambda x: x * 2
        self.device = torch.device("cpu")
        self.asked: list[tuple[Any, Any, Any]] = []

    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([value_of(row) for row in data])

    def get_insights(self, batch: torch.Tensor, inputs: Any, target: Any) -> list[Any]:
        self.asked.append((batch.tolist(), inputs, target))
        return [{"of": inputs}]


class Stages:
    """Stands in for a worker's stage marker."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __call__(self, stage: str, row: int) -> None:
        self.seen.append((stage, row))


def context(requests: int = 1, **facts: Any) -> Any:
    made = testing.context(manifest={"model": {"modelName": "doubling"}}, requests=requests, **facts)
    made.mark_stage = Stages()
    return made


def test_batch_is_answered_when_subclass_does_not_call_init() -> None:
    assert Doubling().handle([{"data": 1.0}, {"body": 2.5}], context(2)) == [2.0, 5.0]


def test_stages_are_marked_in_order_when_batch_is_answered() -> None:
    made = context()
    Doubling().handle([{"data": 1.0}], made)
    assert made.mark_stage.seen == [("preprocess", -1), ("inference", -1), ("postprocess", -1)]


def test_batch_is_answered_when_context_knows_no_stages() -> None:
    class Bare:
        model_yaml_config: dict[str, Any] = {}

        def get_request_header(self, idx: int, key: str) -> None:
            return None

    assert Doubling().handle([{"data": 1.0}], Bare()) == [2.0]


def test_handler_time_is_emitted_when_batch_is_answered() -> None:
    made = context()
    times: list[tuple[Any, ...]] = []
    made.metrics.add_time = lambda *arguments: times.append(arguments)
    Doubling().handle([{"data": 1.0}], made)
    ((name, milliseconds, index, unit),) = times
    assert (name, index, unit) == ("HandlerTime", None, "ms")
    assert milliseconds >= 0


def test_description_is_given_when_it_is_asked_for() -> None:
    class Described(Doubling):
        def describe_handle(self) -> dict[str, str]:
            return {"doubles": "numbers"}

    made = context(headers={"describe": "True"})
    assert Described().handle([{}], made) == [{"doubles": "numbers"}]
    assert made.mark_stage.seen == [("describe", -1)]


def test_get_insights_gets_target_as_it_came_when_one_request_is_explained() -> None:
    handler = Doubling()
    assert handler.handle([{"data": 3.0, "target": 4}], context(explain=True)) == [{"of": 3.0}]
    assert handler.asked == [([3.0], 3.0, 4)]
    assert handler.explain is True


def test_each_request_is_explained_for_its_own_target_when_there_are_several() -> None:
    handler, made = Doubling(), context(3, explain=True)
    rows = [{"data": 1.0, "target": 2}, {"data": 5.0}, {"data": 7.0, "parameters": {"target": 1}}]
    assert handler.handle(rows, made) == [{"of": 1.0}, {"of": 5.0}, {"of": 7.0}]
    assert handler.asked == [([1.0], 1.0, 2), ([5.0], 5.0, 0), ([7.0], 7.0, 1)]
    assert made.mark_stage.seen[1:] == [("explain", -1), ("explain", 0), ("explain", 1), ("explain", 2)]


def test_only_its_request_is_refused_when_target_is_unknown() -> None:
    class Choosy(Doubling):
        def get_insights(self, batch: Any, inputs: Any, target: Any) -> list[Any]:
            if target > 1:
                raise UnknownTarget("The target 2 is out of range.")
            return [inputs]

    with pytest.raises(InvalidRow, match="out of range") as refused:
        Choosy().handle([{"data": 1.0}, {"data": 1.0, "target": 2}], context(2, explain=True))
    assert refused.value.row == 1


def test_explanation_is_refused_when_handler_defines_none() -> None:
    class Silent(BaseHandler):
        def preprocess(self, data: Any) -> Any:
            return data

    with pytest.raises(PredictionException, match="Silent defines no get_insights"):
        Silent().handle([{"data": 1.0}], context(explain=True))


TENSOR = torch.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("batch", "second"),
    [
        pytest.param(TENSOR, TENSOR[1:2], id="tensor"),
        pytest.param(["a", "b"], ["b"], id="list-of-rows"),
        pytest.param((TENSOR, TENSOR * 2), (TENSOR[1:2], TENSOR[1:2] * 2), id="tuple-of-columns"),
        pytest.param({"ids": TENSOR, "mask": TENSOR}, {"ids": TENSOR[1:2], "mask": TENSOR[1:2]}, id="mapping"),
        pytest.param("one for all", "one for all", id="anything-else"),
    ],
)
def test_row_is_cut_from_batch_whatever_preprocess_returned(batch: Any, second: Any) -> None:
    assert str(one_row(batch, 1, 2)) == str(second)


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        pytest.param(3, r"target 3 is out of range: the model has 3 classes, 0 to 2", id="too-big"),
        pytest.param(b"9", r"target 9 is out of range", id="bytes-of-a-form"),
        pytest.param("cat", r"whole number; it is 'cat'", id="a-name"),
        pytest.param([0, 1], r"target \(0, 1\) names no output", id="too-many-dimensions"),
    ],
)
def test_attribution_says_what_is_wrong_when_target_is_no_output(target: Any, fault: str) -> None:
    from captum.attr import IntegratedGradients

    with pytest.raises(UnknownTarget, match=fault):
        attribution(IntegratedGradients(nn.Linear(4, 3)), torch.ones(1, 4), target)


def test_attribution_says_so_when_model_has_no_gradients() -> None:
    from captum.attr import IntegratedGradients

    def without_gradients(x: torch.Tensor) -> torch.Tensor:
        return x.detach() * 2

    with pytest.raises(PredictionException, match="explanations need gradients"):
        attribution(IntegratedGradients(without_gradients), torch.ones(1, 4), 0)


def test_batch_is_profiled_when_the_environment_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "true")
    handler = Doubling()
    traces: list[Any] = []
    handler.profiler_args = {"activities": [torch.profiler.ProfilerActivity.CPU], "on_trace_ready": traces.append}
    with caplog.at_level("INFO"):
        assert handler.handle([{"data": 1.0}], context()) == [2.0]
    assert {"preprocess", "inference", "postprocess"} <= {event.name for event in traces[0].events()}
    assert "Self CPU" in caplog.text


@pytest.mark.parametrize(
    ("pt2", "options"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}, id="enabled"),
        pytest.param({"compile": {"enable": False, "backend": "eager"}}, None, id="disabled"),
        pytest.param({"compile": {"enable": True}}, {}, id="defaults"),
        pytest.param({"export": {"aot_compile": True}}, None, id="export-only"),
        pytest.param("eager", {"backend": "eager"}, id="old-style-name"),
        pytest.param({"backend": "eager", "mode": "default"}, {"backend": "eager", "mode": "default"}, id="old-style"),
    ],
)
def test_compile_options_are_read_and_config_stays_as_it_is(pt2: Any, options: dict[str, Any] | None) -> None:
    before = copy.deepcopy(pt2)
    assert compile_options(pt2) == options
    assert pt2 == before


def test_compile_options_are_refused_when_pt2_is_a_list() -> None:
    with pytest.raises(ValueError, match="pt2 should be str or dict"):
        compile_options(["inductor"])


def test_compiled_model_answers_as_eager_when_config_asks_for_it() -> None:
    model = nn.Linear(4, 2)
    compiled = optimised(model, {"pt2": {"compile": {"enable": True, "backend": "eager"}}})
    assert compiled is not model
    torch.testing.assert_close(compiled(torch.ones(1, 4)), model(torch.ones(1, 4)))


@pytest.mark.parametrize(
    "compile_section",
    [
        pytest.param({"backend": "nosuch"}, id="unknown-backend"),
        pytest.param({"backend": "openvino"}, id="backend-not-installed"),
        pytest.param({"nosuch_option": 1}, id="unknown-option"),
    ],
)
def test_model_is_served_uncompiled_with_warning_when_it_cannot_be_compiled(
    compile_section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(4, 2)
    assert optimised(model, {"pt2": {"compile": {"enable": True, **compile_section}}}) is model
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_importing_default_handlers_stays_light() -> None:
    """Workers import them before they serve; captum alone costs half a second that most models never need."""
    heavy = "{'captum', 'matplotlib', 'torchvision', 'onnxruntime', 'safetensors', 'torch._dynamo', 'torch._inductor'}"
    code = (
        "import sys; from torchserve_lite import compat; compat.install()\n"
        "import ts.torch_handler.image_classifier, ts.torch_handler.object_detector\n"
        "import ts.torch_handler.image_segmenter, ts.torch_handler.text_classifier, ts.torch_handler.densenet_handler\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "package"),
    [("vllm_handler", "vllm"), ("trt_llm_handler", "tensorrt_llm"), ("dali_image_classifier", "nvidia")],
)
def test_shim_fails_with_the_missing_packages_own_error(module: str, package: str) -> None:
    assert (compat.handlers_folder() / f"{module}.py").exists()
    with pytest.raises(ModuleNotFoundError, match=f"'{package}"):
        __import__(f"ts.torch_handler.{module}")


def test_deepspeed_handler_takes_the_device_of_its_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler

    monkeypatch.setenv("LOCAL_RANK", "3")
    handler = BaseDeepSpeedHandler()
    handler.initialize(testing.context(tmp_path))
    assert handler.device == 3  # type: ignore[comparison-overlap]
