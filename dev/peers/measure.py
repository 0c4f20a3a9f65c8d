"""Runs a command and says what it cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Timed:
    """What one command, or several in turn, cost."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Timed) -> Timed:
        return Timed(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, max(self.peak_bytes, other.peak_bytes))


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Timed:
    """Runs a command that must succeed. The peak is that of the largest single process."""
    argv = [str(word) for word in command]
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | (env or {}), cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(argv)}: exit code {process.returncode}\n{log.read().decode(errors='replace')[-2000:]}")
    return Timed(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def median(runs: list[Timed]) -> Timed:
    return Timed(
        statistics.median(r.wall_s for r in runs),
        statistics.median(r.cpu_s for r in runs),
        max(r.peak_bytes for r in runs),
    )


def wall(times: list[Timed]) -> float:
    return sum(timed.wall_s for timed in times)
