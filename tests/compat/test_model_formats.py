"""Every format a model may come in loads, answers as the eager model does, and says what is wrong when it cannot."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.formats import ModelFormat, format_of
from ts.torch_handler.model_formats import ModelNotLoadable

from torchserve_lite import testing
from torchserve_lite.archive.entry_points import check_model_file
from torchserve_lite.worker.tracebacks import explain_failure

CPU = torch.device("cpu")
BATCH = torch.export.Dim("batch", min=1, max=64)

MODEL_FILE = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return torch.as_tensor(self.second(self.first(x).relu()))
"""


class Tied(nn.Module):
    """Two layers with one weight, as language models tie their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.second(self.first(x).relu()))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(7)
    return Tied().eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tied.py").write_text(MODEL_FILE)
    return tmp_path


@pytest.fixture(scope="module")
def aoti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled package; made once, because the compiler takes seconds."""
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("aoti") / "model.pt2"
    torch._inductor.aoti_compile_and_package(exported(Tied().eval()), package_path=str(path))
    return path


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes=({0: BATCH},))


def loaded(folder: Path, weights: str | None, model_file: str | None = None, **config: Any) -> BaseHandler:
    files = {"serializedFile": weights, "modelFile": model_file}
    manifest = {"model": {key: name for key, name in files.items() if name}}
    handler = BaseHandler()
    handler.initialize(testing.context(folder, manifest=manifest, model_yaml_config=config))
    return handler


def assert_answers_as(model: nn.Module, handler: BaseHandler) -> None:
    x = torch.randn(3, 4)
    torch.testing.assert_close(handler.inference(x), model(x), atol=1e-4, rtol=0)


