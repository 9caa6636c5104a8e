"""Requirements of an archive: installed once, from the operator's index or the archive itself, never from elsewhere."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from torchserve_lite.archive import dependencies
from torchserve_lite.archive.dependencies import Environment, install
from torchserve_lite.archive.requirements import for_pip, read_requirements
from torchserve_lite.archive.store import Archive, ModelStore
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive, ShuttingDown

from .stores import folder_of


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "store").mkdir()
    return ModelStore(folder=tmp_path / "store", scratch=tmp_path / "scratch")


def model(store: ModelStore, requirements: str = "tiny-greeting", config: str = "") -> Archive:
    """An unpacked archive with a wheel, a requirements file and a module whose name pip's own imports know."""
    archive = folder_of(store) / "m.mar"
    wants = {"modelName": "m", "requirementsFile": "requirements.txt", "configFile": "config.yaml"}
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": wants}))
        opened.writestr("requirements.txt", requirements)
        opened.writestr("config.yaml", config)
        opened.writestr("types.py", "raise ImportError('pip imported the model')")
        opened.writestr("tiny_greeting-1.0-py3-none-any.whl", wheel())
    return store.open("m.mar")


def wheel() -> bytes:
    """A package that is nowhere but here, the same bytes each time."""
    content, info = io.BytesIO(), "tiny_greeting-1.0.dist-info"
    files = {
        "tiny_greeting.py": "TEXT = 'hello'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-greeting\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"tiny_greeting.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    with zipfile.ZipFile(content, "w") as packed:
        for name, text in files.items():
            packed.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def folder_model(store: ModelStore, files: dict[str, str]) -> Archive:
    """A folder of the store, which the server's PYTHONPATH can name; its wheel is asked for by path."""
    wants = {"modelName": "m", "requirementsFile": "requirements.txt", "configFile": "config.yaml"}
    files = {"MAR-INF/MANIFEST.json": json.dumps({"model": wants}), "config.yaml": "", **files}
    files = {"requirements.txt": "./tiny_greeting-1.0-py3-none-any.whl", **files}
    for name, text in files.items():
        path = folder_of(store) / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder_of(store) / "m/tiny_greeting-1.0-py3-none-any.whl").write_bytes(wheel())
    return store.open("m")


