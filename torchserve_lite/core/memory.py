"""Memory of large payloads: made without filling it, and kept for the next payload instead of given back at once.

Each page that a process gets anew is cleared and mapped by the kernel. For a payload of 10 MB that takes 4 ms, copying
it 0.7 ms. Left to itself, glibc gives a block of that size back when it is freed, so every request paid this several
times over.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

KEPT_SECONDS = 1.0
"""How long a process that has nothing to do keeps memory that large payloads have left."""

LARGE = 256 * 1024
"""Bytes of a payload whose memory is worth the trouble."""

Memory = bytearray | memoryview
"""Bytes to be written."""

_UNFILLED = 64 * 1024  # a smaller one is filled faster than ctypes is called
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # malloc.h
_LONGEST_KEPT = 32 * 1024 * 1024  # glibc takes no more; longer blocks always come from the kernel
_MOST_KEPT = 256 * 1024 * 1024  # at the end of the heap, until ``give_back``

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new_bytearray.restype = ctypes.py_object
_new_bytearray.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)


def unfilled(length: int) -> bytearray:
    """A bytearray to be written before it is read: what it holds is arbitrary. A long one takes no memory before that,
    while ``bytearray(length)`` writes zeros to every page."""
    return bytearray(length) if length < _UNFILLED else _new_bytearray(None, length)


def keep_freed() -> None:
    """From now on what is freed stays with this process, up to a bound. Without glibc nothing changes."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _LONGEST_KEPT)


def give_back() -> None:
    """What is free goes back to the kernel."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
