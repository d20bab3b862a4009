"""Tests of `tests/bench/init`: what it makes of a probe's lines, and when it holds a start against the budget."""

from __future__ import annotations

import json
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("qemu", "tests/bench")]

# pylint: disable=wrong-import-position
from init import boot, budget, hour, lists
from machine.kernel import Kernel
from machine.report import HostError

STARTS = "R start a us=100\nR start b us=300\nR start c us=200\n"


class ReadTest(unittest.TestCase):
    """The lines of `guest/launch.c`."""

    def test_the_last_of_three_services_is_the_start(self) -> None:
        self.assertEqual(boot.read(STARTS).start_us, 300)
        self.assertIsNone(boot.read(STARTS.replace("R start b us=300\n", "")).start_us)

    def test_one_kill_without_a_successor_leaves_no_figure(self) -> None:
        kills = "R kill ns=1500\nR kill ns=9000\nR kill ns=2500\n"
        self.assertEqual(boot.read(kills).kill_us, 2)
        self.assertIsNone(boot.read(f"{kills}R kill none\n").kill_us)

    def test_memory_is_process_one_and_pss_is_all(self) -> None:
        lines = "R memory 1 anon=8 pss=20 rss=24 name=init\nR memory 7 anon=99 pss=30 rss=40 name=a helper\n"
        figures = boot.read(lines)
        self.assertEqual((figures.anonymous_kib, figures.pss_kib, figures.processes), (8, 50, 2))

    def test_memory_that_is_weighed_again_counts_the_second_time(self) -> None:
        first = "R memory 1 anon=90 pss=95 rss=99 name=init\nR memory 7 anon=9 pss=9 rss=9 name=helper\n"
        figures = boot.read(f"{first}R memory 1 anon=8 pss=20 rss=24 name=init\n")
        self.assertEqual((figures.anonymous_kib, figures.pss_kib, figures.processes), (8, 20, 1))

    def test_zombies_that_stay_or_are_too_few_are_no_figure(self) -> None:
        line = "R zombies peak={} handed_us=7000 reaped_us=61500 left={} late=-1\n"
        self.assertEqual(boot.read(line.format(10001, 0)).zombies_ms, 61.5)
        self.assertIsNone(boot.read(line.format(10001, 3)).zombies_ms)
        self.assertIsNone(boot.read(line.format(4900, 0)).zombies_ms)

    def test_late_beats_are_counted_where_somebody_has_beats(self) -> None:
        line = "R zombies peak=10001 handed_us=7000 reaped_us=61500 left=0 late={}\n"
        self.assertIsNone(boot.read(line.format(-1)).late_beats)
        self.assertEqual(boot.read(line.format(2)).late_beats, 2)

    def test_a_crash_counts_with_every_service_alive(self) -> None:
        self.assertEqual(boot.read("R crash ns=312600 alive=3\n").crash_us, 313)
        self.assertIsNone(boot.read("R crash ns=312600 alive=2\n").crash_us)
        self.assertIsNone(boot.read("R crash none\n").crash_us)

    def test_lines_of_others_are_passed_over(self) -> None:
        others = "[    1.2] reboot: R start a us=9\n\rR nothing\n"
        self.assertEqual(boot.read(f"{others}{STARTS}").start_us, 300)


class HourTest(unittest.TestCase):
    """What counts as growth in an hour."""

    QUIET = {"anon": 100, "fds": 30, "threads": 1, "cgroups": 9, "dying": 0, "services": 60, "slab": 9000, "free": 1}

    def holds(self, missed: int = 0, **last: int) -> bool:
        """Judges an hour whose last minute holds something else."""
        minutes = [{**self.QUIET, **(last if minute == 60 else {})} for minute in range(61)]
        lines = [
            f"R hour minute={n} {' '.join(f'{key}={value}' for key, value in account.items())}\n"
            for n, account in enumerate(minutes)
        ]
        beat = json.dumps({"count": 36700, "missed": missed, "coalesced": 0, "late_max_ns": 5})
        with redirect_stdout(StringIO()):
            return hour.holds(boot.read("".join(lines) + f"R beat {beat}\n"))

    def test_a_quiet_hour_holds_and_a_page_of_noise_is_none(self) -> None:
        self.assertTrue(self.holds())
        self.assertTrue(self.holds(anon=104))

    def test_growth_and_missed_beats_are_said(self) -> None:
        for grown in ({"anon": 112}, {"fds": 31}, {"cgroups": 10}, {"services": 90}, {"missed": 1}):
            self.assertFalse(self.holds(**grown), grown)

    def test_an_hour_that_ends_early_is_no_hour(self) -> None:
        with self.assertRaises(HostError):
            hour.holds(boot.read("R hour minute=0 anon=1\n"))


