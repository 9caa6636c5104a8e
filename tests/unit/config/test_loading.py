"""From file, command line and environment to one Config."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from torchserve_lite.config.loading import load_config
from torchserve_lite.config.settings import Address, Config, HttpConfig, WorkerConfig
from torchserve_lite.config.sources import find_config_file
from torchserve_lite.errors import ConfigurationError

Load = Callable[..., Config]

_ENVIRONMENT_ALLOWED = "enable_envvars_config=true\n"
_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Writes the text into config.properties and loads it, in an otherwise empty folder."""
    monkeypatch.chdir(tmp_path)

    def load_text(
        text: str = "", command_line: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
    ) -> Config:
        file = Path("config.properties")
        file.write_text(text)
        return load_config(file, command_line or {}, environ or {})

    return load_text


def _guide(**filled: str) -> str:
    text = (Path(__file__).parent / "guide.properties").read_text()
    for placeholder, value in filled.items():
        text = text.replace({"model": "<model_name>", "file": "<name of the mar file.>"}[placeholder], value)
    return text


def test_without_anything_the_defaults_hold() -> None:
    config = load_config(None, {}, {})
    assert (config.http, config.workers) == (HttpConfig(), WorkerConfig())
    assert config.models.startup == ()


def test_guides_file_loads_with_its_placeholders_filled_in(load: Load) -> None:
    config = load(_guide(model="mnist", file="mnist.mar"))
    assert config.http.inference == config.http.management == Address("0.0.0.0", 8085)
    assert config.workers.queue_size == 10
    assert config.models.store == Path("/mnt/models/model-store")
    (model,) = config.models.startup
    assert (model.name, model.url, model.min_workers, model.max_workers) == ("mnist", "mnist.mar", 1, 5)
    assert (model.batch_delay, model.response_timeout) == (5.0, 120.0)


def test_guides_placeholders_are_an_error_that_asks_to_fill_them_in(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"model_snapshot=.*config\.properties.*placeholder \"<model_name>\""):
        load(_guide())