def save_state(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def save_legacy_state(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def save_script(model: nn.Module, path: Path) -> None:
    torch.jit.script(model).save(str(path))


def save_exported(model: nn.Module, path: Path) -> None:
    torch.export.save(exported(model), path)


def save_onnx(model: nn.Module, path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(model, (torch.zeros(2, 4),), path, dynamic_shapes=({0: BATCH},), verbose=False)


def save_safetensors(model: nn.Module, path: Path) -> None:
    pytest.importorskip("safetensors.torch").save_model(model, path)


def save_shards(model: nn.Module, path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    shards = {name: f"model-{number}.safetensors" for number, name in enumerate(model.state_dict())}
    for name, file in shards.items():
        safetensors.save_file({name: model.state_dict()[name].clone()}, path.parent / file)
    path.write_text(json.dumps({"weight_map": shards}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "save"),
    [
        pytest.param("model.pt", save_script, id="torchscript-pt"),
        pytest.param("model.pth", save_script, id="torchscript-pth"),
        pytest.param("model.pt2", save_exported, id="torch.export"),
        pytest.param("model.onnx", save_onnx, id="onnx"),
    ],
)
def test_complete_model_answers_as_eager_when_loaded(
    folder: Path, model: nn.Module, file: str, save: Callable[[nn.Module, Path], None]
) -> None:
    save(model, folder / file)
    assert_answers_as(model, loaded(folder, file))


@pytest.mark.parametrize(
    ("file", "save"),
    [
        pytest.param("model.pt", save_state, id="state-dict-pt"),
        pytest.param("model.pth", save_state, id="state-dict-pth"),
        pytest.param("model.bin", save_legacy_state, id="state-dict-before-1.6"),
        pytest.param("model.pt", save_script, id="torchscript"),
        pytest.param("model.safetensors", save_safetensors, id="safetensors-tied"),
        pytest.param("model.safetensors.index.json", save_shards, id="safetensors-sharded"),
    ],
)
def test_eager_model_answers_as_saved_when_weights_are_read(
    folder: Path, model: nn.Module, file: str, save: Callable[[nn.Module, Path], None]
) -> None:
    save(model, folder / file)
    assert_answers_as(model, loaded(folder, file, "tied.py"))


@pytest.fixture
def zoo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """Of a class in zoo.models.net, a name like those of torchvision: TorchScript files hold code by its name."""
    (tmp_path / "zoo/models").mkdir(parents=True)
    code = MODEL_FILE.replace("self.second.weight = self.first.weight", "pass")
    (tmp_path / "zoo/models/net.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("zoo.models.net").Tied().eval()
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[name]


def save_with_extra_files(model: nn.Module, path: Path) -> None:
    files = {"models/labels.json": "{}", "data/aotinductor/x": "", "archive_format": "pt2"}
    torch.jit.save(torch.jit.script(model), path, _extra_files=files)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("save", "kind"),
    [
        pytest.param(save_state, ModelFormat.STATE_DICT, id="state dict"),
        pytest.param(save_legacy_state, ModelFormat.STATE_DICT, id="state dict before 1.6"),
        pytest.param(lambda model, path: torch.save(model, path), ModelFormat.STATE_DICT, id="whole module"),
        pytest.param(save_script, ModelFormat.TORCHSCRIPT, id="scripted"),
        pytest.param(save_with_extra_files, ModelFormat.TORCHSCRIPT, id="scripted, with extra files"),
        pytest.param(
            lambda model, path: torch.jit.trace(model, torch.zeros(2, 4)).save(path),
            ModelFormat.TORCHSCRIPT,
            id="traced",
        ),
        pytest.param(
            lambda model, path: torch.jit.script(model)._save_for_lite_interpreter(str(path)),
            ModelFormat.TORCHSCRIPT,
            id="lite interpreter",
        ),
        pytest.param(save_exported, ModelFormat.EXPORTED_PROGRAM, id="torch.export"),
        pytest.param(lambda model, path: path.write_bytes(b"hello"), ModelFormat.UNKNOWN, id="junk"),
        pytest.param(lambda model, path: path.write_bytes(b""), ModelFormat.UNKNOWN, id="empty"),
    ],
)
def test_format_is_told_by_what_defines_it_when_module_names_mislead(
    tmp_path: Path, zoo_model: nn.Module, save: Callable[[nn.Module, Path], object], kind: ModelFormat
) -> None:
    """TorchScript of torchvision was taken for torch.export: `/models/` occurs in the paths of its code."""
    save(zoo_model, tmp_path / "model.pt")
    assert format_of(tmp_path / "model.pt") is kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        pytest.param(
            ["serialized_exported_program.json", "version"], ModelFormat.EXPORTED_PROGRAM, id="export until 2.7"
        ),
        pytest.param(["m/constants.pkl", "m/data.pkl"], ModelFormat.TORCHSCRIPT, id="TorchScript"),
        pytest.param(["m/data.pkl", "m/extra/constants.pkl"], ModelFormat.STATE_DICT, id="deeper names do not count"),
        pytest.param(["config.json", "model.weights.h5"], ModelFormat.UNKNOWN, id="Keras"),
        pytest.param([".data/extern_modules", "m/models/m.pkl"], ModelFormat.UNKNOWN, id="torch.package"),
    ],
)
def test_format_of_a_zip_is_told_by_its_entries(tmp_path: Path, names: list[str], kind: ModelFormat) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert format_of(tmp_path / "model.pt") is kind


def test_aoti_package_answers_as_eager_when_loaded(aoti: Path, model: nn.Module) -> None:
    assert format_of(aoti) is ModelFormat.AOTI_PACKAGE
    assert_answers_as(model, loaded(aoti.parent, aoti.name))


def test_aoti_library_is_loaded_only_when_config_allows_it(aoti: Path, model: nn.Module, tmp_path: Path) -> None:
    with zipfile.ZipFile(aoti) as package:
        library = next(name for name in package.namelist() if name.endswith(".so"))
        (tmp_path / "model.so").write_bytes(package.read(library))
    with pytest.raises(ModelNotLoadable, match="aot_compile: true"):
        loaded(tmp_path, "model.so")
    assert_answers_as(model, loaded(tmp_path, "model.so", pt2={"export": {"aot_compile": True}}))


def test_eager_model_is_served_as_constructed_when_there_are_no_weights(folder: Path) -> None:
    assert loaded(folder, None, "tied.py").inference(torch.zeros(2, 4)).shape == (2, 4)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize(("config", "mapped"), [({}, True), ({"mmap": False}, False)], ids=["default", "mmap-false"])
def test_weights_stay_mapped_when_config_lets_them(
    folder: Path, model: nn.Module, config: dict[str, Any], mapped: bool
) -> None:
    """Workers of one model share the pages of its file instead of each holding a copy."""
    save_state(model, folder / "model.pt")
    handler = loaded(folder, "model.pt", "tied.py", **config)
    assert (str(folder / "model.pt") in Path("/proc/self/maps").read_text()) is mapped
    assert_answers_as(model, handler)


def test_weights_are_converted_when_their_dtype_is_not_the_models(folder: Path, model: nn.Module) -> None:
    torch.save(model.half().state_dict(), folder / "model.pt")
    assert loaded(folder, "model.pt", "tied.py").inference(torch.zeros(1, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            "def load_state_dict(self, state_dict, strict=True): return super().load_state_dict(state_dict, strict)",
            id="load_state_dict without assign",
        ),
        pytest.param(
            "def load_state_dict(self, s): super().load_state_dict(dict(s))", id="load_state_dict of one argument"
        ),
        pytest.param("def state_dict(self): return super().state_dict()", id="state_dict without keep_vars"),
        pytest.param("def eval(self): self.train(False)", id="eval without a result"),
        pytest.param("def to(self, device): super().to(device)", id="to without a result"),
    ],
)
def test_own_method_of_a_model_gets_only_what_torchserve_gives_it(folder: Path, model: nn.Module, method: str) -> None:
    """`assign=` made a class fail whose own `load_state_dict` is that of an older torch."""
    (folder / "tied.py").write_text(f"{MODEL_FILE}\n    {method}\n")
    save_state(model, folder / "model.pt")
    assert_answers_as(model, loaded(folder, "model.pt", "tied.py"))


def test_model_file_is_used_when_standard_library_has_its_name(folder: Path) -> None:
    """`code.py` is also a module of Python, and may be imported already."""
    import code

    (folder / "tied.py").rename(folder / "code.py")
    assert type(loaded(folder, None, "code.py").model).__name__ == "Tied"
    assert sys.modules["code"] is code


def test_onnx_session_can_be_used_as_one_when_handler_calls_run(folder: Path, model: nn.Module) -> None:
    save_onnx(model, folder / "model.onnx")
    session = loaded(folder, "model.onnx").model
    name = session.get_inputs()[0].name
    assert session.run(None, {name: torch.zeros(5, 4).numpy()})[0].shape == (5, 4)
    assert session(**{name: torch.zeros(5, 4, dtype=torch.float64)}).shape == (5, 4)


def whole_module(path: Path) -> None:
    torch.save(Tied(), path)


def truncated(path: Path) -> None:
    torch.save(Tied().state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])


