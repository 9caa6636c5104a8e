"""Does at its import and with processes of its own what users' handlers do, and answers with what came of it."""

import argparse
import multiprocessing
import os
import signal
import time

ARGUMENTS = vars(argparse.ArgumentParser().parse_args())
SETTING = None


def handle(data, context):
    global SETTING
    if data is None:
        SETTING = "set by initialize"
        return None
    word = bytes(data[0]["body"]).decode()
    return [str(globals()[f"do_{word}"]())]


def setting(_):
    return SETTING


def do_arguments():
    return ARGUMENTS


def do_pool():
    with multiprocessing.Pool(2) as pool:
        return pool.map(setting, range(2))


def do_loader():
    from torch.utils.data import DataLoader

    rows = [1, 2, 3]
    return list(DataLoader(rows, num_workers=1, collate_fn=lambda batch: (SETTING, batch)))  # type: ignore[arg-type]


def do_group():
    return os.getpgrp() == os.getpid()


def do_start_method():
    chosen = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn")
    return chosen


def do_terminate():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    child.terminate()
    child.join()
    assert child.exitcode is not None
    return signal.Signals(-child.exitcode).name
