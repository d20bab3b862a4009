"""Tests of `qemu/run` as a whole: options that are refused, accelerators that are proven, machines that hang."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu"))

# pylint: disable=wrong-import-position
from machine import accelerator, architecture, guest, kernel, toolchain
from machine import run as program
from machine.architecture import AARCH64, X86_64
from machine.report import HostError

HERE = Path(__file__).resolve().parent


class WithFakes(unittest.TestCase):
    """A folder and a cache of its own, a host of x86_64 with a /dev/kvm, and a QEMU that is none."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.log = self.folder / "qemu.log"
        tools = self.folder / "bin"
        tools.mkdir()
        for arch in architecture.ALL.values():
            (tools / arch.qemu).symlink_to(HERE / "fake_qemu.py")
        kvm, cpuinfo = self.folder / "kvm", self.folder / "cpuinfo"
        kvm.write_bytes(b"")
        cpuinfo.write_text("flags : fpu vmx\n", encoding="utf-8")
        changes: list[Any] = [
            mock.patch.dict(
                os.environ,
                XDG_CACHE_HOME=str(self.folder / "cache"),
                PATH=f"{tools}:{os.environ['PATH']}",
                FAKE_LOG=str(self.log),
                FAKE_KVM="hangs",
            ),
            mock.patch.object(accelerator, "KVM", kvm),
            mock.patch.object(accelerator, "CPUINFO", cpuinfo),
            mock.patch.object(architecture.platform, "machine", lambda: "x86_64"),
        ]
        for change in changes:
            change.start()
            self.addCleanup(change.stop)

    def starts(self) -> list[list[str]]:
        """The words of every QEMU so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


class AcceleratorTest(WithFakes):
    """What `--accel auto` takes, and why."""

    def test_kvm_is_taken_only_where_the_proof_runs_to_its_end(self) -> None:
        for ends, wanted in [("33", "kvm (proven by a boot sector)"), ("1", "tcg (a boot sector under KVM ended with 1")]:
            with self.subTest(ends=ends), mock.patch.dict(os.environ, FAKE_KVM=ends):
                chosen = str(accelerator.choose("auto", X86_64))
                self.assertTrue(chosen.startswith(wanted), chosen)
                # Remembered until the host boots again: no second proof.
                self.assertIn("earlier since the host booted", str(accelerator.choose("auto", X86_64)))
                self.assertEqual(len(self.starts()), 1)
                self.log.unlink()
                for note in (self.folder / "cache").rglob("accelerator/*"):
                    note.write_text("xen maybe\n", encoding="ascii")

    def test_kvm_that_hangs_its_guests_is_found_out(self) -> None:
        with mock.patch.object(accelerator, "PROBE_SECONDS", 0.5):
            chosen = accelerator.choose("auto", X86_64)
        self.assertEqual(chosen.name, "tcg")
        self.assertIn("hung", chosen.reason)

    def test_what_is_no_kvm_is_never_probed(self) -> None:
        accelerator.CPUINFO.write_text("flags : fpu\n", encoding="utf-8")
        self.assertIn("no vmx or svm", accelerator.choose("auto", X86_64).reason)
        accelerator.KVM.unlink()
        self.assertIn("absent", accelerator.choose("auto", X86_64).reason)
        self.assertEqual(str(accelerator.choose("auto", AARCH64)), "tcg (the host is x86_64, the machine aarch64)")
        self.assertFalse(self.log.exists())

    def test_on_an_arm_host_the_other_architecture_is_x86(self) -> None:
        with mock.patch.object(architecture.platform, "machine", lambda: "aarch64"):
            self.assertEqual(str(accelerator.choose("auto", X86_64)), "tcg (the host is aarch64, the machine x86_64)")
            with mock.patch.dict(os.environ, FAKE_KVM="0"):
                self.assertEqual(str(accelerator.choose("auto", AARCH64)), "kvm (proven by a PSCI call)")


class ProofTest(unittest.TestCase):
    """The proofs themselves, under an accelerator that every host has."""

    def test_both_proofs_end_a_machine_that_works(self) -> None:
        for arch, proof in accelerator.PROOFS.items():
            with self.subTest(arch=arch.name), mock.patch.object(accelerator, "PROBE_SECONDS", 60.0):
                found = accelerator.probe(proof, arch.qemu, "tcg", "max")
                self.assertEqual(found.name, "kvm", found.reason)


class LifeTest(WithFakes):
    """From the accelerator to the exit code."""

    def live(self, *words: str, chosen: str = "tcg") -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a machine made of nothing."""
        args = program.arguments(["--accel", "auto", *words])
        parts = guest.Parts(
            arch=X86_64, kernel=Path("k"), initramfs=Path("i"), package=None, data=Path("d"), share=None,
            token=Path("t"), console=self.folder / "console", serial_log=self.folder / "serial", http_port=1,
            memory_mib=512, append="", on_terminal=False,
        )
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = program.boot(args, parts, accelerator.Choice(chosen, "for a test"))
        return code, out.getvalue(), err.getvalue()

    def test_a_machine_silent_under_kvm_is_booted_under_tcg(self) -> None:
        with mock.patch.object(guest, "SILENCE_SECONDS", 0.5):
            code, out, err = self.live("--exec", "status", chosen="kvm")
        self.assertEqual((code, out), (0, "did status\n"), err)
        self.assertEqual([words[words.index("-accel") + 1] for words in self.starts()], ["kvm", "tcg,thread=single"])
        self.assertIn("accelerator: tcg (a machine was silent for 0.5 s under KVM)", err)
        # The next one is not made to wait again.
        self.assertEqual(accelerator.choose("auto", X86_64).name, "tcg")

    def test_seconds_are_shown_apart(self) -> None:
        _, _, err = self.live("--exec", "status")
        line = r"ready: machine and kernel -?[\d.]+ s, handoff to ready 1\.25 s, total [\d.]+ s, accelerator tcg \(for a test\)"
        self.assertRegex(err, line)

    def test_exit_codes_are_0_1_and_124(self) -> None:
        self.assertEqual(self.live("--exec", "status; beat")[:2], (0, "did status\ndid beat\n"))
        code, out, err = self.live("--exec", "status; fail; beat")
        self.assertEqual((code, out), (1, "did status\ndid beat\n"))
        self.assertIn("fail: exit code 1", err)
        code, _, err = self.live("--timeout", "2", "--exec", "status; hang")
        self.assertEqual(code, 124, err)
        self.assertIn("no end after 2", err)
        self.assertIn("a line of the kernel", err)


