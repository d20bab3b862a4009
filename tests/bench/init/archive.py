"""An initramfs for one machine: files gathered in a folder, written by cpio(1)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from machine.report import HostError

# Where Debian's loader looks without being told.
LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib/x86_64-linux-gnu/systemd")


class Archive:
    """What lies in the machine's first root. Device nodes are made inside, so nothing here needs root."""

    def __init__(self, folder: Path, sources: list[Path]) -> None:
        self.folder = folder
        # Trees that programs and libraries are taken from, the first that has one wins.
        self.sources = sources

    def file(self, path: str, content: Path | str | bytes, mode: int = 0o755) -> None:
        """A file with the content of another, or with a text."""
        target = self._target(path)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def link(self, path: str, to: str) -> None:
        """A symbolic link."""
        self._target(path).symlink_to(to)

    def program(self, path: str) -> None:
        """A program of Debian's, where it lies there, with the libraries that it names and those that they name."""
        if (self.folder / path.lstrip("/")).exists():
            return
        found = self._find(path.lstrip("/"))
        self.file(path, found)
        for needed in _needs(found):
            if needed.startswith("/"):
                self.program(needed)
                continue
            for folder in LIBRARY_FOLDERS:
                try:
                    self._find(f"{folder}/{needed}")
                except HostError:
                    continue
                self.program(f"/{folder}/{needed}")
                break
            else:
                raise HostError(f"{path}: no library {needed} on this host or in the package's dependencies")

    def write(self, out: Path, first: Path | None = None) -> None:
        """Writes the archive, behind another one if there is one: the kernel unpacks both."""
        found = sorted(self.folder.rglob("*"))
        for path in found:
            # Old for the machine's clock too: runit waits a second for a folder that changed in this one.
            os.utime(path, (0, 0), follow_symlinks=False)
        names = [str(path.relative_to(self.folder)) for path in found]
        words = ["cpio", "--quiet", "--reproducible", "-R", "0:0", "-H", "newc", "-o"]
        listed = "\n".join(names).encode()
        made = subprocess.run(words, cwd=self.folder, input=listed, stdout=subprocess.PIPE, check=True)
        out.write_bytes((first.read_bytes() if first else b"") + made.stdout)

    def _target(self, path: str) -> Path:
        target = self.folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _find(self, path: str) -> Path:
        for source in self.sources:
            # /lib may be a link to /usr/lib in one tree and not in the other.
            for form in (path, f"usr/{path}", path.removeprefix("usr/")):
                if os.path.exists(source / form):
                    return Path(os.path.realpath(source / form))
        raise HostError(f"{path}: not in {', '.join(str(s) for s in self.sources)}")


def _needs(program: Path) -> list[str]:
    """The loader and the libraries that an ELF file names."""
    said = subprocess.run(["readelf", "-ld", str(program)], capture_output=True, text=True, check=False).stdout
    loader = re.findall(r"Requesting program interpreter: (\S+)\]", said)
    return loader + re.findall(r"\(NEEDED\).*\[(.+)\]", said)
