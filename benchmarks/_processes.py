"""What several processes cost together, and processes that work when they are told to.

Nothing here knows ``sk_mtl``, nor what the processes do.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

from _harness import Cost

POLL = 0.02  # seconds between two looks at the memory


def family() -> list[int]:
    """Return this process and all that descend from it; alone where there is no /proc."""
    parents = {pid: int(stat[1]) for pid, stat in _stats()}
    found = [os.getpid()]
    for pid in found:  # grows while we walk it
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _stats(pids: Sequence[int] | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield what /proc/PID/stat holds from the third field on: state, parent, ..."""
    if pids is None:
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    for pid in pids:
        text = _read(f"/proc/{pid}/stat")
        if text:
            yield pid, text.rpartition(")")[2].split()  # a name may hold anything


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended, or there is no /proc
        return ""


def cpu_seconds() -> float:
    """Return what this process and all that it started have used of the CPUs so far."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):  # the latter: those that ended
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    # Those that live, and those of theirs that ended: utime, stime, cutime, cstime.
    ticks = sum(sum(map(int, stat[11:15])) for _, stat in _stats(family()[1:]))
    return total + ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: Sequence[int]) -> int:
    """Return the bytes that processes hold now; pages that they share count in each."""
    held = 0
    for pid in pids:
        lines = _read(f"/proc/{pid}/status").splitlines()
        held += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    return held


class Watch:
    """Measures what happens inside its ``with``.

    Attributes
    ----------
    cost : Cost
        Of this process and all that it started.
    idle, peak : int
        Bytes that they held together before, and at most; 0 without /proc.
    """

    def __enter__(self) -> Watch:
        """Start the clocks."""
        gc.collect()
        self.idle = self.peak = resident(family())
        self._ended = Event()
        self._thread = Thread(target=self._poll, daemon=True)
        self._thread.start()
        self._start = (time.perf_counter(), cpu_seconds())
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop them."""
        wall = time.perf_counter() - self._start[0]
        self.cost = Cost(wall, cpu_seconds() - self._start[1])
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, resident(family()))

    def _poll(self) -> None:
        turn, pids = 0, family()
        while not self._ended.wait(POLL):
            turn += 1
            if turn % 50 == 0:  # one may have been replaced
                pids = family()
            self.peak = max(self.peak, resident(pids))


class Server:
    """A process that answers every line that it reads with a line of JSON.

    It answers once unasked, when it is ready, and ends when there is nothing left to read.

    Parameters
    ----------
    name : str
        For messages.
    command : sequence of str
        What to run. All start at once; wait for each with :meth:`answer`.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Server:
        """Return itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Wait for the end of the process; after an error end it."""
        if exc_info[0] is not None:
            self._process.terminate()
        self.dismiss()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Got no answer from {self.name!r}; its error stands above.")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self) -> dict[str, Any]:
        """Have it work, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def dismiss(self) -> None:
        """Tell it to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