def other_network(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        pytest.param(whole_module, r"model\.pt: .*Tied.*not unpickled.*model\.state_dict\(\)", id="whole-module"),
        pytest.param(truncated, r"model\.pt: it is damaged", id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), r"model\.pt: it is damaged", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"hello" * 9), r"model\.pt: it is damaged", id="junk"),
        pytest.param(other_network, r"(?s)not those of Tied: .*first\.weight", id="other-network"),
        pytest.param(lambda path: torch.save([1], path), r"holds list, not a state dict", id="not-a-state-dict"),
        pytest.param(lambda path: None, r"model\.pt: .*the archive does not hold it", id="missing"),
    ],
)
def test_bad_weights_are_named_with_the_way_to_mend_them(
    folder: Path, spoil: Callable[[Path], object], fault: str
) -> None:
    spoil(folder / "model.pt")
    with pytest.raises(ModelNotLoadable, match=fault):
        loaded(folder, "model.pt", "tied.py")


@pytest.mark.parametrize("file", ["model.pt", "model.pth", "model.safetensors"])
def test_weights_alone_are_refused_when_there_is_no_model_file(folder: Path, model: nn.Module, file: str) -> None:
    save_state(model, folder / file)
    with pytest.raises(ModelNotLoadable, match=rf"{file}: .*--model-file"):
        loaded(folder, file)


def test_missing_shard_is_named_when_index_lists_it(folder: Path, model: nn.Module) -> None:
    save_shards(model, folder / "model.safetensors.index.json")
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelNotLoadable, match=r"model-1\.safetensors missing: .*--extra-files"):
        loaded(folder, "model.safetensors.index.json", "tied.py")


@pytest.mark.parametrize(
    ("file", "package", "model_file"),
    [
        pytest.param("model.onnx", "onnxruntime", None, id="onnx"),
        pytest.param("model.safetensors", "safetensors", "tied.py", id="safetensors"),
    ],
)
def test_missing_package_is_named_with_its_installation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, package: str, model_file: str | None
) -> None:
    (folder / file).write_bytes(b"any")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "ts.torch_handler.onnx_session", raising=False)
    with pytest.raises(ModelNotLoadable, match=f"needs {package}, which is not installed") as failure:
        loaded(folder, file, model_file)
    assert "pip install 'torchserve-lite[" in explain_failure(failure.value).cause


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param("class TooLong(ValueError): ...", id="exception"),
        pytest.param(
            "from dataclasses import dataclass\n@dataclass\nclass Settings:\n    width: int = 4", id="dataclass"
        ),
        pytest.param("import enum\nclass Mode(enum.Enum):\n    A = 1", id="enum"),
        pytest.param("class Wider(Tied): ...", id="what extends it is the model"),
    ],
)
def test_model_file_may_define_other_things_beside_the_network(folder: Path, beside: str) -> None:
    (folder / "tied.py").write_text(f"{MODEL_FILE}\n{beside}\n")
    assert isinstance(loaded(folder, None, "tied.py").model, nn.Module)
    check_model_file(folder / "tied.py", folder)


def test_model_file_with_two_classes_is_refused_by_their_names(folder: Path) -> None:
    (folder / "tied.py").write_text(MODEL_FILE + "\nclass Another(nn.Module): ...\n")
    with pytest.raises(ValueError, match=r"Expected only one class as model definition.*Another, Tied"):
        loaded(folder, None, "tied.py")


def test_manifest_without_model_is_refused_with_advice(folder: Path) -> None:
    with pytest.raises(ModelNotLoadable, match=r"--serialized-file"):
        loaded(folder, None)