class RefusalTest(WithFakes):
    """Each bad value is one line that names option, value and limit, before anything is built."""

    def refused(self, *words: str) -> str:
        """The one line."""
        err = io.StringIO()
        building = mock.patch.object(toolchain, "build", side_effect=AssertionError("something was built"))
        with building, mock.patch.object(sys, "argv", ["qemu/run", *words]), contextlib.redirect_stderr(err):
            try:
                code: Any = program.main()
            except SystemExit as ended:
                code = ended.code
        self.assertEqual(code, program.EXIT_HOST, err.getvalue())
        lines = err.getvalue().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith("qemu/run: --"), lines)
        return lines[0]

    def test_bad_values(self) -> None:
        (self.folder / "folder").mkdir()
        (self.folder / "key.pub").write_text("k", encoding="ascii")
        here = str(self.folder)
        for words, named in [
            (["--arch", "riscv64"], "--arch riscv64: unknown; x86_64 or aarch64"),
            (["--memory", "255"], "--memory 255: 256 to "),
            (["--memory", str(1 << 40)], " MiB on this host"),
            (["--memory", "much"], "--memory: invalid int value: 'much'"),
            (["--http", "65536"], "--http 65536: 0 to 65535"),
            (["--http", "-1"], "--http -1: 0 to 65535"),
            (["--accel", "hvf"], "--accel: invalid choice: 'hvf'"),
            (["--accel", "kvm", "--arch", "aarch64"], "--accel kvm: the host is x86_64, --arch is aarch64"),
            (["--append", "x" * 1801], "--append: 1801 bytes, limit 1800"),
            (["--timeout", "0", "--exec", "status"], "--timeout 0: above 0"),
            (["--timeout", "nan", "--exec", "status"], "--timeout nan: above 0"),
            (["--timeout", "86401", "--exec", "status"], "up to 86400 seconds"),
            (["--timeout", "5"], "--timeout 5: only with --exec"),
            (["--share", f"{here}/absent"], "absent: no folder that can be read"),
            (["--trust", f"{here}/absent"], "--trust "),
            (["--trust", f"{here}/key.pub", "--initramfs", f"{here}/key.pub"], "not with --initramfs"),
            (["--initramfs", f"{here}/absent"], "--initramfs "),
            (["--modules", here], f"--modules {here}: only with --kernel"),
            (["--machine", "/" + "m" * 107], "108 bytes, limit 107"),
            (["--machine", f"{here}/m", "--exec", "status"], "not with --exec"),
            (["--http", "0", "--rts", f"{here}/folder"], "folder: no file that can be read"),
            (["--http", "0", "--model", f"{here}/absent.gguf"], "absent.gguf: no file that can be read"),
            (["--http", "0", "--rts", "none", "--kernel", f"{here}/absent"], "absent: No such file"),
            (["--http", "0", "--rts", "none", "--kernel", f"{here}/key.pub", "--data", here], "Is a directory"),
            (["--model", "a", "--rts", "b"], "--rts: not allowed with argument --model"),
        ]:
            with self.subTest(words=words):
                self.assertIn(named, self.refused(*words))

    def test_data_that_is_no_regular_file_is_left_alone(self) -> None:
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        words = ["--http", "0", "--rts", "none", "--kernel", str(HERE / "fake_qemu.py"), "--data", str(fifo)]
        self.assertIn("not a regular file", self.refused(*words))

    def test_kernel_and_executables_of_the_other_architecture(self) -> None:
        image = self.folder / "Image"
        image.write_bytes(bytes(56) + b"ARM\x64" + bytes(100))
        with self.assertRaisesRegex(HostError, "a kernel for aarch64, --arch x86_64 expected"):
            kernel.own(str(image), None, X86_64)
        kernel.own(str(image), None, AARCH64)
        for name in ("vector_boot", "vb-services"):
            (self.folder / name).write_bytes(b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little"))
        toolchain.Executables.of(self.folder, AARCH64)
        with self.assertRaisesRegex(HostError, r"ELF machine 183, 62 \(x86_64\) expected"):
            toolchain.Executables.of(self.folder, X86_64)


class ArchitectureTest(WithFakes):
    """What differs between the two machines."""

    def test_tools_are_those_that_know_the_target(self) -> None:
        def tool(name: str, version: str, library: str) -> Path:
            path = self.folder / name
            path.write_text(f'#!/bin/sh\ncase "$*" in *libdir*) echo {library} ;; *) echo "{name} {version}" ;; esac\n')
            path.chmod(0o755)
            return path

        library = self.folder / "library"
        library.mkdir()
        tools = toolchain.Tools(tool("cargo", "1.95.0", ""), tool("rustc", "1.96.0", str(library)))
        self.assertEqual(tools.lacks(95, "aarch64-x"), "rustc 1.96.0 without aarch64-x")
        (library / "libstd-1.rlib").write_bytes(b"")
        self.assertIsNone(tools.lacks(95, "aarch64-x"))
        self.assertEqual(tools.lacks(96, "aarch64-x"), "cargo 1.95.0")

    def test_the_users_cargo_drives_debians_compiler_only_where_it_must(self) -> None:
        own = toolchain.Tools(Path("/home/u/.cargo/bin/cargo"), Path("/home/u/.cargo/bin/rustc"))
        mixed = toolchain.Tools(own.cargo, Path("/usr/bin/rustc"))
        with mock.patch.dict(os.environ, RUSTC="/elsewhere/rustc", RUSTFLAGS="-C panic=unwind"):
            self.assertNotIn("RUSTC", toolchain.environment(own, X86_64))
            env = toolchain.environment(mixed, AARCH64)
        self.assertEqual(env["RUSTC"], "/usr/bin/rustc")
        self.assertNotIn("RUSTFLAGS", env)
        self.assertTrue(env["CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"].endswith("/qemu/link-aarch64"))

    def test_what_the_other_architecture_needs_is_one_command(self) -> None:
        tools = self.folder / "bin"
        for name, said in (("id", "1000"), ("dpkg", ""), ("uname", "x86_64")):
            (tools / name).write_text(f"#!/bin/sh\necho {said}\n")
            (tools / name).chmod(0o755)
        # Both ways in: a word, and the `--arch` of the calling script.
        for words in (["boot-other"], ["boot", "--", "--http", "0", "--arch", "aarch64"], ["boot", "--", "--arch=aarch64"]):
            asked = [str(HERE.parents[1] / "qemu" / "host-tools"), *words]
            result = subprocess.run(asked, capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 1, result)
            self.assertIn("run once: sudo sh -c 'dpkg --add-architecture arm64 && apt-get update", result.stderr)
        asked = [str(HERE.parents[1] / "qemu" / "host-tools"), "boot", "--", "--arch", "x86_64"]
        self.assertNotIn("arm64", subprocess.run(asked, capture_output=True, text=True, check=False).stderr)


if __name__ == "__main__":
    unittest.main()
