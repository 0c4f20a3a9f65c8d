"""NBD servers, and what fio reaches against them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from peers.keepers import RELEASE
from peers.measure import run

MIB = 1 << 20
PATIENCE_S = 30


class Server:
    """A server while the `with` lasts; `uri` names one export of it."""

    def __init__(self, command: list[str | Path], socket: Path, log: Path) -> None:
        self.command = [str(word) for word in command]
        self.socket = socket
        self.log = log

    def __enter__(self) -> Server:
        self.socket.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(self.command)} does not serve:\n{self.log.read_text()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"


def serve_vellum(work: Path, store: Path, cache: str) -> Server:
    socket = work / "vellum.sock"
    return Server([RELEASE / "vellum", "--store", store, "serve", "--socket", socket, "--cache", cache], socket, work / "vellum.log")


def serve_qemu(work: Path, qcow2: Path) -> Server:
    socket = work / "qemu.sock"
    return Server(["qemu-nbd", "-t", "-e", "16", "-k", socket, "-f", "qcow2", qcow2], socket, work / "qemu.log")


def fio(uri: str, time_s: float, *options: str) -> float:
    """Requests per second."""
    command = ["fio", "--output-format=json", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--time_based", f"--runtime={time_s}"]
    command += ["--buffer_compress_percentage=50", "--refill_buffers", *options]
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if shown.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {shown.returncode}\n{shown.stderr}{shown.stdout[-2000:]}")
    job = json.loads(shown.stdout[shown.stdout.index("{") :])["jobs"][0]
    return job["read"]["iops"] + job["write"]["iops"]


def read_all(uri: str) -> None:
    run("nbdcopy", uri, "null:")


def drop_caches() -> bool:
    """Whether the kernel's memory of files could be emptied: root can."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def half_noise(path: Path, size: int) -> None:
    """A disk that compresses to about half."""
    source = random.Random(1)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            noise = source.randbytes(MIB // 2)
            file.write(b"".join(noise[at : at + 64] + bytes(64) for at in range(0, len(noise), 64)))


def qcow2_chain(base: Path, depth: int, size: int, to: Path) -> Path:
    """An overlay on so many others, each of which wrote one chunk."""
    source = random.Random(depth)
    for layer in range(depth):
        overlay = to / f"depth{depth}-{layer}.qcow2"
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay, str(size))
        run("qemu-io", "-f", "qcow2", "-c", f"write {source.randrange(size // 4096) * 4096} 4096", overlay)
        base = overlay
    return base
