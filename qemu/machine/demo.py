"""`qemu/demo`: one machine through what it promises, each step checked and shown.

Nothing is staged: files, kills and the flipped byte are made here and now, on disks of the demonstration's own.
Start with `STEPS`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import accelerator, architecture, cache, guest, run, toolchain
from .console import Console, ConsoleClosed, ConsoleLate
from .disks import FIRST_SECTOR, LOG_BYTES, SECTOR
from .report import HostError, say

# Each wait of the demonstration; an emulated machine needs a few seconds for the longest.
STEP_SECONDS = 120.0
# A call that waits for its service to come back is answered within this (docs: 2 s, then 503).
CALL_SECONDS = 15.0
# How long calls go on after the gateway was killed.
LOOP_SECONDS = 3.0
# The ledger tells of the boot before within a beat of its readiness.
WHY_SECONDS = 20.0


class Stage:
    """The machine on show, and what its steps leave to each other."""

    def __init__(self, parts: guest.Parts, chosen: accelerator.Choice, tool: Path) -> None:
        self.parts = parts
        self.chosen = chosen
        self.tool = tool
        self.machine: guest.Guest | None = None
        self.console: Console | None = None

    def power_on(self) -> None:
        """Boots and waits for readiness."""
        self.machine = guest.Guest(self.parts, self.chosen.name)
        deadline = self.machine.begun + run.TIMEOUT_SECONDS
        self.console = Console(self.parts.console, deadline)
        self.console.synchronise(deadline)
        ready = self.console.run(f"ready {run.TIMEOUT_SECONDS}", deadline)
        show(run.phases(self.console, ready, self.machine, self.chosen, deadline))
        expect(ready.code == 0, "the machine is ready")

    def power_cut(self) -> None:
        """Stops the machine cold."""
        if self.console:
            self.console.close()
        if self.machine:
            self.machine.kill()

    def command(self, line: str) -> str:
        """A console command that must succeed, with what it prints shown."""
        assert self.console
        answer = self.console.run(line, time.monotonic() + STEP_SECONDS)
        show(f"vb> {line}\n{answer.text.rstrip()}")
        expect(answer.code == 0, line)
        return answer.text

    def quietly(self, line: str) -> Any:
        """A console command's JSON, not shown."""
        assert self.console
        return json.loads(self.console.run(f"{line} --json", time.monotonic() + STEP_SECONDS).text)

    def read(self, root: str, path: str) -> tuple[int, dict[str, Any]]:
        """Calls fs_read through the forwarded port, as curl does."""
        body = json.dumps({"tool": "fs_read", "params": {"root": root, "path": path}}).encode()
        token = self.parts.token.read_text(encoding="ascii")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.parts.http_port}/tool", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def show(text: str) -> None:
    """What a step found, indented below its title."""
    print("\n".join(f"    {line}" for line in text.splitlines()), flush=True)


def expect(good: bool, what: str) -> None:
    """Ends the demonstration where something is not as promised."""
    if not good:
        raise HostError(f"not as promised: {what}")


def boot(stage: Stage) -> None:
    """boot, with a real language model mapped where it lies"""
    stage.power_on()
    stage.command("status")


def read_shared(stage: Stage) -> None:
    """an agent reads a shared file: content, scores, and the row that records it"""
    status, reply = stage.read("share", "report.txt")
    show(f"HTTP {status}: {json.dumps(reply)}")
    expect(reply.get("status") == "SUCCESS" and "quarter" in reply["data"]["content"], "the content")
    stage.command(f"ledger query --from {reply['event_id']} -n 1")


def refuse_escape(stage: Stage) -> None:
    """a symlink to /etc/shadow in that folder is refused, and the refusal is recorded"""
    status, reply = stage.read("share", "escape")
    show(f"HTTP {status}: {json.dumps(reply)}")
    expect(status == 400 and reply["status"] == "DENIED" and reply["data"] is None, "the refusal")
    stage.command(f"ledger query --from {reply['event_id']} -n 1")


def under_calls(stage: Stage, command: str) -> list[str]:
    """Runs a console command while calls come in; the calls that failed."""
    failed: list[str] = []
    good, over = [0], threading.Event()

    def caller() -> None:
        while not over.is_set():
            try:
                status, reply = stage.read("work", "welcome.txt")
                good[0] += status == 200
                failed.extend([] if status == 200 else [f"HTTP {status}: {reply}"])
            except OSError as error:
                failed.append(str(error))

    thread = threading.Thread(target=caller)
    thread.start()
    try:
        time.sleep(1)
        stage.command(command)
        time.sleep(LOOP_SECONDS)
    finally:
        over.set()
        thread.join()
    show(f"{good[0]} calls answered, {len(failed)} failed {'; '.join(failed[:3])}")
    expect(good[0] > 0, "calls were answered")
    return failed


