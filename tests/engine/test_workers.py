"""How workers of every launcher live and die: surroundings, deaths, output, starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import NO_SLABS, NewJob
from tests.engine.serving import MODELS, engine_of, served, spec_for
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import DevicePolicy
from torchserve_lite.engine.devices import Devices
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.engine.local import LocalEngine
from torchserve_lite.errors import (
    ConfigurationError,
    LoadFailed,
    ModelLoading,
    ModelNotFound,
    PredictionFailed,
    ResponseTimeout,
    WorkerDied,
    WorkerKilled,
)
from torchserve_lite.ipc.preloading import start_preloading

PROCESSES = ["forked", "shared", "exec"]
every_launcher = pytest.mark.parametrize("launcher", [*PROCESSES, "inline"])
process_launchers = pytest.mark.parametrize("launcher", PROCESSES)


def messages(caplog: pytest.LogCaptureFixture, logger: str = "MODEL_LOG") -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name == logger)


def processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@every_launcher
async def test_requests_of_a_coroutine_handler_run_beside_one_another(launcher: str) -> None:
    async with served(launcher, "meeting", lanes=2) as model:
        assert list(await asyncio.gather(model.ask(b"1"), model.ask(b"2"))) == [b"1", b"2"]


@process_launchers
async def test_coroutine_handler_may_fill_the_threads_of_its_loop(launcher: str) -> None:
    """The worker waited for messages in one of them, so the request that was to let the others go on never came."""
    async with served(launcher, "crowded", lanes=64) as model:
        waiting = [model.submit(b"wait").answer for _ in range(50)]
        assert await model.ask(b"go") == b"go"
        assert {bytes(answer.body) for answer in await asyncio.gather(*waiting)} == {b"wait"}


async def test_coroutine_handlers_share_the_cores_anew_when_workers_are_scaled() -> None:
    async with served("forked", "crowded", lanes=2, workers=2, engine={"cores": 6}) as model:
        assert await model.ask(b"threads") == b"3"
        await model.engine.scale(model.spec.key, 1)
        assert await model.ask(b"threads") == b"6"


@every_launcher
async def test_workers_answer_in_parallel(launcher: str) -> None:
    async with served(launcher, workers=2) as model:
        assert model.engine.status(model.spec.key).ready
        assert len(set(model.pids)) == (1 if launcher == "inline" else 2)


# Surroundings


@process_launchers
async def test_handler_lives_in_its_models_folder(launcher: str) -> None:
    async with served(launcher, model_config={"topk": 3, 1: "one"}, manifest={"model": {}}) as model:
        seen = await model.surroundings()
        assert seen["folder"] == str(MODELS / "obedient")
        assert seen["companion"] == "next to the handler"
        assert seen["model"] == ["obedient", {"model": {}}, {"topk": 3, "1": "one"}]
        assert seen["pid"] == model.pids[0] != os.getpid()


@process_launchers
async def test_hidden_names_leave_the_environment_and_no_others_do(launcher: str) -> None:
    async with served(launcher, engine={"config": {"hidden_environment": "HOM.|PAT"}}) as model:
        environment = (await model.surroundings())["environment"]
        assert "HOME" not in environment
        assert "PATH" in environment  # the expression must match the whole name


@process_launchers
@pytest.mark.parametrize("said", [True, False])
async def test_handler_is_told_of_settings_in_torchserves_variables(said: bool, launcher: str) -> None:
    settings = {"decode_input_request": said, "ipex_enable": not said, "ipex_gpu_enable": said}
    async with served(launcher, engine={"config": settings}) as model:
        for name, value in settings.items():
            assert await model.ask(f"variable TS_{name.upper()}".encode()) == str(value).lower().encode()


@pytest.mark.parametrize("first", [9000, 12000])
async def test_worker_ids_count_from_the_configured_one(first: int) -> None:
    async with served("inline", workers=2, engine={"config": {"first_worker_id": first}}) as model:
        ids = [worker.id for worker in model.engine.status(model.spec.key).workers]
        assert ids == [str(first), str(first + 1)]


@process_launchers
async def test_packages_installed_for_the_model_are_found_by_the_handler_and_its_programs(
    launcher: str, tmp_path: Path
) -> None:
    (tmp_path / "installed_for_this_model.py").write_text("NAME = 'there'")
    async with served(launcher, engine={"files": {"python_path": (str(tmp_path),)}}) as model:
        assert await model.ask(b"import installed_for_this_model") == b"there"
        assert await model.ask(b"run_program installed_for_this_model") == b"there\n"


@process_launchers
async def test_process_is_as_the_operator_started_it(launcher: str) -> None:
    os.umask(umask := os.umask(0o022))
    inherited = set(psutil.Process(start_preloading().process.pid).environ())
    added = {"PYTHONPATH", "TS_DECODE_INPUT_REQUEST", "TS_IPEX_ENABLE", "TS_IPEX_GPU_ENABLE"}
    added |= {f"TS_REQUEST_SEQUENCE_{name}" for name in ("ID", "START", "END")}
    expected = {
        "arguments": [],
        "stdin": "",
        "interactive": [False, False, False],
        "start method": None,
        "blocked signals": [],
        "signals with handlers": ["SIGINT", "SIGTERM"],
        "wakeup descriptor": -1,
        "threads": ["MainThread"],
        "encodings": ["utf-8", "utf-8", "utf-8", "UTF-8"],
        "umask": umask,
        "limits": [list(resource.getrlimit(number)) for number in range(16)],
        "niceness": os.nice(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "fault handler": True,
        "recursion limit": 1000,
        "collector": [True, list(gc.get_threshold()), 0],
        "leads its group": True,
        "open for programs": ["0", "1", "2"],
        "environment": sorted(added | inherited - {"OMP_NUM_THREADS"}),
        "switch interval": 0.005,
        "excepthook": True,
        "current folder": "obedient",
        "first folder of imports": "obedient",
        "main module": ["__main__", False],
        "logging": [logging.INFO, 0, []],
        "tracing": [None, None],
        "running loop": False,
        "time zone": os.environ.get("TZ"),
        "locale": "C",
        "int digits": sys.get_int_max_str_digits(),
    }
    async with served(launcher) as model:
        seen = json.loads(bytes(await model.ask(b"world")))
    assert seen == expected


@process_launchers
async def test_two_workers_draw_different_random_numbers(launcher: str) -> None:
    drawn = []
    for _ in range(2):
        async with served(launcher) as model:
            drawn.append(json.loads(bytes(await model.ask(b"random_numbers"))))
    assert not set(drawn[0]) & set(drawn[1])


async def test_workers_share_the_cores_as_intra_op_threads() -> None:
    async with served("forked", workers=2, engine={"cores": 6}) as model:
        assert await model.ask(b"threads") == b"3"
        await model.engine.scale(model.spec.key, 1)
        assert await model.ask(b"threads") == b"6"


@pytest.mark.parametrize(
    ("facts", "cores", "threads"),
    [
        pytest.param({}, 1, b"1", id="never fewer than one"),
        pytest.param({"intra_op_threads": 5}, 6, b"5", id="fixed by the model"),
    ],
)
async def test_threads_of_a_worker(facts: dict[str, Any], cores: int, threads: bytes) -> None:
    async with served("forked", engine={"cores": cores}, **facts) as model:
        assert await model.ask(b"threads") == threads


# Deaths


@pytest.mark.parametrize(
    ("body", "cause", "kind"),
    [
        pytest.param(b"exit 3", "exited with code 3", WorkerDied, id="sys.exit"),
        pytest.param(b"exit_now 0", "exited with code 0", WorkerDied, id="os._exit"),
        pytest.param(b"interrupt", "exited with code 1", WorkerDied, id="KeyboardInterrupt"),
        pytest.param(b"segfault", "ended by SIGSEGV", WorkerDied, id="segfault"),
        pytest.param(b"signal SIGKILL", "ended by SIGKILL", WorkerKilled, id="SIGKILL"),
        pytest.param(b"signal SIGABRT", "ended by SIGABRT", WorkerDied, id="SIGABRT"),
        pytest.param(b"write_garbage", "a message that cannot be used", WorkerDied, id="garbage on the link"),
    ],
)
@process_launchers
async def test_death_fails_its_request_with_the_cause_and_the_next_worker_answers(
    launcher: str, body: bytes, cause: str, kind: type
) -> None:
    async with served(launcher) as model:
        first = model.pids
        with pytest.raises(WorkerDied, match=cause) as death:
            await model.ask(body)
        assert type(death.value) is kind
        assert await model.ask(b"echo") == b"echo"
        assert model.pids != first


@process_launchers
async def test_death_names_the_stage_and_the_row(launcher: str) -> None:
    async with served(launcher) as model:
        with pytest.raises(WorkerDied, match=r"while at handle \(row 0 of its batch\)"):
            await model.ask(b"exit_now 1")


@process_launchers
async def test_traceback_is_logged_before_the_death_is_reported(
    launcher: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(launcher) as model:
        with pytest.raises(WorkerDied):
            await model.ask(b"interrupt")
        assert "KeyboardInterrupt" in messages(caplog)


@process_launchers
async def test_last_words_of_sys_exit_are_logged(launcher: str, caplog: pytest.LogCaptureFixture) -> None:
    async with served(launcher) as model:
        with pytest.raises(WorkerDied, match="exited with code 1"):
            await model.ask(b"exit licence-has-expired")
        assert "licence-has-expired" in messages(caplog)


@process_launchers
@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"exit 3", r"ends its worker in handle: SystemExit: 3 \(.*obedient\.py:\d+\)", id="sys.exit"),
        pytest.param(b"segfault", r"File .*obedient\.py\", line \d+ in do_segfault", id="native code"),
    ],
)
async def test_death_is_told_with_the_handlers_own_line(
    launcher: str, body: bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(launcher) as model:
        with pytest.raises(WorkerDied):
            await model.ask(body)
    assert re.search(told, messages(caplog))
    assert "torchserve_lite/" not in messages(caplog)  # frames of ours


@process_launchers
async def test_breakpoint_in_a_worker_is_told_of_once_and_the_handler_goes_on(
    launcher: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(launcher) as model:
        assert await model.ask(b"breakpoint") == b"went on"
    assert len(re.findall(r"breakpoint\(\) at .*obedient\.py:\d+ does not stop.*--inline", messages(caplog))) == 1


async def test_handler_inside_the_server_has_its_own_current_folder() -> None:
    before = os.getcwd()
    async with served("inline") as model:
        assert (await model.surroundings())["folder"] == str(MODELS / "obedient")
    assert os.getcwd() == before


@every_launcher
@pytest.mark.parametrize("body", [b"too_few", b"not_a_list", b"unserialisable"])
async def test_results_of_no_use_are_told_with_who_returned_them(
    launcher: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(launcher) as model:
        with pytest.raises(PredictionFailed):
            await model.ask(body)
    assert re.search(r"\(see handle, .*obedient\.py:\d+\)\.", messages(caplog))


@process_launchers
async def test_idle_worker_that_is_killed_costs_no_request(launcher: str) -> None:
    async with served(launcher) as model:
        (pid,) = model.pids
        os.kill(pid or 0, signal.SIGKILL)
        await model.events.failed.wait()
        assert await model.ask(b"echo") == b"echo"


@process_launchers
async def test_hung_worker_is_replaced_after_the_response_timeout(launcher: str) -> None:
    async with served(launcher, response_timeout=0.5) as model:
        with pytest.raises(ResponseTimeout, match=r"responseTimeout=0\.5 s"):
            await model.ask(b"signal SIGSTOP")
        assert await model.ask(b"echo") == b"echo"


@process_launchers
async def test_signals_to_the_whole_group_do_not_end_a_worker(launcher: str) -> None:
    """Ctrl-C and a service manager's SIGTERM reach every process: requests in flight must still be answered."""
    async with served(launcher) as model:
        for name in ("SIGINT", "SIGTERM"):
            assert await model.ask(f"signal {name}".encode()) == b"still here"
        assert model.events.failures == []


