"""The machine's disks beside the package: the persistent data disk, and a read-only one made from a folder.

Made without root on regular files: `sfdisk` writes the table, `mke2fs` the filesystems at their offsets.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import IO

from .report import HostError, phase, say

SECTOR = 512
# sfdisk's own alignment: one MiB.
FIRST_SECTOR = 2048
LOG_BYTES = 64 << 20
DATA_BYTES = 256 << 20
# Room behind the last partition for the second copy of the table.
TAIL_BYTES = 1 << 20
# A shared folder is copied into an image at every boot; more than this wants a disk of its own.
SHARE_BYTES_MAX = 4 << 30


def open_data(path: Path, fresh: bool) -> IO[bytes]:
    """Opens the data disk, alone, and makes it if it is new. The lock lasts as long as the descriptor."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_NONBLOCK: a FIFO is refused, not waited for.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"--data {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HostError(f"--data {path}: not a regular file")
    disk = os.fdopen(descriptor, "r+b")
    try:
        fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        disk.close()
        raise HostError(f"--data {path}: another machine runs on it; name another with --data FILE") from None
    size = os.fstat(disk.fileno()).st_size
    if fresh or size == 0 or _is_half_made(disk, size):
        with phase("data disk"):
            _make_data(disk, path)
    elif not _has_table(disk):
        disk.close()
        raise HostError(f"--data {path}: no partition table; --fresh replaces it with an empty disk")
    return disk


def _data_size() -> int:
    return FIRST_SECTOR * SECTOR + LOG_BYTES + DATA_BYTES + TAIL_BYTES


def _data_offset() -> int:
    return FIRST_SECTOR * SECTOR + LOG_BYTES


def _has_table(disk: IO[bytes]) -> bool:
    disk.seek(SECTOR)
    return disk.read(8) == b"EFI PART"


def _is_half_made(disk: IO[bytes], size: int) -> bool:
    """A disk of our own layout whose making was interrupted before the filesystem was there."""
    if size != _data_size():
        return False
    # The ext4 superblock lies 1024 bytes into the partition, its magic 56 bytes further.
    disk.seek(_data_offset() + 1024 + 56)
    return disk.read(2) != b"\x53\xef"


def _make_data(disk: IO[bytes], path: Path) -> None:
    disk.truncate(0)
    disk.truncate(_data_size())
    log, data = LOG_BYTES // SECTOR, DATA_BYTES // SECTOR
    _partition(path, [f"start={FIRST_SECTOR}, size={log}, name=log", f"start={FIRST_SECTOR + log}, size={data}, name=data"])
    # Nothing is left to be initialised in the background while the machine measures itself.
    options = f"offset={_data_offset()},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    _call(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "data", "-m", "0", "-E", options, str(path), f"{DATA_BYTES >> 10}k"])


def make_share(folder: Path, image: Path, scratch: Path) -> None:
    """Writes an image with one ext4 partition `share` that holds what the user can read of a folder."""
    if not folder.is_dir():
        raise HostError(f"--share {folder}: no such folder")
    with phase("share"):
        copy = scratch / "share"
        content, entries = _copy_readable(folder, copy)
        # A sixteenth and 8 MiB more than the content: inode tables, bitmaps, folders' own blocks.
        partition = (content + content // 16 + (entries * 512) + (8 << 20) + 0xFFFFF) & ~0xFFFFF
        with open(image, "wb") as disk:
            disk.truncate(FIRST_SECTOR * SECTOR + partition + TAIL_BYTES)
        _partition(image, [f"start={FIRST_SECTOR}, size={partition // SECTOR}, name=share"])
        options = f"offset={FIRST_SECTOR * SECTOR},root_owner=0:0,nodiscard"
        words = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", "share", "-m", "0", "-b", "4096"]
        words += ["-N", str(entries + 64), "-d", str(copy), "-E", options, str(image), f"{partition >> 10}k"]
        _call(words)
        shutil.rmtree(copy)


def _copy_readable(source: Path, target: Path) -> tuple[int, int]:
    """Copies files, folders and symlinks as they are, readable to everyone; returns bytes in blocks, and entries.

    The gateway's user in the machine is nobody that the host knows: whoever shares a folder shares what they can read.
    """
    content, entries, left_out = 0, 0, 0
    for here, folders, files in os.walk(source):
        there = target / Path(here).relative_to(source)
        there.mkdir(mode=0o755)
        entries += 1
        for name in [*folders, *files]:
            path = Path(here, name)
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind):
                os.symlink(os.readlink(path), there / name)
                entries += 1
            elif stat.S_ISREG(kind) and os.access(path, os.R_OK):
                content += (path.stat().st_size + 4095) & ~4095
                entries += 1
                if content > SHARE_BYTES_MAX:
                    raise HostError(f"--share {source}: over {SHARE_BYTES_MAX >> 30} GiB of files")
                shutil.copyfile(path, there / name)
                (there / name).chmod(0o644)
            elif not stat.S_ISDIR(kind):
                left_out += 1
    if left_out:
        say(f"share: {left_out} entries left out (not readable, or neither file, folder nor symlink)")
    return content, entries


def _partition(image: Path, rows: list[str]) -> None:
    table = "label: gpt\n" + "".join(f"{row}, type=linux\n" for row in rows)
    _call(["sfdisk", "-q", str(image)], table)


def _call(words: list[str], text: str | None = None) -> None:
    result = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = " | ".join(result.stderr.strip().splitlines()[-2:])
        raise HostError(f"{words[0]} {words[-1]}: {tail}")