def kill_gateway(stage: Stage) -> None:
    """SIGKILL to the gateway while calls come in: only a call in its hands may be lost"""
    failed = under_calls(stage, "signal gateway KILL")
    expect(len(failed) <= 1, "one caller lost at most the call that was under way")
    row = next(row for row in stage.quietly("services")["services"] if row["name"] == "gateway")
    show(f"gateway: {row['state']}, {row['restarts']} restarts, last exit {row['last_exit']}")
    expect(row["state"] == "up" and row["restarts"] >= 1, "the gateway came back")


def crash_init(stage: Stage) -> None:
    """SIGSEGV to PID 1 itself while calls come in: it goes on, and no service or caller notices"""
    before = {row["name"]: row["pid"] for row in stage.quietly("services")["services"]}
    failed = under_calls(stage, "signal init SEGV")
    expect(not failed, "no call was lost")
    after = {row["name"]: row["pid"] for row in stage.quietly("services")["services"]}
    expect(after == before, "every service is the process that it was")
    stage.command("why init")
    expect(stage.quietly("why init")["why"][-1]["reason"] == "init_crash", "the crash is told as what it was")


def cut_power(stage: Stage) -> None:
    """the machine is stopped cold, and booted again: it says why, and the ledger holds"""
    before = stage.quietly("ledger head")
    stage.power_cut()
    stage.power_on()
    show(f"head before the cut: {json.dumps(before)}")
    deadline = time.monotonic() + WHY_SECONDS
    while stage.quietly("why machine")["why"][-1]["reason"] == "unknown" and time.monotonic() < deadline:
        time.sleep(0.2)
    stage.command("why machine")
    expect(stage.quietly("why machine")["why"][-1]["reason"] == "unclean_stop", "the stop is told as what it was")
    stage.command("ledger verify")


def tamper(stage: Stage) -> None:
    """one byte of a copy of the log is flipped: the host's verify names the place"""
    stage.power_cut()
    copy = stage.parts.data.with_name("copy.img")
    shutil.copyfile(stage.parts.data, copy)
    expect(verify(stage, copy) == 0, "the untouched copy holds")
    with open(copy, "r+b") as disk:
        disk.seek(FIRST_SECTOR * SECTOR)
        at = disk.read(LOG_BYTES).index(b"fs_read")
        disk.seek(FIRST_SECTOR * SECTOR + at)
        disk.write(b"F")
    show(f"byte {at} of the log: f becomes F")
    expect(verify(stage, copy) != 0, "the flipped byte is found")


def verify(stage: Stage, image: Path) -> int:
    """`ledger verify` on the host, shown."""
    words = [str(stage.tool), "ledger", "--log", str(image), "verify"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    show(f"$ vector_boot ledger --log {image.name} verify\n{result.stdout}{result.stderr}".rstrip())
    return result.returncode


STEPS: list[Callable[[Stage], None]] = [boot, read_shared, refuse_escape, kill_gateway, crash_init, cut_power, tamper]


def main() -> int:
    """Runs every step; 0 only if all held."""
    scratch = Path(tempfile.mkdtemp(prefix="vector-boot-demo-"))
    token = cache.folder("tokens") / f"demo-{scratch.name}"
    stage: Stage | None = None
    try:
        stage = set_up(scratch, token)
        begun = time.monotonic()
        for number, step in enumerate(STEPS, 1):
            print(f"\n{number}. {step.__doc__}", flush=True)
            step(stage)
        print(f"\nall {len(STEPS)} steps held, {time.monotonic() - begun:.0f} s", flush=True)
        return 0
    except (HostError, ConsoleLate, ConsoleClosed) as error:
        if stage and stage.machine:
            say(stage.machine.serial_tail())
        say(f"qemu/demo: {error or type(error).__name__}")
        return run.EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    finally:
        if stage:
            stage.power_cut()
        token.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def set_up(scratch: Path, token: Path) -> Stage:
    """A shared folder with a file and a way out, and disks of our own."""
    share = scratch / "shared"
    share.mkdir()
    (share / "report.txt").write_text("the last quarter was good\n", encoding="utf-8")
    (share / "escape").symlink_to("/etc/shadow")
    words = ["--http", "0", "--share", str(share), "--data", str(scratch / "data.img"), *sys.argv[1:]]
    args = run.arguments(words)
    run.check(args)
    parts = dataclasses.replace(run.prepare(args, scratch, token), on_terminal=False)
    own = args.bin and parts.arch == architecture.host()
    tool = args.bin / "vector_boot" if own else toolchain.host_tool()
    return Stage(parts, accelerator.choose(args.accel, parts.arch), tool)


if __name__ == "__main__":
    sys.exit(main())
