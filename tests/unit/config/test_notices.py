"""What the start-up display says about a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torchserve_lite.config.loading import load_config

_QUIET = "disable_token_authorization=true\n"


def _notices(folder: Path, text: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    file = folder / "c.properties"
    file.write_text(text)
    return load_config(file, {}, environ or {}).notices


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        pytest.param(
            "inferense_address=x", r"^inferense_address \(.*\) is not .* Did you mean inference_address\?$", id="typo"
        ),
        pytest.param("Job_Queue_Size=1", r"Did you mean job_queue_size\?$", id="other case"),
        pytest.param("zzz=1", r"^zzz \(.*c\.properties\) is not a known setting and is ignored\.$", id="nothing near"),
        pytest.param(
            "enable_metrics_api=yes", "^enable_metrics_api=yes .* counts as false; write true or false", id="odd"
        ),
        pytest.param(
            "initial_distribution_port=29501",
            "^Parallel workers: comes later; .*: initial_distribution_port.$",
            id="one line for a feature to come",
        ),
        pytest.param(
            "number_of_netty_threads=4\nNUM_WORKERS=1",
            "^Accepted, .*: NUM_WORKERS, number_of_netty_threads.$",
            id="one line for all without effect",
        ),
        pytest.param(
            "shutdown_grace_seconds=2\nshutdown_linger_seconds=5",
            r"^shutdown_linger_seconds=5 \(.*\) is more than shutdown_grace_seconds=2: ",
            id="linger above grace",
        ),
        pytest.param(
            "python=python3\nworker_launcher=shared",
            "^worker_launcher=shared is not used: python=python3",
            id="launcher",
        ),
        pytest.param(
            "python=python3\nworker_launcher=inline", "^python=python3 is not used: worker_launcher=inline", id="python"
        ),
        pytest.param(
            "job_queue_size=1\njob_queue_size=2", r"says more than one thing about job_queue_size; the last", id="twice"
        ),
        pytest.param(
            "cpu_launcher_enable=true\ncpu_launcher_args=--ninstances 2",
            "^Accepted, but without effect: cpu_launcher_enable, cpu_launcher_args. Intel's launcher is not started",
            id="what is done instead",
        ),
        pytest.param(
            'load_models=all\nmodel_snapshot={"modelCount":0}',
            "^load_models=all .* is not used: model_snapshot",
            id="unused",
        ),
        pytest.param(
            "metrics_address=https://h",
            "^metrics_address=https://h: .* self-signed certificate",
            id="https without a certificate",
        ),
        pytest.param(
            "enable_grpc_ssl=true", "^enable_grpc_ssl=true: .* self-signed certificate", id="gRPC without a certificate"
        ),
        pytest.param(
            "grpc_management_address=0.0.0.0",
            "^grpc_management_address=0.0.0.0 can be reached from other machines",
            id="gRPC management for everybody",
        ),
        pytest.param(
            "certificate_file=c\nprivate_key_file=k",
            "^private_key_file, certificate_file: without effect, because no address .* and enable_grpc_ssl is",
            id="certificate without https",
        ),
        pytest.param(
            "inference_address=https://h\nkeystore=s\ncertificate_file=c",
            "^certificate_file: without effect, because keystore is set",
            id="two certificates",
        ),
    ],
)
def test_one_notice_tells_of_a_surprise(tmp_path: Path, text: str, notice: str) -> None:
    (only,) = _notices(tmp_path, _QUIET + text)
    assert re.search(notice, only)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("job_queue_size=2\njob_queue_size=2", id="the same twice"),
        pytest.param("grpc_inference_port=7070", id="default of a feature to come"),
        pytest.param("grpc_inference_port=", id="nothing"),
        pytest.param("enable_model_api=FALSE", id="default in other letters"),
        pytest.param("allowed_urls=https://models/.*", id="one host"),
        pytest.param("disable_system_metrics=false", id="default of an inverted key"),
        pytest.param("metrics_format=prometheus", id="old name, usual mode"),
        pytest.param("version=0.12.0\ntsConfigFile=x", id="what saved snapshots carry"),
    ],
)
def test_nothing_is_said_of_what_changes_nothing(tmp_path: Path, text: str) -> None:
    assert _notices(tmp_path, _QUIET + text) == ()


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "10.0.0.5", "models.example.com"])
def test_management_that_others_reach_without_tokens_is_said_with_the_keys_that_mend_it(
    tmp_path: Path, address: str
) -> None:
    text = f"management_address=http://{address}:8085\n"
    (notice,) = _notices(tmp_path, _QUIET + text)
    assert f"management_address=http://{address}:8085 can be reached from other machines" in notice
    assert "disable_token_authorization=false" in notice
    assert _notices(tmp_path, text) == ()


@pytest.mark.parametrize("address", ["http://127.0.0.2:8085", "http://[::1]:8085", "http://LocalHost", "unix:/tmp/m"])
def test_nothing_is_said_of_management_without_tokens_that_only_this_machine_reaches(
    tmp_path: Path, address: str
) -> None:
    assert _notices(tmp_path, f"{_QUIET}management_address={address}") == ()


def test_model_api_without_urls_is_said_with_the_key(tmp_path: Path) -> None:
    notices = _notices(tmp_path, f"{_QUIET}enable_model_api=true")
    assert any(notice.startswith("allowed_urls is not set: models are registered from the model") for notice in notices)


def test_variables_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "1", "TS_SERVICE_ENVELOPE": "", "TS_SERVICE_HOST": "x"}
    (notice,) = _notices(tmp_path, _QUIET, environ)
    assert notice.startswith("TS_JOB_QUEUE_SIZE in the environment: not read")
    assert _notices(tmp_path, f"{_QUIET}enable_envvars_config=true", environ) == ()


def test_secret_values_are_not_told(tmp_path: Path) -> None:
    notices = _notices(tmp_path, "keystore_pass=hush\nprivate_key_pass=hush\nvmargs=hush\npasswort=hush")
    assert not any("hush" in notice for notice in notices)


def test_order_follows_the_file_for_unknown_keys_and_the_table_for_others(tmp_path: Path) -> None:
    text = (
        f"{_QUIET}initial_distribution_port=1\nzz2=1\nNUM_WORKERS=1\nkeystore=k\nzz1=1\n"
        "management_address=http://0.0.0.0:1"
    )
    beginnings = [notice.split()[0] for notice in _notices(tmp_path, text)]
    assert beginnings == ["zz2", "zz1", "Parallel", "keystore:", "Accepted,", "management_address=http://0.0.0.0:1"]
