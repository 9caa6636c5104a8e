"""Imports every name that handlers were seen to import, and answers with those that are missing."""

import importlib
from typing import Any

NAMES = {
    "ts": "__version__ version",
    "ts.context": "Context RequestProcessor",
    "ts.service": "Service emit_metrics PREDICTION_METRIC Context RequestProcessor PredictionException",
    "ts.model_loader": "ModelLoaderFactory ModelLoader TsModelLoader list_classes_from_module",
    "ts.utils.util": "PT2Backend list_classes_from_module check_valid_pt2_backend load_label_mapping "
    "map_class_to_label get_yaml_config PredictionException deprecated CLEANUP_REGEX",
    "ts.handler_utils.timer": "timed",
    "ts.handler_utils.micro_batching": "MicroBatching HANDLER_METHODS WorkerThread execute_call",
    "ts.handler_utils.utils": "import_class send_intermediate_predict_response Context create_predict_response",
    "ts.handler_utils.text_utils": "get_tokenizer ngrams_iterator",
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
    "ts.model_service.model_service": "ModelService SingleNodeService",
    "ts.async_service": "AsyncService",
    "ts.torch_handler.base_handler": "BaseHandler setup_ort_session PT2_AVAILABLE PROFILER_AVAILABLE IPEX_AVAILABLE "
    "ONNX_AVAILABLE XLA_AVAILABLE ProfilerActivity profile record_function timed list_classes_from_module "
    "load_label_mapping check_valid_pt2_backend torch",
    "ts.torch_handler.vision_handler": "VisionHandler BaseHandler IntegratedGradients Image base64 io torch",
    "ts.torch_handler.text_handler": "TextHandler BaseHandler LayerIntegratedGradients get_tokenizer F",
    "ts.torch_handler.text_classifier": "TextClassifier TextHandler TokenReferenceBase ngrams_iterator",
    "ts.torch_handler.contractions": "CONTRACTION_MAP",
    "ts.torch_handler.request_envelope.base": "BaseEnvelope",
    "ts.torch_handler.request_envelope.body": "BodyEnvelope",
    "ts.torch_handler.request_envelope.json": "JSONEnvelope",
    "ts.torch_handler.request_envelope.kserve": "KServeEnvelope",
    "ts.torch_handler.request_envelope.kservev2": "KServev2Envelope",
    "ts.torch_handler.unit_tests.test_utils.mock_context": "MockContext",
}


def handle(data: Any, context: Any) -> Any:
    return None if data is None else [missing() for _ in data]


def missing() -> list[str]:
    return [f"{module}.{name}" for module, names in NAMES.items() for name in names.split() if not has(module, name)]


def has(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False
