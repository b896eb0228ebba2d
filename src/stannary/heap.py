"""The heap of this process: room that was freed goes back to the machine when asked.

glibc keeps freed blocks below its mmap threshold, and serves larger ones from their room: a tensor that lies there is
freed without a page becoming free. Whoever gives up a model in order to make room for another asks (malloc_trim(3)).
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what was freed to the machine; nothing is done where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
