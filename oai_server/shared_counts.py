"""What several HTTP processes must count together: running requests, of all and of each API key, and the queue.

A small mapped file with one row a process. Each process writes its own row and adds up all of them, so that a request
costs no message to anyone; a lock on the file, which dies with its holder, makes test and increment one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from oai_server.interrupts import Interruptible
from oai_server.limits import KeyLimiter

BYTES = 4
SUFFIX = ".counts"
LOCK_ATTEMPTS = 50
LOCK_PAUSE_S = 0.0001
"""A holder keeps the lock for microseconds; where one was stopped with it, the others do without."""


class SharedCounts:
    """One process's row; column 0 is its load, each further one a key's running requests."""

    def __init__(
        self, folder: Path, index: int, num_workers: int, keys: Sequence[str], name: str = "requests"
    ) -> None:
        """`keys`: the names that requests carry, in an order that is the same in all processes."""
        self._columns = {key: 1 + number for number, key in enumerate(keys)}
        self._width = 1 + len(keys)
        self._file = os.open(folder / f"{name}{SUFFIX}", os.O_RDWR | os.O_CREAT, 0o600)
        size = BYTES * self._width * num_workers
        os.ftruncate(self._file, size)
        self._cells = memoryview(mmap.mmap(self._file, size)).cast("i")
        self._row = index * self._width
        for column in range(self._width):
            self._cells[self._row + column] = 0

    def total(self, key: str | None = None) -> int:
        """Running requests of a key, or of everybody, in all processes."""
        return sum(self._cells[0 if key is None else self._columns[key] :: self._width])

    def set_load(self, load: int) -> None:
        self._cells[self._row] = load

    def add(self, key: str, change: int) -> None:
        """To this process's own count of a key."""
        self._cells[self._row + self._columns[key]] += change

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the other processes out of such blocks; goes on without the lock after some milliseconds."""
        held = False
        for _ in range(LOCK_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
                break
            time.sleep(LOCK_PAUSE_S)
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._file, fcntl.LOCK_UN)


class SharedKeyLimiter(KeyLimiter):
    """The limit holds for all processes together."""

    def __init__(self, limit: int, counts: SharedCounts) -> None:
        super().__init__(limit)
        self._counts = counts

    def acquire(self, key: str) -> None:
        with self._counts.locked():
            self._counts.add(key, 1)
            if self.limit and self._counts.total(key) > self.limit:  # in this order it also holds without the lock
                self._counts.add(key, -1)
                self.refuse()
        self._running[key] += 1

    def release(self, key: str) -> None:
        super().release(key)
        self._counts.add(key, -1)


class CountedRequests(set[Interruptible]):
    """The live requests of this process; the others see how many."""

    def __init__(self, counts: SharedCounts) -> None:
        super().__init__()
        self._counts = counts

    def add(self, request: Interruptible) -> None:
        super().add(request)
        self._counts.set_load(len(self))

    def discard(self, request: object) -> None:
        super().discard(request)
        self._counts.set_load(len(self))


class SharedQueue:
    """The sequences in work and the prompt tokens that wait, of all processes; see adapters.admission."""

    def __init__(self, folder: Path, index: int, num_workers: int) -> None:
        self._counts = SharedCounts(folder, index, num_workers, ("sequences", "tokens"), "queue")
        self.locked = self._counts.locked

    @property
    def sequences(self) -> int:
        return self._counts.total("sequences")

    @property
    def waiting_tokens(self) -> int:
        return self._counts.total("tokens")

    def add(self, sequences: int, waiting_tokens: int = 0) -> None:
        self._counts.add("sequences", sequences)
        self._counts.add("tokens", waiting_tokens)


def forget_worker(folder: Path, index: int, num_workers: int) -> None:
    """A process has died: what it had running is over."""
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            width = os.fstat(file.fileno()).st_size // num_workers
            file.seek(index * width)
            file.write(bytes(width))


def discard_counts(folder: Path) -> None:
    """At the end of the last process; one that ends alone and is replaced must find what the others count in."""
    with contextlib.suppress(OSError):
        if all(path.suffix == SUFFIX for path in folder.iterdir()):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
