"""Every module and name that handlers import from TorchServe is there, and importing the light ones stays light."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchserve_lite import compat

# TorchServe 0.12's own names, those that handlers import.
SURFACE = {
    "ts": "__version__ version",
    "ts.context": "Context RequestProcessor RequestHeaders",
    "ts.service": "Service emit_metrics PREDICTION_METRIC Context RequestProcessor PredictionException "
    "create_predict_response get_yaml_config",
    "ts.model_loader": "ModelLoaderFactory ModelLoader TsModelLoader list_classes_from_module",
    "ts.utils.util": "PT2Backend list_classes_from_module check_valid_pt2_backend load_label_mapping "
    "map_class_to_label get_yaml_config PredictionException deprecated CLEANUP_REGEX",
    "ts.utils.timeit_decorator": "timeit",
    "ts.handler_utils.timer": "timed",
    "ts.handler_utils.micro_batching": "MicroBatching HANDLER_METHODS WorkerThread execute_call",
    "ts.handler_utils.utils": "import_class send_intermediate_predict_response Context create_predict_response",
    "ts.handler_utils.text_utils": "get_tokenizer ngrams_iterator",
    "ts.handler_utils.hf_batch_streamer": "TextIteratorStreamerBatch",
    "ts.protocol.otf_message_handler": "send_intermediate_predict_response create_predict_response "
    "create_load_model_response retrieve_msg encode_response_headers",
    "ts.metrics.dimension": "Dimension",
    "ts.metrics.metric_type_enum": "MetricTypes",
    "ts.metrics.metric": "Metric MetricUnit Units",
    "ts.metrics.unit": "Units",
    "ts.metrics.caching_metric": "CachingMetric",
    "ts.metrics.metric_cache_abstract": "MetricCacheAbstract",
    "ts.metrics.metric_cache_yaml_impl": "MetricsCacheYamlImpl",
    "ts.metrics.metric_cache_errors": "GeneralMetricsCacheError MetricsCacheIOError MetricsCachePyYamlError "
    "MetricsCacheTypeError MetricsCacheValueError MetricsCacheKeyError",
    "ts.metrics.metrics_store": "MetricsStore",
    "ts.metrics.metric_encoder": "MetricEncoder",
    "ts.metrics.system_metrics": "collect_all cpu_utilization memory_used disk_used gpu_utilization",
    "ts.metrics.process_memory_metric": "check_process_mem_usage get_cpu_usage",
    "ts.model_service.model_service": "ModelService SingleNodeService",
    "ts.async_service": "AsyncService",
    "ts.launcher": "start stop register_model register_model_with_params",
    "ts.llm_launcher": "main",
    "ts.torch_handler.request_envelope.base": "BaseEnvelope",
    "ts.torch_handler.request_envelope.body": "BodyEnvelope",
    "ts.torch_handler.request_envelope.json": "JSONEnvelope",
    "ts.torch_handler.request_envelope.kserve": "KServeEnvelope",
    "ts.torch_handler.request_envelope.kservev2": "KServev2Envelope _to_datatype _to_dtype",
    "ts.torch_handler.unit_tests.test_utils.mock_context": "MockContext",
    "ts.torch_handler.unit_tests.test_utils.model_dir": "download_model copy_files",
    "ts.torch_handler.base_handler": "BaseHandler setup_ort_session PT2_AVAILABLE PT230_AVAILABLE PROFILER_AVAILABLE "
    "IPEX_AVAILABLE ONNX_AVAILABLE XLA_AVAILABLE ProfilerActivity profile record_function timed "
    "list_classes_from_module load_label_mapping check_valid_pt2_backend torch",
    "ts.torch_handler.vision_handler": "VisionHandler BaseHandler IntegratedGradients Image base64 io torch",
    "ts.torch_handler.image_classifier": "ImageClassifier VisionHandler transforms F map_class_to_label",
    "ts.torch_handler.image_segmenter": "ImageSegmenter",
    "ts.torch_handler.object_detector": "ObjectDetector",
    "ts.torch_handler.text_handler": "TextHandler BaseHandler LayerIntegratedGradients get_tokenizer F",
    "ts.torch_handler.text_classifier": "TextClassifier TextHandler TokenReferenceBase ngrams_iterator",
    "ts.torch_handler.contractions": "CONTRACTION_MAP",
}

# What we add. A handler that is to load in TorchServe as well asks with hasattr; docs/handlers.md lists them.
OURS = {"ts.utils.util": "InvalidRow", "ts.torch_handler.base_handler": "mark_stage"}

# Modules that only make sense with a package of their own: without it they say so in that package's words.
NEEDS = {
    "ts.utils.hf_utils": "huggingface_hub",
    "ts.handler_utils.distributed.deepspeed": "deepspeed",
    "ts.handler_utils.distributed.pt_pippy": "pippy",
    "ts.handler_utils.preprocess.dali": "nvidia",
}

LIGHT = [name for name in SURFACE if not name.startswith("ts.torch_handler.") or "request_envelope" in name]


def test_our_ts_comes_before_that_of_another_package(tmp_path: Path) -> None:
    """A wheel puts ours last on the path, for ``python -m ts.llm_launcher``."""
    (tmp_path / "ts").mkdir()
    (tmp_path / "ts" / "__init__.py").touch()
    ours = Path(compat.__file__).parent
    script = "from torchserve_lite import compat; compat.install(); import ts; print(ts.__file__)"
    path = os.pathsep.join([str(tmp_path), str(ours)])
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(ours / "ts" / "__init__.py")


@pytest.mark.parametrize(("module", "names"), [*SURFACE.items(), *OURS.items()])
def test_name_is_importable(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []


@pytest.mark.parametrize(("module", "package"), NEEDS.items())
def test_missing_package_is_named_by_its_own_import_error(module: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ModuleNotFoundError) as raised:
        importlib.import_module(module)
    assert (raised.value.name or "").split(".")[0] == package


def test_light_modules_import_neither_torch_nor_numpy() -> None:
    """A worker whose handler needs no torch must not wait seconds for it."""
    heavy = "{'torch', 'numpy', 'PIL', 'torchserve_lite.core'}"
    code = (
        "import importlib, sys; from torchserve_lite import compat; compat.install()\n"
        f"for name in {LIGHT!r}: importlib.import_module(name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_install_makes_default_handlers_part_of_ts_when_called_twice() -> None:
    compat.install()
    compat.install()
    package = importlib.import_module("ts.torch_handler")
    assert list(package.__path__).count(str(compat.handlers_folder())) == 1
    assert importlib.util.find_spec("ts.torch_handler.image_classifier") is not None


def test_install_refuses_when_another_ts_is_imported() -> None:
    code = (
        "import sys, types; other = types.ModuleType('ts'); other.__file__ = '/elsewhere/ts/__init__.py'\n"
        "sys.modules['ts'] = other\n"
        "from torchserve_lite import compat; compat.install()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Another package named 'ts' is already imported (from /elsewhere/ts/__init__.py)" in result.stderr


@pytest.mark.parametrize("name", ["start", "stop"])
def test_launcher_says_what_to_run_when_it_is_called(name: str) -> None:
    launcher = importlib.import_module("ts.launcher")
    with pytest.raises(RuntimeError, match=f"torchserve-lite {name}"):
        getattr(launcher, name)()