class BudgetTest(unittest.TestCase):
    """What is judged, and what is only shown."""

    UNDER = {"kernel": "vmlinuz-1", "emulator": "QEMU 1", "compiler": "rustc 1"}

    def holds(self, start_us: int, record: bool = False, **under: str) -> bool:
        """Judges a figure that was found under something."""
        kernel = Kernel(Path("vmlinuz"), Path("modules"))
        with mock.patch.object(budget, "FILE", self.file), redirect_stdout(StringIO()):
            with mock.patch.object(budget, "_under", return_value={**self.UNDER, **under}):
                return budget.holds("quick", start_us, kernel, record)

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "budget.json"
        self.file.write_text(json.dumps({"quick": {"start_us": 1000, **self.UNDER}}), encoding="ascii")

    def test_three_percent_more_hold_and_a_microsecond_above_does_not(self) -> None:
        self.assertTrue(self.holds(1030))
        self.assertFalse(self.holds(1031))

    def test_a_late_beat_or_a_zombie_that_stays_does_not_hold(self) -> None:
        for late, ms, good in ((0, 60.0, True), (1, 60.0, False), (None, 60.0, False), (0, None, False)):
            with redirect_stdout(StringIO()):
                figures = boot.Figures(zombies_ms=ms, late_beats=late)
                self.assertEqual(budget.holds_beats(figures), good)

    def test_under_another_kernel_nothing_is_judged(self) -> None:
        self.assertTrue(self.holds(5000, kernel="vmlinuz-2"))

    def test_what_is_recorded_is_the_budget_from_then_on(self) -> None:
        self.assertTrue(self.holds(5000, record=True, compiler="rustc 2"))
        self.assertTrue(self.holds(5100, compiler="rustc 2"))
        self.assertFalse(self.holds(5200, compiler="rustc 2"))


class ListsTest(unittest.TestCase):
    """Which functions a list names, and how many of them an executable has."""

    SYMBOLS = [(0x1000, "_ZN1a3one17h0123456789abcdefE"), (0x1100, "_ZN1a3two17hE"), (0x2000, "_RNvCsAb_1b5three")]

    def test_a_function_is_named_for_any_of_its_blocks_in_the_last_counts(self) -> None:
        early, late = "total 7\n1000 7\n", "total 9\n1104 5\n2000 4\nffffffff81000000 3\n"
        self.assertEqual(lists.names_of(early + late, 1, self.SYMBOLS), {name for _, name in self.SYMBOLS[1:]})
        self.assertEqual(lists.names_of(early + late, 2, self.SYMBOLS), {name for _, name in self.SYMBOLS})

    def test_a_pattern_is_there_if_the_linker_meets_something_by_it(self) -> None:
        names = [name for _, name in self.SYMBOLS]
        self.assertEqual(lists.there_of({"_ZN1a3one17h", "_RNvCs*_1b5three", "_ZN1a?two"}, names), 3)
        self.assertEqual(lists.there_of({"_ZN1a4gone17h", "one17h"}, names), 0)

    def test_what_a_list_has_stays_until_it_is_gone(self) -> None:
        here = "*(.text._ZN1a3one17h* .text.unlikely._ZN1a3one17h*)"
        gone, library = "*(.text._ZN1a4gone17h*)", "*libc.a:read.o(.text)"
        text = f"/* */\nSECTIONS {{\n\t\t{here}\n\t\t{gone}\n\t\t{library}\n"
        self.assertEqual(lists.kept_of(text, [name for _, name in self.SYMBOLS]), {here, library})

    def test_the_lists_of_the_sources_name_functions(self) -> None:
        for name in lists.ALL:
            text = (lists.FOLDER / f"{name}.ld").read_text(encoding="ascii")
            self.assertGreater(len(lists.patterns_of(text)), 50, name)


if __name__ == "__main__":
    unittest.main()
