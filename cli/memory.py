"""Memory that the C library keeps for the next layer or step."""

import ctypes
import os
import sys

KEPT = 2**30  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
TUNED = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # by a user, who may have chosen another allocator


def keep_memory() -> None:
    """Let the C library keep blocks of memory of up to 1 GiB that were freed, for the rest of this program.

    glibc gives those above 32 MiB back to the system, which clears them anew where they are next asked for: in a step
    of MobileNetV2 on 32 images of 160 pixels a third of the time. With another C library, and where the environment
    says how memory is allocated, nothing changes. A library must not do this to the program that calls it.
    """
    if sys.platform != "linux" or any(name.startswith(TUNED) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(threshold, KEPT)
