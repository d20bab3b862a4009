"""Tests of `qemu/machine`: what happens on the host around a virtual machine, without one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu"))

# pylint: disable=wrong-import-position
from machine import accelerator, architecture, cache, disks, guest, initramfs, toolchain, watchdog
from machine import run as program
from machine.console import Console, ConsoleClosed, ConsoleLate
from machine.report import HostError


class WithFolder(unittest.TestCase):
    """Each test has a folder of its own, which is also the cache."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")
        self.addCleanup(self._restore, before)

    @staticmethod
    def _restore(before: str | None) -> None:
        if before is None:
            os.environ.pop("XDG_CACHE_HOME", None)
        else:
            os.environ["XDG_CACHE_HOME"] = before


class ConsoleTest(WithFolder):
    """The client against a console that behaves as a guest does while it boots."""

    def serve(self, behaviour: Callable[[socket.socket], None]) -> Console:
        """A console whose guest end is `behaviour`."""
        path = self.folder / "console"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)

        def run() -> None:
            connection, _ = listener.accept()
            with connection, listener:
                behaviour(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        console = Console(path, time.monotonic() + 10)
        self.addCleanup(console.close)
        return console

    def test_synchronises_with_a_guest_that_echoes_and_loses_lines(self) -> None:
        def guest_end(connection: socket.socket) -> None:
            lines = connection.makefile("rb")
            for number, line in enumerate(lines):
                if number == 0:
                    # Nobody has the other end yet: the terminal driver echoes.
                    connection.sendall(b"\r\n")
                elif line == b"\n":
                    # Two answers to one line stand for an earlier one that came through after all.
                    connection.sendall(b"\x1e0\n\x1e0\n")
                elif line == b"help\n":
                    connection.sendall(b"status  what runs\n\x1e0\n")
                else:
                    connection.sendall(b"no such command\n\x1e2\n")

        console = self.serve(guest_end)
        deadline = time.monotonic() + 10
        console.synchronise(deadline)
        answer = console.run("frobnicate", deadline)
        self.assertEqual((answer.text, answer.code), ("no such command\n", 2))

    def test_an_end_and_a_deadline_are_told_apart(self) -> None:
        console = self.serve(lambda connection: None)
        with self.assertRaises(ConsoleClosed):
            console.run("status", time.monotonic() + 10)
        with self.assertRaises(ConsoleLate):
            Console(self.folder / "nobody", time.monotonic())


class DisksTest(WithFolder):
    """The disks as the tools of e2fsprogs and fdisk see them."""

    def test_data_disk_persists_until_it_is_discarded(self) -> None:
        path = self.folder / "data.img"
        with disks.open_data(path, fresh=False) as disk:
            table = subprocess.run(["sfdisk", "-d", path], capture_output=True, text=True, check=True).stdout
            self.assertIn('name="log"', table)
            self.assertIn('name="data"', table)
            disk.seek(disks.FIRST_SECTOR * disks.SECTOR)
            self.assertEqual(disk.read(4096), bytes(4096))
            disk.seek(disks.FIRST_SECTOR * disks.SECTOR)
            disk.write(b"a log")
        for fresh, kept in ((False, b"a log"), (True, bytes(5))):
            with disks.open_data(path, fresh) as disk:
                disk.seek(disks.FIRST_SECTOR * disks.SECTOR)
                self.assertEqual(disk.read(5), kept)

    def test_data_disk_holds_a_whole_filesystem_and_is_sparse(self) -> None:
        path = self.folder / "data.img"
        disks.open_data(path, fresh=False).close()
        offset = disks.FIRST_SECTOR * disks.SECTOR + disks.LOG_BYTES
        check = subprocess.run(["e2fsck", "-f", "-n", f"{path}?offset={offset}"], capture_output=True, check=False)
        self.assertEqual(check.returncode, 0, check.stdout)
        self.assertLess(path.stat().st_blocks * 512, 64 << 20)

    def test_second_machine_on_one_disk_is_refused(self) -> None:
        path = self.folder / "data.img"
        with disks.open_data(path, fresh=False):
            with self.assertRaisesRegex(HostError, "another machine"):
                disks.open_data(path, fresh=True)

    def test_interrupted_making_is_made_again_and_a_foreign_file_is_kept(self) -> None:
        path = self.folder / "data.img"
        disks.open_data(path, fresh=False).close()
        with open(path, "r+b") as disk:
            disk.seek(disks.FIRST_SECTOR * disks.SECTOR + disks.LOG_BYTES + 1024)
            disk.write(bytes(1024))
        disks.open_data(path, fresh=False).close()
        foreign = self.folder / "letters"
        foreign.write_bytes(b"dear " * 1000)
        with self.assertRaisesRegex(HostError, "no partition table"):
            disks.open_data(foreign, fresh=False)
        self.assertEqual(foreign.read_bytes(), b"dear " * 1000)

    def test_share_holds_files_folders_and_symlinks_as_they_are(self) -> None:
        source = self.folder / "source"
        (source / "below").mkdir(parents=True)
        (source / "below" / "a.txt").write_text("shared\n", encoding="utf-8")
        (source / "below" / "a.txt").chmod(0o600)
        (source / "out").symlink_to("/etc/shadow")
        os.mkfifo(source / "pipe")
        image = self.folder / "share.img"
        disks.make_share(source, image, self.folder)
        partition = f"{image}?offset={disks.FIRST_SECTOR * disks.SECTOR}"
        check = subprocess.run(["e2fsck", "-f", "-n", partition], capture_output=True, check=False)
        self.assertEqual(check.returncode, 0, check.stdout)

        def debugfs(request: str) -> str:
            return subprocess.run(["debugfs", "-R", request, partition], capture_output=True, text=True, check=True).stdout

        self.assertEqual(debugfs("cat below/a.txt"), "shared\n")
        self.assertIn("Mode:  0644", debugfs("stat below/a.txt"))
        self.assertIn('"/etc/shadow"', debugfs("stat out"))
        self.assertNotIn("pipe", debugfs("ls"))


class HostTest(WithFolder):
    """What is refused before a machine is started."""

    def test_port_in_use_is_one_clear_line(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with self.assertRaisesRegex(HostError, f"127.0.0.1:{port}: Address already in use"):
                guest.check_port(port)
        self.assertGreater(guest.check_port(0), 0)

    def test_token_is_readable_by_its_user_only(self) -> None:
        path = self.folder / "token"
        program.make_token(path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertRegex(path.read_text(encoding="ascii"), "^[0-9a-f]{64}$")

    def test_accelerator_asked_for_is_taken_and_auto_says_why(self) -> None:
        arch = architecture.host()
        self.assertEqual(str(accelerator.choose("tcg", arch, "false")), "tcg (asked for)")
        # No QEMU that could prove anything: whatever the host has, auto must end at tcg.
        self.assertEqual(accelerator.choose("auto", arch, "false").name, "tcg")

    def test_commas_in_file_names_stay_in_the_name(self) -> None:
        parts = guest.Parts(
            arch=architecture.X86_64, kernel=Path("k"), initramfs=Path("i"), package=Path("a,readonly=off"),
            data=Path("d"), share=None, token=Path("t"), console=Path("c"), serial_log=Path("s"), http_port=1,
            memory_mib=512, append="", on_terminal=False,
        )
        words = guest.command(parts, "tcg")
        self.assertIn("if=none,id=package,format=raw,werror=report,rerror=report,file=a,,readonly=off,readonly=on", words)

    def test_a_watchdog_of_the_chipset_is_shown_by_its_table(self) -> None:
        # ACPI's header is QEMU's; behind it 32 bytes, then 24 for each action.
        table = watchdog.table()
        self.assertEqual(len(table), 32 + 24 * len(watchdog.ENTRIES))
        self.assertEqual(table[28:32], len(watchdog.ENTRIES).to_bytes(4, "little"))
        args = program.arguments(["--watchdog", "--arch", "aarch64"])
        with self.assertRaisesRegex(HostError, "--watchdog: only with --arch x86_64"):
            program.check(args)

    def test_products_are_fresh_until_an_input_changes(self) -> None:
        source, product = self.folder / "source", self.folder / "product"
        source.write_bytes(b"1")
        key = cache.stamp(["word"], [source])
        self.assertFalse(cache.is_fresh(product, key))
        product.write_bytes(b"made")
        cache.set_fresh(product, key)
        self.assertTrue(cache.is_fresh(product, key))
        source.write_bytes(b"22")
        self.assertFalse(cache.is_fresh(product, cache.stamp(["word"], [source])))



class InitramfsTest(unittest.TestCase):
    """`initramfs/build`."""

    def test_its_words_are_looked_at_before_minutes_of_building(self) -> None:
        for words, code in ((["--help"], 0), ([], 2), (["--out"], 2)):
            with mock.patch.object(sys, "argv", ["build", *words]), mock.patch.object(toolchain, "build") as build:
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()), self.assertRaises(SystemExit) as ended:
                    initramfs.main()
            self.assertEqual(ended.exception.code, code, words)
            build.assert_not_called()


if __name__ == "__main__":
    unittest.main()