def greeting(environment: Environment, archive: Archive) -> str:
    """What a worker started in this environment would import."""
    path = ":".join([str(archive.path), *environment.python_path])
    code = f"import sys; sys.path[:0] = {path.split(':')!r}; import tiny_greeting; print(tiny_greeting.TEXT)"
    command = [environment.python or sys.executable, "-P", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_model_without_requirements_runs_in_the_interpreter_given(store: ModelStore, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder_of(store) / "m.mar", "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", '{"model": {"modelName": "m"}}')
    with store.open("m.mar") as archive:
        assert install(archive, python="python-of-choice", cache=tmp_path) == Environment(python="python-of-choice")


@pytest.mark.parametrize("line", ["tiny-greeting", "./tiny_greeting-1.0-py3-none-any.whl", "tiny-greeting==1.0 # why"])
def test_package_in_the_archive_is_installed_beside_the_handler(line: str, store: ModelStore, tmp_path: Path) -> None:
    with model(store, line) as archive:
        environment = install(archive, python="", cache=tmp_path / "cache")

        assert environment == Environment(python="")  # the server's own
        assert (archive.path / "tiny_greeting.py").is_file()
        assert greeting(environment, archive) == "hello"


@pytest.mark.parametrize(
    "python_path",
    [
        pytest.param(".", id="current folder"),
        pytest.param(":/nowhere", id="empty entry"),
        pytest.param("store/m", id="relative"),
        pytest.param("{store}/m", id="absolute"),
    ],
)
@pytest.mark.parametrize("config", ["", "useVenv: true"], ids=["folder", "environment"])
def test_pip_imports_nothing_of_the_archive_it_installs_for(
    config: str, python_path: str, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip ran in the model's folder: with PYTHONPATH=. the server ran what a stranger's archive brought as json.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", python_path.format(store=folder_of(store)))
    (tmp_path / "imported").mkdir()
    planted = f"import os; os.mkdir({str(tmp_path)!r} + '/imported/' + __name__); raise ImportError('of the model')"
    modules = ["sitecustomize.py", "usercustomize.py", "json.py", "venv.py", "pip/__init__.py", "encodings/idna.py"]
    with folder_model(store, {"config.yaml": config} | dict.fromkeys(modules, planted)) as archive:
        environment = install(archive, python=sys.executable, cache=tmp_path / "cache")

        assert list((tmp_path / "imported").iterdir()) == []
        for module in modules:
            (archive.path / module).unlink()
        assert greeting(environment, archive) == "hello"


@pytest.mark.parametrize("setting", ["PIP_CONFIG_FILE", "PIP_CONSTRAINT"])
def test_relative_path_in_the_servers_settings_finds_no_file_of_the_archive(
    setting: str, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(setting, "settings")
    (tmp_path / "settings").write_text("")
    with folder_model(store, {"settings": "not for pip"}) as archive:
        assert greeting(install(archive, python=sys.executable, cache=tmp_path), archive) == "hello"


def test_interpreter_with_a_relative_path_is_the_servers_and_not_one_of_the_archive(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with folder_model(store, {"python": "#!/bin/false"}) as archive:
        for place, program in ((tmp_path, sys.executable), (archive.path, "/bin/false")):
            (place / "python").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
            (place / "python").chmod(0o755)
        install(archive, python="./python", cache=tmp_path / "cache")
        assert (archive.scratch / "packages/tiny_greeting.py").is_file()


def test_folder_in_the_store_stays_clean(store: ModelStore, tmp_path: Path) -> None:
    with model(store) as packed:
        packed.path.rename(folder_of(store) / "plain")
    before = sorted((folder_of(store) / "plain").rglob("*"))

    with store.open("plain") as archive:
        environment = install(archive, python=sys.executable, cache=tmp_path / "cache")
        assert environment.python_path == (str(archive.scratch / "packages"),)
        assert greeting(environment, archive) == "hello"
    assert sorted((folder_of(store) / "plain").rglob("*")) == before
    assert list((store.scratch / "models").iterdir()) == []


def test_virtual_environment_inherits_and_is_made_once(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with model(store, config="useVenv: true") as archive:
        first = install(archive, python=sys.executable, cache=cache)
        assert greeting(first, archive) == "hello"
        assert not (archive.path / "tiny_greeting.py").exists()
        subprocess.run([first.python, "-P", "-c", "import yaml, pip"], check=True)

    monkeypatch.setattr(dependencies._Installation, "_pip", lambda *_: pytest.fail("installed again"))
    with model(store, config="useVenv: true") as restarted:
        assert install(restarted, python=sys.executable, cache=cache) == first


def test_virtual_environment_cut_off_while_it_was_made_is_made_anew(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model(store, config="useVenv: true") as archive:
        with monkeypatch.context() as patch:
            patch.setattr(dependencies._Installation, "_pip", interrupt)
            with pytest.raises(KeyboardInterrupt):
                install(archive, python=sys.executable, cache=tmp_path)

        assert greeting(install(archive, python=sys.executable, cache=tmp_path), archive) == "hello"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("config", ["", "useVenv: true"], ids=["beside", "venv"])
def test_installation_that_is_interrupted_ends_at_once_and_leaves_no_process(
    config: str, store: ModelStore, tmp_path: Path
) -> None:
    """The stop of a server waited for pip, for half an hour at most."""
    interruption = Interruption()
    slow = tmp_path / "python"
    os.mkfifo(tmp_path / "begun")
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/begun\nexec sleep 600\n")
    slow.chmod(0o755)
    with model(store, config=config) as archive, ThreadPoolExecutor() as threads:
        installing = threads.submit(
            install, archive, python=str(slow), cache=tmp_path / "cache", interruption=interruption
        )
        pid = int((tmp_path / "begun").read_text())
        interruption.interrupt()
        with pytest.raises(ShuttingDown):
            installing.result(timeout=60)
    assert not psutil.pid_exists(pid)


def test_wait_for_another_server_that_installs_is_interrupted(store: ModelStore, tmp_path: Path) -> None:
    class Refusing(Interruption):
        def wait(self, seconds: float) -> None:
            self.interrupt()
            super().wait(seconds)

    with model(store, config="useVenv: true") as archive:
        install(archive, python=sys.executable, cache=tmp_path / "cache")
        (lock,) = (tmp_path / "cache").glob("*.lock")
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ShuttingDown):
                install(archive, python=sys.executable, cache=tmp_path / "cache", interruption=Refusing())


def test_other_requirements_get_an_environment_of_their_own(store: ModelStore, tmp_path: Path) -> None:
    pythons = set()
    for requirements in ("tiny-greeting", "tiny-greeting==1.0"):
        with model(store, requirements, config="useVenv: true") as archive:
            pythons.add(install(archive, python=sys.executable, cache=tmp_path).python)
    assert len(pythons) == 2


def test_failure_comes_with_the_last_lines_of_pip(store: ModelStore, tmp_path: Path) -> None:
    with model(store, "no-such-package==7.0") as archive, pytest.raises(InvalidArchive) as refusal:
        install(archive, python=sys.executable, cache=tmp_path)
    assert str(refusal.value).startswith("m.mar: Custom pip package installation failed for model m.\n")
    assert "no-such-package==7.0" in str(refusal.value)


def test_failure_is_told_at_a_length_that_can_be_read(store: ModelStore, tmp_path: Path) -> None:
    """Of pip's last lines each may be as long as a requirement."""
    requirement = f"no-such-package @ file:///{'x' * 200_000}"
    with model(store, requirement) as archive, pytest.raises(InvalidArchive) as refusal:
        install(archive, python=sys.executable, cache=tmp_path)
    assert len(str(refusal.value)) < 10_000


def test_interpreter_that_cannot_make_an_environment_is_reported(store: ModelStore, tmp_path: Path) -> None:
    with model(store, config="useVenv: true") as archive, pytest.raises(InvalidArchive) as refusal:
        install(archive, python="/bin/false", cache=tmp_path)
    assert "Virtual environment creation failed for model m." in str(refusal.value)


def test_install_that_takes_too_long_is_stopped(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "_LONGEST_INSTALL", 0.0)
    with model(store) as archive, pytest.raises(InvalidArchive, match="It took longer than 0 s"):
        install(archive, python=sys.executable, cache=tmp_path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param("--index-url https://evil.example/simple", "uses the option --index-url", id="19 index"),
        pytest.param("--index-url=https://evil.example/simple", "uses the option --index-url", id="19 index with ="),
        pytest.param("-i https://evil.example/simple", "uses the option -i", id="19 short index"),
        pytest.param("--index-ur https://evil.example/simple", "uses the option --index-ur", id="19 abbreviated"),
        pytest.param(
            "--extra-index-url https://evil.example", "uses the option --extra-index-url", id="19 extra index"
        ),
        pytest.param("--pre --index-url https://evil.example", "uses the option --index-url", id="19 behind another"),
        pytest.param("numpy --index-url https://evil.example", "uses the option --index-url", id="19 behind a package"),
        pytest.param("--find-links https://evil.example", "uses the option --find-links", id="19 links"),
        pytest.param("--trusted-host evil.example", "uses the option --trusted-host", id="19 trusted host"),
        pytest.param("-e git+https://evil.example/x", "uses the option -e", id="19 editable"),
        pytest.param("git+https://evil.example/x", "names a place to fetch a package from", id="19 git"),
        pytest.param("x @ file:///etc/x.whl", "names a place to fetch a package from", id="19 file"),
        pytest.param("x@https://evil.example/x.whl", "names a place to fetch a package from", id="19 direct"),
        pytest.param("https://evil.example/x.whl", "names a place to fetch a package from", id="19 url"),
        pytest.param("file:x.whl", "names a place to fetch a package from", id="19 file without slashes"),
        pytest.param("/etc/x.whl", "is not in the archive", id="19 absolute path"),
        pytest.param("../x.whl", "is not in the archive", id="19 path outside"),
        pytest.param("./absent.whl", "is not in the archive", id="absent wheel"),
        pytest.param("numpy==${AWS_SECRET}", "reads the variable ${AWS_SECRET} of the server", id="variable"),
        pytest.param("--hash=${TOKEN_2}", "reads the variable ${TOKEN_2} of the server", id="variable in an option"),
        *(
            pytest.param(f"x{end}", "is not in the archive", id=f"absent {end}")
            for end in (".tar", ".TXZ", ".tar.lzma")
        ),
        pytest.param("numpy --global-option=x", "uses the option --global-option", id="build option"),
        pytest.param("--index-\\\nurl https://evil.example", "uses the option --index-url", id="19 continued line"),
        pytest.param("# c \\\n-i https://evil.example", "uses the option -i", id="19 behind a continued comment"),
        pytest.param("-r ../../etc/other.txt", "'../../etc/other.txt', which it does not hold", id="include outside"),
        pytest.param("-r requirements.txt", "include one another more than 8 deep", id="circle of includes"),
    ],
)
def test_line_that_chooses_its_own_source_is_refused(line: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"{line}\n")

    with pytest.raises(ArchiveError) as refusal:
        read_requirements(tmp_path, "requirements.txt")
    assert fault in str(refusal.value)


def test_refused_line_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n\n-i https://evil.example\n")

    with pytest.raises(ArchiveError, match=r"requirements\.txt line 3: '-i https://evil\.example' uses the option -i"):
        read_requirements(tmp_path, "requirements.txt")


def test_lines_for_pip_are_those_of_all_files_without_comments(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/extra.txt").write_text("-r other.txt\nbeta[x]>=1 ; python_version >= '3.8'\n")
    (tmp_path / "more/other.txt").write_text("gamma==1 \\\n  --hash=sha256:00\n")
    (tmp_path / "limits.txt").write_text("numpy<3\n")
    (tmp_path / "r.txt").write_text("# for tests\n--pre\nalpha # first\n-r more/extra.txt\n-c limits.txt\n")

    read = read_requirements(tmp_path, "r.txt")
    assert read.lines == ("--pre", "alpha", "gamma==1   --hash=sha256:00", "beta[x]>=1 ; python_version >= '3.8'")
    assert read.constraints == ("numpy<3",)


@pytest.mark.parametrize(
    ("line", "for_pip_line"),
    [
        pytest.param("numpy>=1 ; python_version > '3'", "numpy>=1 ; python_version > '3'", id="name"),
        pytest.param("--pre", "--pre", id="option"),
        pytest.param("./x.whl[all] ; os_name == 'posix'", "{folder}/x.whl[all] ; os_name == 'posix'", id="extras"),
        pytest.param("x-1.tar.gz --hash=sha256:00", "{folder}/x-1.tar.gz --hash=sha256:00", id="hash"),
        pytest.param("wheels/x.whl", "{folder}/wheels/x.whl", id="folder"),
    ],
)
def test_path_in_the_archive_is_absolute_for_pip(line: str, for_pip_line: str, tmp_path: Path) -> None:
    assert for_pip([line], tmp_path) == for_pip_line.format(folder=tmp_path)
