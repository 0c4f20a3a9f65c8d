"""The tables: seconds disk by disk, and ratios with their targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peers.disks import MIB, Disk
from peers.measure import Timed


@dataclass
class Row:
    what: str
    ours: str
    beside: str
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


class Report:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.times: list[list[str]] = []
        self.notes: list[str] = []
        self.scale = ""

    def row(self, what: str, ours: str, beside: str, ratio: float, most: float | None = None, least: float | None = None) -> None:
        if most is not None:
            self.rows.append(Row(what, ours, beside, ratio, f"<= {most:g}", ratio <= most))
        elif least is not None:
            self.rows.append(Row(what, ours, beside, ratio, f">= {least:g}", ratio >= least))
        else:
            self.rows.append(Row(what, ours, beside, ratio))

    def memory(self, what: str, times: Iterable[Timed]) -> None:
        peak = max(timed.peak_bytes for timed in times)
        self.row(f"{what}: peak memory", mib(peak), "512 MiB", peak / (512 * MIB), most=1)

    def disk_by_disk(self, phase: str, name: str, times: list[Timed]) -> None:
        """The processor time shows how much of the machine was used, and whether it had other work."""
        total = sum(times, Timed())
        self.times.append(
            [f"{phase}: {name}"] + [f"{timed.wall_s:.2f}" for timed in [*times, total]] + [f"{total.cpu_s:.1f}", mib(total.peak_bytes)]
        )

    def print(self, disks: list[Disk]) -> None:
        if self.times:
            print_table([["seconds, disk by disk", *(disk.name for disk in disks), "all", "cpu", "peak"], *self.times])
        verdict = {True: "met", False: "MISSED", None: ""}
        print_table(
            [["what", "ours", "beside it", "ratio", "target", ""]]
            + [
                [row.what, row.ours, row.beside, "" if row.ratio is None else f"{row.ratio:.2f}", row.target, verdict[row.met]]
                for row in self.rows
            ]
        )
        print(self.scale)
        for note in self.notes:
            print(f"- {note}")


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def mib(value: float) -> str:
    return f"{value / MIB:.0f} MiB"


def gb_per_s(byte_count: int, time_s: float) -> str:
    return f"{byte_count / time_s / 1e9:.2f} GB/s"
