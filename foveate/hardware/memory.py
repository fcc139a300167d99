"""How the C library hands memory back to the system."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees for its next request of that size.

    A training step on the CPU frees its activations and asks for the same again. By default glibc maps each large one
    anew, and the kernel clears every page of it at the first touch: two thirds of the time of a ViT-Tiny's step. The
    price is that the process holds its peak until it ends. For good, and for processes forked from here too.

    Returns:
        Whether it was done: False where the C library has no mallopt (musl, macOS, Windows).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
