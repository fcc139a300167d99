"""Memory that several threads share: who finds too little waits, and what was taken goes back to the system."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 2**26  # bytes; of less, the allocator may keep what it likes for the next photograph


class Memory:
    """`total` bytes. One that asks for more than all of them gets all of them, alone."""

    def __init__(self, total: int) -> None:
        self.total, self.free = total, total
        self._changed = threading.Condition()
        self._waiting = list[object]()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, in the order of asking; they are given back at the end."""
        size, me = min(size, self.total), object()
        with self._changed:
            self._waiting.append(me)  # a large one must not wait for ever while small ones pass it
            self._changed.wait_for(lambda: self._waiting[0] is me and size <= self.free)
            self._waiting.remove(me)
            self.free -= size
            self._changed.notify_all()
        try:
            yield
        finally:
            if size >= LARGE:
                give_back()
            with self._changed:
                self.free += size
                self._changed.notify_all()


def give_back() -> None:
    """What is free in this process, to the system: glibc keeps it in every thread's own arena."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