@process_launchers
async def test_handler_that_closes_every_descriptor_harms_only_its_worker(launcher: str) -> None:
    async with served(launcher) as model:
        with pytest.raises(WorkerDied):
            await model.ask(b"close_everything")
        assert await model.ask(b"echo") == b"echo"


@process_launchers
async def test_grandchild_that_holds_the_output_does_not_hide_the_death(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchserve_lite.engine.launchers.child._DRAIN", 0.2)
    async with served(launcher) as model:
        with pytest.raises(WorkerDied, match="exited with code 1"):
            await model.ask(f"leave_grandchild {tmp_path / 'pid'}".encode())
        with contextlib.suppress(ProcessLookupError):  # a fork server ends with its last worker, and kills what is left
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert await model.ask(b"echo") == b"echo"


@process_launchers
@pytest.mark.parametrize(
    ("word", "answer"),
    [
        pytest.param(b"arguments", b"{}", id="command line"),
        pytest.param(b"pool", b"['set by initialize', 'set by initialize']", id="globals in a pool"),
        pytest.param(
            b"loader",
            b"[('set by initialize', [1]), ('set by initialize', [2]), ('set by initialize', [3])]",
            id="globals and a lambda in a DataLoader",
        ),
        pytest.param(b"group", b"True", id="process group"),
        pytest.param(b"start_method", b"None", id="start method"),
        pytest.param(b"terminate", b"SIGTERM", id="signals of a child"),
    ],
)
async def test_handler_and_its_children_find_the_world_as_in_torchserve(
    launcher: str, word: bytes, answer: bytes
) -> None:
    """What the server set up for itself in a worker's process reached handlers: arguments that they could not parse,
    a start method that was taken, children that no SIGTERM ended."""
    async with served(launcher, "family") as model:
        assert await model.ask(word) == answer


# Output


@every_launcher
async def test_traceback_in_the_log_is_the_handlers_own(launcher: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(launcher) as model:
        with pytest.raises(PredictionFailed):
            await model.ask(b"raise boom")
    told = messages(caplog, "MODEL_LOG")
    frames = re.findall(r'File ".*?([^/"]+)", line \d+, in (\w+)', told)
    assert frames == [("obedient.py", "handle"), ("obedient.py", "do_raise"), ("obedient.py", "deeper")]
    assert "ValueError: boom" in told


@process_launchers
@pytest.mark.parametrize(("descriptor", "level"), [(1, logging.INFO), (2, logging.WARNING)])
async def test_odd_output_becomes_log_lines_and_hangs_nothing(
    launcher: str, descriptor: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with served(launcher) as model:
        assert await model.ask(b"print %d" % descriptor) == b"printed"
    told = messages(caplog)
    assert told.count("x") == 1_000_000
    assert "\ufffd\ufffd\nno newline" in told
    assert {record.levelno for record in caplog.records if record.name == "MODEL_LOG"} == {level}


@process_launchers
async def test_worker_ends_in_order_without_its_stdout(launcher: str) -> None:
    async with served(launcher) as model:
        assert await model.ask(b"lose_stdout") == b"lost"
        worker = model.worker
    assert "exited with code 0" in str(worker.death)


# Starting and stopping


@pytest.mark.parametrize(
    ("name", "fault", "frames"),
    [
        pytest.param(
            "broken_import",
            "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
            ["broken_import.py", "helper_of_broken_import.py"],
            id="import",
        ),
        pytest.param(
            "broken_initialize",
            r"RuntimeError: Error\(s\) in loading state_dict: size mismatch in weights.pt",
            ["broken_initialize.py", "broken_initialize.py"],
            id="initialize",
        ),
    ],
)
@every_launcher
async def test_handler_that_cannot_load_shows_its_own_traceback(
    launcher: str, name: str, fault: str, frames: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LoadFailed, match=fault) as failure:
        async with served(launcher, name):
            pass
    assert re.findall(r'File ".*?([^/"]+)"', failure.value.traceback) == frames
    assert failure.value.traceback in messages(caplog, "torchserve_lite.engine.supervisor")


@every_launcher
async def test_syntax_error_in_a_handler_names_the_line_and_nothing_else(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "broken_syntax.py").write_text("def handle(data, context)\n    return data\n")
    with pytest.raises(LoadFailed, match=r"SyntaxError: .*\(broken_syntax.py, line 1\)") as failure:
        async with served(launcher, tmp_path, handler="broken_syntax.py"):
            pass
    assert re.findall(r'File ".*?([^/"]+)"', failure.value.traceback) == ["broken_syntax.py"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        pytest.param("ValueError('\\ud800')", r"ValueError: \\ud800", id="message that is no UTF-8"),
        pytest.param("GeneratorExit", "GeneratorExit", id="GeneratorExit"),
        pytest.param("BaseException('any')", "BaseException: any", id="BaseException"),
    ],
)
@every_launcher
async def test_odd_exception_while_loading_is_told(launcher: str, error: str, cause: str, tmp_path: Path) -> None:
    handler = f"{tmp_path.name}.py"  # of a name that is new in this process, for the inline launcher
    (tmp_path / handler).write_text(f"def handle(data, context):\n    raise {error}\n")
    with pytest.raises(LoadFailed, match=cause):
        async with served(launcher, tmp_path, handler=handler):
            pass


@every_launcher
async def test_missing_handler_module_is_named(launcher: str) -> None:
    with pytest.raises(LoadFailed, match="No handler module 'nowhere'"):
        async with served(launcher, handler="nowhere.py"):
            pass


@process_launchers
async def test_start_that_takes_too_long_is_given_up_and_its_process_is_gone(launcher: str) -> None:
    before = processes()
    with pytest.raises(LoadFailed, match=r"startupTimeout=0\.5 s"):
        async with served(launcher, "slow_start", startup_timeout=0.5):
            pass
    assert processes() == before


async def test_missing_interpreter_is_named() -> None:
    with pytest.raises(LoadFailed, match="/nowhere/python"):
        async with served("exec", python="", engine={"files": {"python": "/nowhere/python"}}):
            pass


@process_launchers
async def test_worker_ends_by_itself_though_its_handler_left_threads(launcher: str) -> None:
    async with served(launcher) as model:
        await model.ask(b"leave_thread")
        (pid,) = model.pids
        worker = model.worker
    assert "exited with code 0" in str(worker.death)
    assert not psutil.pid_exists(pid or 0)


@process_launchers
async def test_no_process_is_left_when_the_engine_ends_while_a_model_loads(launcher: str) -> None:
    before, handler_runs = processes(), asyncio.Event()

    def note_output(line: str) -> bool:
        handler_runs.set()
        return True

    async with engine_of(launcher, "slow_start", metric_line_parser=note_output) as engine:
        loading = asyncio.create_task(engine.load(spec_for("slow_start"), 1))
        await handler_runs.wait()
        assert len(processes()) == len(before) + 1
    await loading
    assert processes() == before


@every_launcher
async def test_retired_worker_answers_what_it_runs(launcher: str) -> None:
    async with served(launcher) as model:
        job = model.submit(b"echo")
        await asyncio.sleep(0)
        await model.engine.unload(model.spec.key, 60.0)
        assert (await job.answer).body == b"echo"


@every_launcher
async def test_new_generation_takes_over_without_losing_a_request(launcher: str) -> None:
    async with served(launcher) as model:
        jobs = [model.submit(b"echo %d" % number) for number in range(5)]
        await model.engine.load(replace(model.spec, generation=2), 1)
        assert [(await job.answer).body for job in jobs] == [b"echo %d" % number for number in range(5)]
        assert await model.ask(b"echo") == b"echo"


async def test_model_that_has_not_begun_to_load_is_loading(new_job: NewJob) -> None:
    """It is registered, and the listeners are open: "not found" would be wrong, and the status page must not fail."""
    async with engine_of("inline", "obedient") as engine:
        key = spec_for("obedient").key
        with pytest.raises(ModelLoading):
            engine.submit(new_job(key=key))
        assert (engine.status(key).ready, engine.status(key).failed, engine.status(key).workers) == (False, False, ())
        with pytest.raises(ModelNotFound):
            await engine.scale(key, 1)


async def test_model_that_names_a_missing_gpu_is_refused() -> None:
    spec = spec_for("obedient", device=DevicePolicy(type="gpu", ids=(0, 7)))
    engine = LocalEngine(
        WorkerConfig(launcher="inline"), lambda spec: ModelFiles("."), Devices(2), cores=1, slabs=NO_SLABS
    )
    async with engine:
        with pytest.raises(ConfigurationError, match=r"names \[7\], but only GPUs 0 to 1"):
            await engine.load(spec, 1)
        assert not engine.status(spec.key).ready
