"""The table of keys is complete, agrees with the dataclasses, and is documented."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.config.keys import KEYS, Key
from torchserve_lite.config.meanings import MEANINGS
from torchserve_lite.config.settings import Config

_DOCS = Path(__file__).parents[3] / "docs"
_DOCUMENT = (_DOCS / "configuration.md").read_text()

TORCHSERVE_KEYS = """
    inference_address management_address metrics_address grpc_inference_address grpc_management_address
    grpc_inference_port grpc_management_port grpc_inference_max_connection_age_ms
    grpc_management_max_connection_age_ms grpc_inference_max_connection_age_grace_ms
    grpc_management_max_connection_age_grace_ms enable_grpc_ssl model_store workflow_store load_models models
    model_snapshot default_workers_per_model default_response_timeout default_startup_timeout
    unregister_model_timeout job_queue_size default_service_handler service_envelope number_of_gpu
    max_request_size max_response_size limit_max_image_pixels decode_input_request allowed_urls
    use_env_allowed_urls install_py_dep_per_model blacklist_env_vars enable_metrics_api metrics_config metrics_mode
    model_metrics_auto_detect disable_system_metrics system_metrics_cmd metric_time_interval enable_model_api
    disable_token_authorization token_expiration_min ts_open_inference_protocol ts_header_key_sequence_id
    ts_header_key_sequence_start ts_header_key_sequence_end cors_allowed_origin cors_allowed_methods
    cors_allowed_headers keystore keystore_pass keystore_type private_key_file certificate_file initial_worker_port
    initial_distribution_port number_of_netty_threads netty_client_threads prefer_direct_buffer use_native_io
    io_ratio async_logging ipex_enable ipex_gpu_enable cpu_launcher_enable cpu_launcher_args cpp_log_config
    model_server_home debug enable_envvars_config python version tsConfigFile vmargs plugins_path NUM_WORKERS
"""
FILE_ONLY = """
    use_env_allowed_urls system_metrics_cmd use_native_io io_ratio python version tsConfigFile vmargs plugins_path
    NUM_WORKERS metrics_format
"""

every_key = pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)


def test_every_key_of_torchserve_is_known() -> None:
    assert not set(TORCHSERVE_KEYS.split()) - set(KEYS)


def test_these_keys_are_out_of_the_environments_reach() -> None:
    """TorchServe's are, too, and models, model_snapshot and metric_time_interval besides."""
    assert {key.name for key in KEYS.values() if not key.variable} == set(FILE_ONLY.split())


def test_no_two_keys_share_a_place() -> None:
    for places in ([k.target for k in KEYS.values()], [k.variable for k in KEYS.values()]):
        used = [place for place in places if place]
        assert len(used) == len(set(used))


@pytest.mark.parametrize("key", [key for key in KEYS.values() if key.target], ids=lambda key: key.name)
def test_default_is_the_one_of_the_dataclass(key: Key) -> None:
    piece, field, *entry = key.target.split(".")
    value: Any = getattr(getattr(Config(), piece), field)
    if entry or key.default == "":
        assert not value
        assert key.default_value is None
    else:
        assert value == key.default_value


@every_key
def test_key_is_documented_with_its_default_and_its_variable(key: Key) -> None:
    row = re.search(rf"^\| `{key.name}` \|([^|]*)\|([^|]*)\|", _DOCUMENT, re.MULTILINE)
    assert row, f"no row for {key.name}"
    default, also = row[1].strip().strip("`"), row[2]
    assert default == key.default
    assert ("file only" in also) == (not key.variable)
    assert key.flag in also
    if key.variable not in ("", f"TS_{key.name.upper()}"):
        assert key.variable in also


def test_document_has_no_key_that_is_not_there() -> None:
    tables = _DOCUMENT.split("## Every key")[1].split("### Environment without a key")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)) == set(KEYS)


def test_every_key_has_a_meaning_of_one_sentence() -> None:
    assert set(MEANINGS) == set(KEYS)
    assert all(meaning.endswith(".") and "\n" not in meaning for meaning in MEANINGS.values())


def test_page_of_all_keys_is_as_the_table_has_them() -> None:
    """Written anew by ``python docs/.hooks/all_keys.py``."""
    written = runpy.run_path(str(_DOCS / ".hooks" / "all_keys.py"))["page"]()
    assert (_DOCS / "all-keys.md").read_text() == written
