"""Where downloads, build outputs, disks and tokens live: outside the sources, in the user's cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2]


def folder(*parts: str) -> Path:
    """A folder of ours in the cache; made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base, "vector-boot", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def build_folder() -> Path:
    """Build outputs of this clone: two clones on one host must not hand each other their executables."""
    key = hashlib.sha256(str(SOURCES).encode()).hexdigest()[:8]
    return folder("build", key)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lets one process at a time make what `path` stands for; the others wait and find it made."""
    with open(f"{path}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stamp(words: list[str], files: list[Path]) -> str:
    """Changes when the words, or the size or time of a file, change."""
    seen = list(words)
    for file in files:
        status = file.stat()
        seen.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def is_fresh(product: Path, key: str) -> bool:
    """Whether `product` was made from what `key` stands for."""
    try:
        return product.exists() and Path(f"{product}.stamp").read_text(encoding="ascii") == key
    except FileNotFoundError:
        return False


def set_fresh(product: Path, key: str) -> None:
    """Notes what `product` was made from."""
    Path(f"{product}.stamp").write_text(key, encoding="ascii")


if __name__ == "__main__":
    print(build_folder())
