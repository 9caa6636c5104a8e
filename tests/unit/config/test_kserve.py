"""What a server in a pod of KServe does by itself, and that the files which users have there start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torchserve_lite.config.loading import load_config
from torchserve_lite.config.settings import Address, Config

_POD = {"PROTOCOL_VERSION": "v1", "INFERENCE_SERVICE_NAME": "torch-pred", "TS_SERVICE_ENVELOPE": "kserve"}
_GUIDE = (Path(__file__).parent / "guide.properties").read_text()
_GUIDE = _GUIDE.replace("<model_name>", "mnist").replace("<name of the mar file.>", "mnist.mar")
_WITHOUT_SNAPSHOT = _GUIDE.partition("model_snapshot")[0]


def _loaded(folder: Path, text: str, environ: dict[str, str], **command_line: str) -> Config:
    file = folder / "config.properties"
    file.write_text(text)
    return load_config(file, command_line, environ)


def test_kserves_ports_are_opened_in_its_pods(tmp_path: Path) -> None:
    config = _loaded(tmp_path, _GUIDE, _POD)
    assert config.http.kserve == Address("0.0.0.0", 8080)
    assert (config.grpc.kserve_host, config.grpc.kserve_port) == ("0.0.0.0", 8081)
    assert config.http.shutdown_linger == 5
    assert config.grpc.inference_host == "0.0.0.0"
    assert not config.access.tokens


def test_file_stands_above_what_pods_have_by_themselves(tmp_path: Path) -> None:
    own = "disable_token_authorization=false\nkserve_address=http://127.0.0.1:9080\nshutdown_linger_seconds=2\n"
    config = _loaded(tmp_path, own, _POD)
    assert config.http.kserve == Address("127.0.0.1", 9080)
    assert (config.grpc.kserve_host, config.http.shutdown_linger) == ("127.0.0.1", 2)
    assert config.access.tokens


def test_addresses_that_nobody_names_leave_kserves_ports_free_in_its_pods(tmp_path: Path) -> None:
    config = _loaded(tmp_path, "load_models=all", _POD)
    addresses = (config.http.inference, config.http.management, config.http.metrics)
    assert [address.port for address in addresses] == [8085, 8083, 8082]
    assert [address.is_local for address in addresses] == [True, True, False]
    assert config.models.store == Path("/mnt/models/model-store")


@pytest.mark.parametrize(
    ("environ", "command_line", "opened"),
    [
        pytest.param({}, {}, False, id="elsewhere"),
        pytest.param({"PROTOCOL_VERSION": ""}, {}, False, id="variable without a value"),
        pytest.param({"INFERENCE_SERVICE_NAME": "x"}, {}, False, id="a transformer may be beside it"),
        pytest.param({"PROTOCOL_VERSION": "grpc-v2"}, {}, True, id="a pod of a TorchServe runtime"),
        pytest.param({}, {"kserve": "true"}, True, id="flag"),
        pytest.param({"PROTOCOL_VERSION": "v2"}, {"kserve": "false"}, False, id="switched off"),
    ],
)
def test_whether_kserves_ports_are_opened(
    environ: dict[str, str], command_line: dict[str, str], opened: bool, tmp_path: Path
) -> None:
    config = _loaded(tmp_path, _GUIDE, environ, **command_line)
    assert (config.http.kserve is not None, config.grpc.kserve_port is not None) == (opened, opened)


def test_containers_of_an_inference_service_need_no_tokens(tmp_path: Path) -> None:
    """The platform guards the door; a transformer in the pod sends no token."""
    assert not _loaded(tmp_path, "", {"INFERENCE_SERVICE_NAME": "x"}).access.tokens
    assert _loaded(tmp_path, "", {}).access.tokens


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(_GUIDE, "", id="guide"),
        pytest.param(_GUIDE.replace("metrics_format", "metrics_mode"), "", id="newer name of metrics_mode"),
        pytest.param(f"{_GUIDE}\nload_models=all", "^load_models=all .* is not used: model_snapshot says", id="both"),
        pytest.param(f"{_WITHOUT_SNAPSHOT}load_models=all", "", id="without snapshot"),
        pytest.param(
            _WITHOUT_SNAPSHOT, "^Neither model_snapshot nor load_models .* Write load_models=all", id="no models"
        ),
        pytest.param(f"{_GUIDE}\nservice_envelope=kservev2", "", id="envelope in the file"),
        pytest.param(
            _GUIDE.replace("management_address=http://0.0.0.0:8085", "management_address=http://0.0.0.0:8081"),
            "^management_address=http://0.0.0.0:8081 has the port .* gRPC calls .* "
            "Write management_address=http://0.0.0.0:8085",
            id="management on the port of gRPC",
        ),
        pytest.param(
            _GUIDE.replace("inference_address=http://0.0.0.0:8085", "inference_address=http://0.0.0.0:8080"),
            "^inference_address=http://0.0.0.0:8080 has the port .* Write inference_address=http://0.0.0.0:8085",
            id="inference on the port of KServe",
        ),
    ],
)
def test_file_of_todays_image_starts_and_is_told_what_to_change(text: str, told: str, tmp_path: Path) -> None:
    without = set(_loaded(tmp_path, _GUIDE, {}).notices)  # said anywhere: keys that tune Java, and so on
    notices = [line for line in _loaded(tmp_path, text, _POD).notices if line not in without]
    assert [bool(re.search(told, line)) for line in notices] == ([True] if told else [])


def test_switch_of_torchserves_own_open_inference_protocol_is_no_odd_word(tmp_path: Path) -> None:
    """TorchServe's image is told ``oip`` by its variable. Here the protocol is always served."""
    notices = _loaded(tmp_path, _GUIDE, {**_POD, "TS_OPEN_INFERENCE_PROTOCOL": "oip"}).notices
    assert [line for line in notices if "oip" in line] == []
    assert any("nothing here depends on them" in line and "ts_open_inference_protocol" in line for line in notices)
