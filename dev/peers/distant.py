"""An object store that is far away: an S3 server on this machine behind a proxy that holds back whatever a client says for a while, and
counts what goes through."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from peers.keepers import RELEASE

KEY = "vellum-bench"
SECRET = "vellum-bench-secret"
BUCKET = "bucket"
PATIENCE_S = 30
PIECE = 256 << 10
# Words of HTTP that begin a request; the body of one begins with anything.
METHODS = (b"GET ", b"PUT ", b"POST", b"HEAD", b"DELE")


class Distant:
    """The store while the `with` lasts, at `endpoint`."""

    def __init__(self, work: Path, delay_s: float) -> None:
        self.home = work / "distant"
        self.delay_s = delay_s
        self.received = 0
        self.requests = 0

    def __enter__(self) -> Distant:
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / BUCKET).mkdir(parents=True)
        self.server_port = free_port()
        words = ["--host", "127.0.0.1", "--port", str(self.server_port), "--access-key", KEY, "--secret-key", SECRET, self.home]
        self.server = subprocess.Popen([server(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while not answers(self.server_port):
            if self.server.poll() is not None or time.monotonic() > deadline:
                sys.exit("the S3 server does not listen (`make s3-server` builds it)")
            time.sleep(0.01)
        self.port = free_port()
        self.loop = asyncio.new_event_loop()
        listens = threading.Event()
        threading.Thread(target=self.serve, args=[listens], daemon=True).start()
        listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.server.terminate()
        self.server.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def count(self) -> tuple[int, int]:
        """Requests, and bytes of their answers, since the last call."""
        counted = (self.requests, self.received)
        self.requests = self.received = 0
        return counted

    def serve(self, listens: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_server(self.lead, "127.0.0.1", self.port))
        listens.set()
        self.loop.run_forever()

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there, back = await asyncio.open_connection("127.0.0.1", self.server_port, limit=PIECE)
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        await asyncio.gather(self.take(reader, waiting), self.send_late(waiting, back), self.answer(there, writer), return_exceptions=True)

    async def take(self, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        while piece := await reader.read(PIECE):
            self.requests += piece.startswith(METHODS)
            waiting.put_nowait((time.monotonic() + self.delay_s, piece))
        waiting.put_nowait((0, b""))

    async def send_late(self, waiting: asyncio.Queue[tuple[float, bytes]], back: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await waiting.get()
            if not piece:
                break
            await asyncio.sleep(max(0, due - time.monotonic()))
            back.write(piece)
            await back.drain()
        back.close()

    async def answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await there.read(PIECE):
            self.received += len(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def server() -> str:
    """The S3 server where `make` puts it, else where the shell finds one."""
    built = RELEASE.parent / "tools" / "bin" / "s3s-fs"
    return str(built) if os.access(built, os.X_OK) else "s3s-fs"
