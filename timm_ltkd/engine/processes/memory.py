"""Memory that is used again at every step, kept by the process."""
import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
_MOST = 2 ** 30
_VARIABLES = {'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'}


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, instead of giving it back to the system; whether it does.

    A training step on a CPU frees and asks for the same hundreds of megabytes over and over. glibc gives large pieces
    back at once, and the system then has to make each page anew: a sixth of a ResNet-32's step. The process does not
    shrink until it ends. Only glibc; not where its own environment variables say something.
    """
    if platform.libc_ver()[0] != 'glibc' or _VARIABLES & os.environ.keys():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(parameter, _MOST) for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
