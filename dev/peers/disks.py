"""The disks that are measured with: what is in them, and some for those who have none."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.measure import run

DEV = Path(__file__).resolve().parent.parent
CHUNK = 4096
MIB = 1 << 20


@dataclass
class Disk:
    path: Path
    nonzero_bytes: int = 0

    @property
    def name(self) -> str:
        return self.path.stem


def data_ranges(file: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # only a hole is left
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def warm(path: Path) -> None:
    """Brings a file's data into memory and its holes out of it: readers of holes leave gigabytes of zeros there."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        hole = 0
        for start, end in [*data_ranges(file.fileno(), size), (size, size)]:
            if start > hole:  # a length of 0 would mean the whole file
                os.posix_fadvise(file.fileno(), hole, start - hole, os.POSIX_FADV_DONTNEED)
            for offset in range(start, end, MIB):
                os.pread(file.fileno(), min(MIB, end - offset), offset)
            hole = end


def chunks(path: Path) -> Iterator[bytes]:
    """The chunks of a disk on the fixed grid, holes left out."""
    with path.open("rb", buffering=0) as disk:
        size = path.stat().st_size
        for start, end in data_ranges(disk.fileno(), size):
            for offset in range(start - start % CHUNK, end, MIB):
                block = os.pread(disk.fileno(), min(MIB, end - offset), offset)
                for at in range(0, len(block), CHUNK):
                    yield block[at : at + CHUNK]


def write_unique(disk: Path, seen: set[bytes], out: Path) -> int:
    """Writes the disk's chunks that were not seen before: what has to be compressed, and nothing else. Returns its non-zero bytes."""
    zero = bytes(CHUNK)
    nonzero_bytes = 0
    with out.open("wb", buffering=MIB) as unique:
        for chunk in chunks(disk):
            if chunk == zero:
                continue
            nonzero_bytes += len(chunk)
            name = hashlib.blake2b(chunk, digest_size=16).digest()
            if name not in seen:
                seen.add(name)
                unique.write(chunk)
    return nonzero_bytes


def stand_in(work: Path) -> list[Path]:
    """Three small disks for those who have none: one made of this machine's files, and two later states of it."""
    paths = [work / "stand-in" / f"{name}.raw" for name in ("a0", "a1", "a2")]
    paths[0].parent.mkdir()
    run(DEV / "make-disk", paths[0], "400")
    for round_, (before, after) in enumerate(zip(paths, paths[1:]), start=1):
        run("cp", "--sparse=always", before, after)
        run(DEV / "change-disk", after, str(round_))
    return paths


def sparse_disk(path: Path, size: int) -> int:
    """A huge disk with 2 GB of data all over it, which compress to half. The same bytes in every run. Returns how many."""
    chance = random.Random(1)
    places = chance.sample(range(size // MIB), 2 * 10**9 // MIB)
    with path.open("wb") as disk:
        disk.truncate(size)
        for place in places:
            disk.seek(place * MIB)
            disk.write(b"".join(chance.randbytes(CHUNK // 2) * 2 for _ in range(MIB // CHUNK)))
    return len(places) * MIB
