"""Does what the first request of a batch says: ``word`` or ``word argument``."""

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import companion


def handle(data, context):
    if data is None:
        return None
    word, _, argument = bytes(data[0]["body"]).decode().partition(" ")
    return globals()[f"do_{word}"](data, context, argument)


def do_echo(data, context, argument):
    return [bytes(row["body"]) for row in data]


def do_raise(data, context, argument):
    deeper(argument)


def deeper(argument):
    raise ValueError(argument)


def do_prediction_exception(data, context, argument):
    from ts.utils.util import PredictionException

    raise PredictionException("no such customer", int(argument))


def do_memory_error(data, context, argument):
    raise MemoryError


def do_cuda_error(data, context, argument):
    raise RuntimeError("CUDA error: out of memory")


def do_not_a_list(data, context, argument):
    return {"answer": 42}


def do_too_few(data, context, argument):
    return []


def do_unserialisable(data, context, argument):
    return [object()] * len(data)


def do_surrogate(data, context, argument):
    return ["\ud800"] * len(data)


def do_endless_nesting(data, context, argument):
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return [value]


class Untellable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def do_untellable(data, context, argument):
    raise Untellable


def do_generator_exit(data, context, argument):
    raise GeneratorExit


def do_half_a_character(data, context, argument):
    raise ValueError("\ud800")


def do_no_length(data, context, argument):
    class Odd(list[object]):
        def __iter__(self):
            raise RuntimeError("no walk")

    return Odd(data)


def do_untellable_header(data, context, argument):
    context.set_response_header(0, "X-A", Untellable())
    return ["sent"]


def do_status(data, context, argument):
    context.set_response_status(int(argument))
    return ["sent"]


def do_odd_text(data, context, argument):
    context.set_response_status(200, "\ud800")
    context.set_response_header(0, "X-\ud800", "\ud800")
    context.metrics.add_counter("Odd\ud800", 1)
    context.metrics.add_time("Odd", float("nan"))
    context.metrics.add_time("Odd", 10**400)
    return ["sent"]


def do_odd_status(data, context, argument):
    context.set_response_status(code="202", phrase=b"Noted", idx=0)
    return ["odd"]


def do_exit(data, context, argument):
    sys.exit(int(argument) if argument.isdigit() else argument)


def do_exit_now(data, context, argument):
    os._exit(int(argument))


def do_segfault(data, context, argument):
    ctypes.string_at(0)


def do_breakpoint(data, context, argument):
    for _ in range(2):
        breakpoint()
    return ["went on"]


def do_signal(data, context, argument):
    os.kill(os.getpid(), getattr(signal, argument))
    return ["still here"]


def do_interrupt(data, context, argument):
    raise KeyboardInterrupt


def do_cancel(data, context, argument):
    import asyncio

    raise asyncio.CancelledError


def do_close_everything(data, context, argument):
    os.closerange(3, 256)
    return ["closed"]


def do_write_garbage(data, context, argument):
    for descriptor in map(int, os.listdir("/dev/fd")):
        try:
            if socket.socket(fileno=os.dup(descriptor)).family == socket.AF_UNIX:
                os.write(descriptor, b"\xff" * 8)
        except OSError:
            continue
    return ["written"]


def do_hang(data, context, argument):
    time.sleep(1000)


def do_print(data, context, argument):
    os.write(int(argument), b"x" * 1_000_000 + b"\n\xff\xfe\nno newline")
    return ["printed"]


def do_lose_stdout(data, context, argument):
    sys.stdout.close()
    sys.stdout = None
    return ["lost"]


def do_leave_grandchild(data, context, argument):
    """Forks a process that holds the output and the link and leaves our group, notes its id, and dies."""
    grandchild = os.fork()
    if grandchild == 0:
        os.setsid()
        open(f"{argument}.left", "w").close()
        time.sleep(1000)
        os._exit(0)
    with open(argument, "w") as file:
        file.write(str(grandchild))
    while not os.path.exists(f"{argument}.left"):
        pass
    os._exit(1)


def do_leave_thread(data, context, argument):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return ["left"]


def do_variable(data, context, argument):
    return [os.environ[argument]]


def do_run_program(data, context, argument):
    """Imports a module in a process of its own."""
    return [subprocess.check_output([sys.executable, "-c", f"import {argument} as m; print(m.NAME)"])]


def do_surroundings(data, context, argument):
    return [
        json.dumps(
            {
                "folder": os.getcwd(),
                "companion": companion.NAME,
                "environment": sorted(os.environ),
                "pid": os.getpid(),
                "gpu_id": context.system_properties["gpu_id"],
                "model": [context.model_name, context.manifest, context.model_yaml_config],
            }
        )
    ]


def do_random_numbers(data, context, argument):
    import random
    import uuid

    import numpy

    return [json.dumps([random.random(), numpy.random.random(), numpy.random.default_rng().random(), uuid.uuid4().hex])]


def do_world(data, context, argument):
    """What a process inherits or sets up, by name."""
    import faulthandler
    import gc
    import locale
    import multiprocessing
    import resource

    standard = {signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler}
    world = {
        "arguments": sys.argv[1:],
        "stdin": sys.stdin.read(),
        "interactive": [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "start method": multiprocessing.get_start_method(allow_none=True),
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "signals with handlers": [n.name for n in signal.valid_signals() if signal.getsignal(n) not in standard],
        "wakeup descriptor": signal.set_wakeup_fd(-1),
        "threads": [thread.name for thread in threading.enumerate()],
        "encodings": [
            sys.stdin.encoding,
            sys.stdout.encoding,
            sys.getfilesystemencoding(),
            locale.getpreferredencoding(),
        ],
        "umask": [os.umask(0o22), os.umask(0o22)][0],
        "limits": [resource.getrlimit(number) for number in range(16)],
        "niceness": os.nice(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "fault handler": faulthandler.is_enabled(),
        "recursion limit": sys.getrecursionlimit(),
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "leads its group": os.getpgid(0) == os.getpid(),
        "open for programs": subprocess.check_output(["ls", "/dev/fd"]).decode().split()[:-1],
        "environment": sorted(set(os.environ) - {"OMP_NUM_THREADS"}),
        "switch interval": sys.getswitchinterval(),
        "excepthook": sys.excepthook is sys.__excepthook__,
        "current folder": os.path.basename(os.getcwd()),
        "first folder of imports": os.path.basename(sys.path[0]),
        "main module": [sys.modules["__main__"].__name__, hasattr(sys.modules["__main__"], "__file__")],
        "logging": [logging.root.level, logging.root.manager.disable, logging.getLogger("obedient").handlers],
        "tracing": [sys.gettrace(), sys.getprofile()],
        "running loop": asyncio.get_event_loop().is_running(),
        "time zone": os.environ.get("TZ"),
        "locale": locale.setlocale(locale.LC_NUMERIC),
        "int digits": sys.get_int_max_str_digits(),
    }
    return [json.dumps(world)]


def do_import(data, context, argument):
    return [__import__(argument).NAME]


def do_threads(data, context, argument):
    import torch

    return [str(torch.get_num_threads())] * len(data)


def do_count(data, context, argument):
    context.metrics.add_counter("Served", len(data))
    return ["counted"] * len(data)


def do_headers(data, context, argument):
    return [json.dumps(list(context.get_all_request_header(0).items()))]


def do_stream(data, context, argument):
    from ts.handler_utils.utils import send_intermediate_predict_response

    context.set_response_status(201, "Streaming", 0)
    for piece in argument.split(",")[:-1]:
        send_intermediate_predict_response([piece], context.request_ids, "ok", 200, context)
    return [argument.split(",")[-1]]