def test_our_own_file_serves_mnist_on_loopback_without_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a model store, which a checkout gets from `make serve`."""
    (tmp_path / "model_store").mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copy(_REPOSITORY / "config.properties", tmp_path)
    config = load_config(tmp_path / "config.properties", {}, {})
    assert config.http.inference == config.http.management == Address("127.0.0.1", 8085)
    assert [(model.name, model.url) for model in config.models.startup] == [("mnist", "mnist.mar")]
    assert config.models.store == tmp_path / "model_store"
    assert config.notices == ()


def test_snapshot_saved_by_torchserve_is_read(load: Load) -> None:
    config = load(
        "#Saving snapshot\n#Mon Jan 01 00:00:00 UTC 2024\nversion=0.12.0\ntsConfigFile=config.properties\n"
        'model_snapshot={\\n  "name"\\: "startup.cfg",\\n  "modelCount"\\: 1,\\n  "models"\\: {\\n'
        '    "m"\\: {"1.0"\\: {"marName"\\: "m.mar", "minWorkers"\\: 2}}\\n  }\\n}\n'
    )
    (model,) = config.models.startup
    assert (model.name, model.url, model.min_workers, model.loaded_at_startup) == ("m", "m.mar", 2, False)


def test_later_place_wins(load: Load) -> None:
    file = _ENVIRONMENT_ALLOWED + "model_store=a\njob_queue_size=1\ndefault_workers_per_model=1"
    environ = {"TS_MODEL_STORE": "/c", "TS_JOB_QUEUE_SIZE": "3"}
    config = load(file, {"model_store": "/b"}, environ)
    assert config.models.store == Path("/c")
    assert (config.workers.queue_size, config.workers.workers_per_model) == (3, 1)


def test_command_line_wins_over_file(load: Load) -> None:
    assert load("load_models=a.mar", {"load_models": "all"}).models.load_all


def test_environment_is_not_read_unless_the_file_allows_it(load: Load) -> None:
    assert load("job_queue_size=1", environ={"TS_JOB_QUEUE_SIZE": "3"}).workers.queue_size == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("", 3, id="file is silent"),
        pytest.param("enable_envvars_config=false", 100, id="file forbids it"),
        pytest.param("enable_envvars_config=true", 3, id="file allows it"),
    ],
)
def test_environment_allows_itself_where_the_file_does_not_forbid_it(load: Load, text: str, size: int) -> None:
    """TorchServe needs a file for it."""
    environ = {"TS_ENABLE_ENVVARS_CONFIG": "true", "TS_JOB_QUEUE_SIZE": "3"}
    assert load(text, environ=environ).workers.queue_size == size


def test_models_are_named_in_the_environment(load: Load) -> None:
    environ = {
        "TS_MODEL_SNAPSHOT": '{"models": {"m": {"1.0": {"batchSize": 8}}}}',
        "TS_MODELS": '{"n": {"1.0": {"batchSize": 9}}}',
    }
    models = load(_ENVIRONMENT_ALLOWED, environ=environ).models
    assert models.startup[0].batch_size == 8
    assert models.overrides["n", "1.0"].batch_size == 9


def test_empty_variable_means_the_default(load: Load) -> None:
    """KServe sets TS_SERVICE_ENVELOPE to nothing for models without that label."""
    config = load(_ENVIRONMENT_ALLOWED + "service_envelope=kserve", environ={"TS_SERVICE_ENVELOPE": ""})
    assert config.workers.service_envelope == ""


@pytest.mark.parametrize(("guard", "read"), [("true", True), ("false", False)])
def test_allowed_urls_comes_from_the_environment_only_if_the_file_says_so(load: Load, guard: str, read: bool) -> None:
    file = f"{_ENVIRONMENT_ALLOWED}use_env_allowed_urls={guard}"
    config = load(file, environ={"TS_ALLOWED_URLS": "http://.*"})
    assert ("allowed_urls" in config.values) == read


def test_credentials_for_s3_are_awss_own_variables(load: Load) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-west-1"}
    s3 = load("", environ=environ).downloads.s3
    assert s3 is not None
    assert (s3.access_key, s3.secret_key, s3.region) == ("a", "b", "eu-west-1")
    assert load("", environ={"AWS_ACCESS_KEY_ID": "a"}).downloads.s3 is None


def test_token_expiry_has_a_variable_of_another_name(load: Load) -> None:
    config = load(_ENVIRONMENT_ALLOWED, environ={"TS_TOKEN_EXPIRATION_TIME_MIN": "2.5", "TS_TOKEN_EXPIRATION_MIN": "3"})
    assert config.access.token_lifetime == 150
    assert load(_ENVIRONMENT_ALLOWED, environ={"TS_TOKEN_EXPIRATION_MIN": "3"}).access.token_lifetime == 180


@pytest.mark.parametrize(
    ("file", "flag", "variable", "tokens"),
    [
        pytest.param("", "", "", True, id="default"),
        pytest.param("true", "", "", False, id="file"),
        pytest.param("false", "true", "", False, id="the flag wins over the file"),
        pytest.param("true", "true", "false", True, id="the environment wins over both"),
    ],
)
def test_tokens_are_needed_unless_the_last_word_says_no(
    load: Load, file: str, flag: str, variable: str, tokens: bool
) -> None:
    name = "disable_token_authorization"
    told = {name: flag} if flag else {}
    environ = {"TS_DISABLE_TOKEN_AUTHORIZATION": variable} if variable else {}
    config = load(f"{_ENVIRONMENT_ALLOWED}{name}={file}", told, environ)
    assert config.access.tokens is tokens


@pytest.mark.parametrize(
    ("text", "launcher"),
    [
        pytest.param("debug=true", "inline", id="where a debugger is"),
        pytest.param("debug=true\nworker_launcher=exec", "exec", id="another one asked for"),
        pytest.param("debug=false", "forked", id="no debugging"),
    ],
)
def test_debug_runs_handlers_in_the_server_unless_told_otherwise(load: Load, text: str, launcher: str) -> None:
    workers = load(text).workers
    assert (workers.launcher, workers.debug) == (launcher, "true" in text)


def test_old_name_of_metrics_mode_counts_when_the_new_one_is_absent(load: Load) -> None:
    assert load("metrics_format=legacy").metrics.mode == "legacy"
    assert load("metrics_format=legacy\nmetrics_mode=log").metrics.mode == "log"


def test_cors_keys_become_response_headers(load: Load) -> None:
    config = load("cors_allowed_origin=*\ncors_allowed_methods=GET, POST")
    assert config.http.cors == {"access-control-allow-origin": "*", "access-control-allow-methods": "GET, POST"}


def test_snapshot_stands_above_load_models(load: Load) -> None:
    config = load('load_models=all\nmodel_snapshot={"models": {"m": {"1": {}}}}')
    assert not config.models.load_all
    assert [model.name for model in config.models.startup] == ["m"]


def test_models_key_gives_overrides(load: Load) -> None:
    config = load('models={"m": {"1.0": {"batchSize": 8}}}')
    assert config.models.overrides["m", "1.0"].batch_size == 8


def test_relative_store_starts_at_the_current_folder(load: Load, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert load("model_store=store").models.store == tmp_path / "store"
    assert load("workflow_store=store").models.workflow_store == tmp_path / "store"


def test_relative_model_store_is_looked_for_beside_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "store").mkdir(parents=True)
    (tmp_path / "there" / "my.properties").write_text("model_store=store")
    monkeypatch.chdir(tmp_path / "here")
    store = load_config(Path("../there/my.properties"), {}, {}).models.store
    assert store is not None
    assert store.samefile(tmp_path / "there" / "store")


def test_variables_of_the_libraries_are_respected_without_permission() -> None:
    workers = load_config(None, {}, {"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "4"}).workers
    assert (workers.visible_gpus, workers.share_threads) == ("1", False)


def test_log_folders_come_from_the_environment_alone() -> None:
    logs = load_config(None, {"metrics_mode": "log"}, {"LOG_LOCATION": "/l", "METRICS_LOCATION": "/m"}).logs
    assert (logs.folder, logs.metrics_folder) == (Path("/l"), Path("/m"))


@pytest.mark.parametrize(("mode", "folder"), [("prometheus", None), ("log", Path("logs")), ("legacy", Path("logs"))])
def test_metrics_have_log_files_only_in_the_modes_that_write_them(load: Load, mode: str, folder: Path | None) -> None:
    assert load(f"metrics_mode={mode}").logs.metrics_folder == folder


def test_values_keep_what_was_set_but_nothing_secret_or_unknown(load: Load) -> None:
    config = load("job_queue_size=5\nkeystore_pass=hush\nvmargs=-Dpassword=hush\nmy_password=hush")
    assert config.values == {"job_queue_size": "5"}
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("file", "command_line", "environ", "message"),
    [
        pytest.param(
            "job_queue_size=ten", {}, {},
            r"job_queue_size=ten \(config\.properties\): expected a whole number, at least 1$", id="file",
        ),
        pytest.param(
            "", {"load_models": "m="}, {}, r"load_models=m= \(command line, --models\): expected file or name=file",
            id="command line",
        ),
        pytest.param(
            _ENVIRONMENT_ALLOWED, {}, {"TS_NUMBER_OF_GPU": "-1"},
            r"number_of_gpu=-1 \(environment, TS_NUMBER_OF_GPU\): expected a whole number", id="environment",
        ),
        pytest.param(
            "metrics_format=xml", {}, {}, r"metrics_format=xml \(config\.properties\): expected one of prometheus",
            id="old name",
        ),
        pytest.param(
            "metrics_mode=log   # old", {}, {}, "a comment needs a line of its own", id="comment behind a value"
        ),
        pytest.param(
            "grpc_inference_port=x", {}, {}, "grpc_inference_port=x .*whole number", id="key of a feature to come"
        ),
        pytest.param("models={" + " " * 99 + '"m":1}', {}, {}, r'models=\{ "m":1\} \(', id="blanks are not shown"),
        pytest.param("models=[" + "1," * 99, {}, {}, r"models=\[1,[1,]+\.\.\. \(", id="long values are cut"),
    ],
)  # fmt: skip
def test_bad_value_is_an_error_naming_key_value_place_and_what_is_accepted(
    load: Load, file: str, command_line: dict[str, str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(file, command_line, environ)


def test_variable_in_the_file_is_replaced(load: Load) -> None:
    assert load("model_store=$$STORE$$", environ={"STORE": "/s"}).models.store == Path("/s")


class TestFindingTheFile:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        for name in ("config.properties", "given", "named"):
            (tmp_path / name).touch()

    def test_ts_config_file_stands_above_the_flag(self, tmp_path: Path) -> None:
        environ = {"TS_CONFIG_FILE": str(tmp_path / "named")}
        assert find_config_file(tmp_path / "given", environ, tmp_path) == tmp_path / "named"

    def test_flag_stands_above_the_usual_file(self, tmp_path: Path) -> None:
        assert find_config_file(tmp_path / "given", {"TS_CONFIG_FILE": ""}, tmp_path) == tmp_path / "given"

    def test_usual_file_is_taken_when_none_is_named(self, tmp_path: Path) -> None:
        assert find_config_file(None, {}, tmp_path) == tmp_path / "config.properties"

    def test_no_file_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "config.properties").unlink()
        assert find_config_file(None, {}, tmp_path) is None

    def test_missing_file_is_an_error_in_torchserves_words(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"--ts-config file not found: .*nowhere"):
            find_config_file(tmp_path / "nowhere", {}, tmp_path)
        with pytest.raises(ConfigurationError, match="TS_CONFIG_FILE file not found: nowhere"):
            find_config_file(tmp_path / "given", {"TS_CONFIG_FILE": "nowhere"}, tmp_path)
