"""`qemu/run`: from the sources to a running machine, in the order of the phases that it prints.

Start with `main`; `boot` is the machine's life.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from . import accelerator, architecture, cache, disks, guest, initramfs, kernel, model, package, toolchain, watchdog
from .console import Answer, Console, ConsoleClosed, ConsoleLate
from .report import HostError, say

EXIT_FAILED = 1
EXIT_HOST = 2
# As timeout(1) has it.
EXIT_LATE = 124
TIMEOUT_SECONDS = 300
# More than a day is no deadline but a mistyped one.
TIMEOUT_SECONDS_MAX = 86400
MEMORY_MIB = 1024
MEMORY_MIB_MIN = 256
# Share of the time that readiness may take; the rest is for the commands.
READY_SHARE = 0.7
# How long a machine that was told to power off may take before it is stopped cold.
POWEROFF_SECONDS = 30.0
# unix(7): sun_path is 108 bytes, the last of them zero.
SOCKET_BYTES_MAX = 107


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other refusal."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message.removeprefix('argument ')}")
        sys.exit(EXIT_HOST)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The words of `qemu/run`; those of the process unless given."""
    parser = Parser(prog="qemu/run", description="Boots the appliance in QEMU.", allow_abbrev=False)
    add = parser.add_argument
    add("--arch", default=architecture.host().name, help=f"{' or '.join(architecture.ALL)} (this host's)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default=model.NAME, metavar="FILE", help=f"GGUF file to pack and boot, or {model.NAME}")
    what.add_argument("--rts", metavar="FILE", help=f"package to boot as it is; {package.NONE} boots without one")
    add("--exec", metavar="'CMD; CMD'", help="run these console commands when the machine is ready, then power off")
    add("--timeout", type=float, metavar="S", help=f"with --exec: seconds from power on to the end ({TIMEOUT_SECONDS})")
    add("--http", type=int, default=8080, metavar="PORT", help="host port of the gateway (8080); 0 takes a free one")
    add("--data", type=Path, metavar="FILE", help="data disk; made if absent (default: one in the cache)")
    add("--fresh", action="store_true", help="discard what is on the data disk")
    add("--share", type=Path, metavar="DIR", help="show a read-only copy of this folder as the root `share`")
    add("--memory", type=int, default=MEMORY_MIB, metavar="MIB", help=f"memory of the machine ({MEMORY_MIB})")
    add("--append", default="", metavar="WORDS", help="more words for the kernel's command line")
    add("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="auto proves KVM before it is used")
    add("--kernel", metavar="FILE", help="another kernel image; everything needed must be built in, or see --modules")
    add("--modules", metavar="DIR", help="with --kernel: its folder of modules")
    add("--initramfs", type=Path, metavar="FILE", help="another initramfs")
    add("--trust", type=Path, action="append", default=[], metavar="KEY.pub", help="boot only packages signed by this key")
    add("--watchdog", action="store_true", help="show the kernel the chipset's watchdog (x86_64)")
    add("--bin", type=Path, metavar="DIR", help="executables from this folder, instead of building")
    add("--machine", type=Path, metavar="SOCKET", help="put the machine console's socket here and leave it to others")
    add("--qmp", type=Path, metavar="SOCKET", help=argparse.SUPPRESS)
    add("--wire", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    add("--resets", action="store_true", help=argparse.SUPPRESS)
    add("--icount", action="store_true", help=argparse.SUPPRESS)
    add("--nbd", type=Path, metavar="SOCKET", help=argparse.SUPPRESS)
    add("--log-writes", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def check(args: argparse.Namespace) -> None:
    """Refuses what can be refused before anything is built."""
    arch = architecture.named(args.arch)
    accelerator.refuse(args.accel, arch)
    memory_mib_max = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20
    if not MEMORY_MIB_MIN <= args.memory <= memory_mib_max:
        raise HostError(f"--memory {args.memory}: {MEMORY_MIB_MIN} to {memory_mib_max} MiB on this host")
    if not 0 <= args.http <= 65535:
        raise HostError(f"--http {args.http}: 0 to 65535")
    append_bytes = len(os.fsencode(args.append))
    if append_bytes > arch.append_bytes_max:
        raise HostError(f"--append: {append_bytes} bytes, limit {arch.append_bytes_max}")
    if args.timeout is not None:
        if args.exec is None:
            raise HostError(f"--timeout {args.timeout:g}: only with --exec")
        if math.isnan(args.timeout) or not 0 < args.timeout <= TIMEOUT_SECONDS_MAX:
            raise HostError(f"--timeout {args.timeout:g}: above 0, up to {TIMEOUT_SECONDS_MAX} seconds")
    if args.watchdog and arch != architecture.X86_64:
        raise HostError(f"--watchdog: only with --arch {architecture.X86_64.name}, QEMU's machine for {arch.name} has none")
    if args.modules and not args.kernel:
        raise HostError(f"--modules {args.modules}: only with --kernel")
    if args.trust and args.initramfs:
        raise HostError(f"--trust {args.trust[0]}: not with --initramfs, which has its keys already")
    files: list[tuple[str, Path | None]] = [("--initramfs", args.initramfs), *(("--trust", key) for key in args.trust)]
    for option, file in files:
        if file and not (file.is_file() and os.access(file, os.R_OK)):
            raise HostError(f"{option} {file}: no file that can be read")
    if args.share and not (args.share.is_dir() and os.access(args.share, os.R_OK | os.X_OK)):
        raise HostError(f"--share {args.share}: no folder that can be read")
    if args.machine:
        if args.exec is not None:
            raise HostError(f"--machine {args.machine}: not with --exec, which uses the machine console itself")
        if len(os.fsencode(args.machine)) > SOCKET_BYTES_MAX:
            raise HostError(f"--machine {args.machine}: {len(os.fsencode(args.machine))} bytes, limit {SOCKET_BYTES_MAX}")
    args.http = guest.check_port(args.http)


def main() -> int:
    """Builds, boots, and returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scratch = Path(tempfile.mkdtemp(prefix="vector-boot-"))
    token = cache.folder("tokens") / f"{os.getpid()}"
    try:
        args = arguments()
        check(args)
        parts = prepare(args, scratch, token)
        # Nothing but the emulator counts instructions.
        return boot(args, parts, accelerator.choose("tcg" if args.icount else args.accel, parts.arch))
    except HostError as error:
        say(f"qemu/run: {error}")
        return EXIT_HOST
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        token.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def prepare(args: argparse.Namespace, scratch: Path, token: Path) -> guest.Parts:
    """Makes or finds everything that the machine is made of."""
    # What is not there is said before minutes of building, not after.
    arch = architecture.named(args.arch)
    boots = package.named(args.rts) if args.rts else None
    weights = None if args.rts else model.find(args.model)
    executables = toolchain.Executables.of(args.bin, arch) if args.bin else None
    core = kernel.own(args.kernel, args.modules, arch) if args.kernel else kernel.debian(arch)
    data = args.data or cache.folder("disks") / "data.img"
    disk = disks.open_data(data, args.fresh)
    share = None
    if args.share:
        share = scratch / "share.img"
        disks.make_share(args.share, share, scratch)
    archive = args.initramfs
    if weights or not archive:
        tool = toolchain.host_tool() if arch != architecture.host() else None
        executables = executables or toolchain.build(arch)
        tool = tool or executables.vector_boot
        if not archive:
            contents = initramfs.Contents(core, executables, args.trust)
            alone = args.trust or args.bin
            archive = initramfs.own(contents, tool, scratch) if alone else initramfs.cached(contents, tool, arch)
        if weights:
            boots = package.packed(weights, executables, tool, arch)
    table = None
    if args.watchdog:
        table = scratch / "watchdog.acpi"
        table.write_bytes(watchdog.table())
    make_token(token)
    return guest.Parts(
        arch=arch,
        kernel=core.image,
        initramfs=archive,
        package=boots,
        data=data,
        share=share,
        token=token,
        console=args.machine or scratch / "console",
        serial_log=scratch / "serial.log",
        http_port=args.http,
        memory_mib=args.memory,
        append=args.append,
        on_terminal=args.exec is None,
        qmp=args.qmp,
        wire=args.wire,
        resets=args.resets,
        nbd=args.nbd,
        log_writes=args.log_writes,
        watchdog=table,
        icount=args.icount,
        held=[disk],
    )


def make_token(path: Path) -> None:
    """The boot token: 64 hex digits that only the user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def boot(args: argparse.Namespace, parts: guest.Parts, chosen: accelerator.Choice) -> int:
    """Runs the machine under the chosen accelerator; under TCG instead when KVM says nothing."""
    say(f"accelerator: {chosen}")
    with guest.Guest(parts, chosen.name) as machine:
        if not (chosen.name == "kvm" and args.accel == "auto" and machine.is_silent()):
            return live(args, parts, machine, chosen)
    chosen = accelerator.Choice("tcg", f"a machine was silent for {guest.SILENCE_SECONDS:g} s under KVM")
    accelerator.remember(chosen)
    say(f"accelerator: {chosen}")
    with guest.Guest(parts, chosen.name) as machine:
        return live(args, parts, machine, chosen)


def live(args: argparse.Namespace, parts: guest.Parts, machine: guest.Guest, chosen: accelerator.Choice) -> int:
    """The machine's life: driven by `--exec`, or by the person at its serial console."""
    if args.exec is not None:
        return drive(args, parts, machine, chosen)
    if not args.machine:
        notice = threading.Thread(target=announce, args=(parts, machine, chosen), daemon=True)
        notice.start()
    else:
        say(f"machine: console={parts.console} http={parts.http_port} token={parts.token}")
    ended = machine.process.wait()
    return 0 if ended == 0 else EXIT_FAILED


def announce(parts: guest.Parts, machine: guest.Guest, chosen: accelerator.Choice) -> None:
    """Says when the machine is ready, what took how long, and how to call it."""
    try:
        deadline = machine.begun + TIMEOUT_SECONDS
        console = Console(parts.console, deadline)
        console.synchronise(deadline)
        answer = console.run(f"ready {TIMEOUT_SECONDS}", deadline)
        say(phases(console, answer, machine, chosen, deadline))
        console.close()
        say(curl_line(parts))
    except ConsoleLate:
        say(f"not ready within {TIMEOUT_SECONDS} s")
    except ConsoleClosed:
        # The machine has ended; its last words are on the terminal.
        return


def phases(
    console: Console, ready: Answer, machine: guest.Guest, chosen: accelerator.Choice, deadline: float
) -> str:
    """One line with the seconds apart: machine and kernel, handoff to ready, total."""
    total = time.monotonic() - machine.begun
    state = "ready" if ready.code == 0 else f"degraded ({one_line(ready.text)})"
    handoff = ready_seconds(console.run("boot --json", deadline))
    parts = f"total {total:.1f} s"
    if handoff is not None:
        parts = f"machine and kernel {total - handoff:.1f} s, handoff to ready {handoff:.2f} s, {parts}"
    return f"{state}: {parts}, accelerator {chosen}"


def ready_seconds(boot: Answer) -> float | None:
    """Handoff to all services ready, as the machine measured it; absent if it never was ready."""
    try:
        ends = [phase["end_ns"] for phase in json.loads(boot.text)["phases"] if phase["name"] == "ready"]
    except (ValueError, KeyError, TypeError):
        return None
    return float(ends[0]) / 1e9 if ends and isinstance(ends[0], int) else None


def one_line(text: str) -> str:
    """Output of several lines as one."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def curl_line(parts: guest.Parts) -> str:
    """A call that works as it stands."""
    body = '{"tool":"fs_read","params":{"root":"work","path":"welcome.txt"}}'
    header = f'-H "Authorization: Bearer $(cat {parts.token})" -H "Content-Type: application/json"'
    return f"curl -s {header} -d '{body}' http://127.0.0.1:{parts.http_port}/tool"


def drive(args: argparse.Namespace, parts: guest.Parts, machine: guest.Guest, chosen: accelerator.Choice) -> int:
    """Waits for readiness, runs the commands, powers off; 0 only if the machine was ready and all succeeded."""
    deadline = machine.begun + (args.timeout or TIMEOUT_SECONDS)
    try:
        with closing(Console(parts.console, deadline)) as console:
            console.synchronise(deadline)
            # A machine that does not get ready leaves time to look at it.
            patience = (deadline - time.monotonic()) * READY_SHARE
            ready = console.run(f"ready {max(1, int(patience))}", deadline)
            say(phases(console, ready, machine, chosen, deadline))
            failed = ready.code != 0
            for word in filter(None, (part.strip() for part in re.split(r"[;\n]", args.exec))):
                failed |= not run_command(console, word, deadline)
            power_off(console, machine, deadline)
    except ConsoleLate:
        say(f"{machine.serial_tail()}\nqemu/run: no end after {args.timeout or TIMEOUT_SECONDS} s")
        return EXIT_LATE
    except ConsoleClosed:
        machine.kill()
        say(f"{machine.serial_tail()}\nqemu/run: the machine ended by itself")
        return EXIT_FAILED
    if failed:
        say(f"{machine.serial_tail()}\nqemu/run: the machine was not ready, or a command failed; see above")
    return EXIT_FAILED if failed else 0


def run_command(console: Console, word: str, deadline: float) -> bool:
    """Runs one command, prints what it prints, and says whether it succeeded."""
    say(f"vb> {word}")
    answer = console.run(word, deadline)
    sys.stdout.write(answer.text)
    sys.stdout.flush()
    if answer.code != 0:
        say(f"qemu/run: {word}: exit code {answer.code}")
    return answer.code == 0


def power_off(console: Console, machine: guest.Guest, deadline: float) -> None:
    """Ends the machine in order; stops it cold when it does not end."""
    end = max(deadline, time.monotonic() + POWEROFF_SECONDS)
    try:
        console.run("poweroff", end)
    except ConsoleClosed:
        pass
    while machine.process.poll() is None:
        if time.monotonic() > end:
            raise ConsoleLate
        time.sleep(0.02)
