"""What keeps disks and finds what they share: Vellum and its peers, each with the options that serve it best."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from peers.disks import DEV
from peers.measure import Timed, run

RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", DEV.parent / "target")).resolve() / "release"
# With `--sparse` borg skips holes, but starts its grid anew after each, which costs it some of what it would find.
BORG_VARIANTS = {
    "borg fixed 64 KiB": ["--chunker-params", "fixed,65536"],
    "borg fixed 64 KiB, sparse": ["--chunker-params", "fixed,65536", "--sparse"],
    "borg fixed 4 KiB": ["--chunker-params", "fixed,4096"],
    "borg default": [],
}

RIVALS = ("borg fixed 64 KiB", "restic")
"""The peers that the targets are held against: as they come, at the same compression level."""


class Keeper:
    """Something that keeps disks and finds what they share."""

    name: str
    slow = True

    def __init__(self, work: Path) -> None:
        self.home = work / self.name.replace(" ", "-").replace(",", "")
        self.store = self.home / "store"
        self.env: dict[str, str] = {}

    def create(self) -> None:
        """A new, empty store."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()

    def size(self) -> int:
        return sum(entry.lstat().st_blocks * 512 for entry in [self.store, *self.store.rglob("*")])

    def add(self, disk: Path, label: str) -> Timed:
        raise NotImplementedError

    def restore(self, disk: Path, label: str, file: Path) -> Timed:
        """What was added as `label` from `disk`, into a new file."""
        raise NotImplementedError

    def tidy(self) -> None:
        """Whatever brings the store to its final size."""


class Vellum(Keeper):
    name = "vellum"
    slow = False

    def vellum(self, *arguments: str | Path) -> Timed:
        return run(RELEASE / "vellum", "-q", "--store", self.store, *arguments)

    def create(self) -> None:
        super().create()
        self.vellum("init")

    def add(self, disk: Path, label: str) -> Timed:
        return self.vellum("import", "-f", "raw", disk, label)

    def tidy(self) -> None:
        self.vellum("gc")

    def update_nothing(self, disk: Path, label: str) -> Timed:
        """The disk again, with a map that says that nothing has changed."""
        change_map = self.home / "change-map"
        change_map.write_text(f"0 {disk.stat().st_size} same\n")
        return self.vellum("import", "-f", "raw", disk, label, "--update", "--change-map", change_map)

    def export(self, label: str, file: Path) -> Timed:
        return self.vellum("export", label, file)


class Repository(Keeper):
    """What a Vellum store is pushed to."""

    name = "vellum repository"
    slow = False

    def __init__(self, work: Path, source: Vellum, place: str | None = None, env: dict[str, str] | None = None) -> None:
        super().__init__(work)
        if place:
            self.home = self.home.with_name(self.home.name + "-elsewhere")
        self.place = place or self.store
        self.source = source
        self.env = {
            "VELLUM_PASSWORD": "bench",
            "VELLUM_CACHE_DIR": str(self.home / "cache"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "VELLUM_STORE": str(source.store),
            **(env or {}),
        }

    def backup(self, verb: str, *arguments: str | Path) -> Timed:
        return run(RELEASE / "vellum", "-q", "backup", verb, self.place, *arguments, env=self.env)

    def create(self) -> None:
        super().create()
        self.backup("init")

    def push(self) -> Timed:
        return self.backup("push", "--all")

    def restore(self, disk: Path, label: str, file: Path) -> Timed:
        return self.backup("restore", label, file)

    def restore_to_output(self, label: str) -> Timed:
        quiet = ["sh", "-c", 'exec "$@" >/dev/null', "sh"]
        return run(*quiet, RELEASE / "vellum", "-q", "backup", "restore", self.place, label, "-", env=self.env)


class Borg(Keeper):
    def __init__(self, work: Path, name: str, options: list[str], encryption: str = "none") -> None:
        self.name = name
        self.options = ["--compression", "zstd,3", *options]
        self.encryption = encryption
        super().__init__(work)
        self.env = {"BORG_BASE_DIR": str(self.home), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_PASSPHRASE": "bench"}

    def create(self) -> None:
        super().create()
        run("borg", "init", "-e", self.encryption, self.store, env=self.env)

    def add(self, disk: Path, label: str) -> Timed:
        # Without the files cache, or a disk of the same date would not even be read.
        return run("borg", "create", *self.options, "--files-cache", "disabled", f"{self.store}::{label}", disk, env=self.env)

    def add_all(self, disks: list[Path], label: str) -> Timed:
        """As its users do it: what has the same date as last time is not read."""
        return run("borg", "create", *self.options, f"{self.store}::{label}", *disks, env=self.env)

    def restore(self, disk: Path, label: str, file: Path) -> Timed:
        path = str(disk).lstrip("/")
        folder = file.with_suffix(".borg")
        folder.mkdir()
        timed = run("borg", "extract", "--sparse", f"{self.store}::{label}", path, env=self.env, cwd=folder)
        (folder / path).replace(file)
        shutil.rmtree(folder)
        return timed


class Restic(Keeper):
    name = "restic"

    def __init__(self, work: Path, place: str | None = None, env: dict[str, str] | None = None) -> None:
        super().__init__(work)
        if place:
            self.home = self.home.with_name(self.home.name + "-elsewhere")
        cache = str(self.home / "cache")
        self.env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": cache, "RESTIC_REPOSITORY": place or str(self.store), **(env or {})}

    def create(self) -> None:
        super().create()
        run("restic", "init", "--repository-version", "2", env=self.env)

    def add(self, disk: Path, label: str) -> Timed:
        return run("restic", "backup", "--compression", "auto", "--force", "--host", label, disk, env=self.env)

    def add_all(self, disks: list[Path], label: str) -> Timed:
        """As its users do it: what has the same date as last time is not read."""
        return run("restic", "backup", "--compression", "auto", "--tag", label, *disks, env=self.env)

    def restore(self, disk: Path, label: str, file: Path) -> Timed:
        folder = file.with_suffix(".restic")
        # Versions before 0.15 cannot leave holes.
        options = ["--sparse"] if "--sparse" in subprocess.run(["restic", "restore", "--help"], capture_output=True, text=True).stdout else []
        words = ["--tag", label, "--include", disk, "--target", folder]
        timed = run("restic", "restore", "latest", *options, *words, env=self.env)
        (folder / str(disk).lstrip("/")).replace(file)
        shutil.rmtree(folder)
        return timed
