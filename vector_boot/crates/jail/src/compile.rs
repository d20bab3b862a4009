//! From a list of calls to a short program of classic BPF.
//!
//! The numbers are searched in a balanced tree of ranges, so a call costs seven or eight tests instead of a
//! hundred, and the program has as few constants as there are ranges: the kernel's hardened compiler hides each
//! of them from whoever could guess it, and its time grows with their square. One for all is also what lets the
//! kernel find out in time which calls are always allowed, so that it does not run the program for them.
//!
//! Jumps of classic BPF lead forward only, so the program is made from its end. Start with [`program`].

use crate::calls::{Rule, Test};
use std::collections::BTreeMap;
use sys::seccomp::Instruction;

// linux/filter.h: classic BPF, with the offsets of `struct seccomp_data`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// linux/audit.h: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64.
const OURS: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};
/// Farthest that a test can jump is 255; some room for what is put between.
const FAR: usize = 250;

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This answer, whatever the arguments are.
    Always(u32),
    /// Allowed if one of these rules holds.
    Where(Vec<Rule>),
}

/// The program that gives each call its verdict; those that are not named, and all above `newest`, get their own.
/// Another architecture's calls kill the process.
pub(crate) fn program(
    calls: &BTreeMap<u32, Verdict>,
    others: u32,
    newest: u32,
    above: u32,
) -> Vec<Instruction> {
    let mut code = Code::default();
    let mut ranges = vec![(0, Verdict::Always(others))];
    for (number, verdict) in calls.iter().filter(|(number, _)| **number <= newest) {
        begin(&mut ranges, *number, verdict.clone());
        begin(&mut ranges, *number + 1, Verdict::Always(others));
    }
    begin(&mut ranges, newest + 1, Verdict::Always(above));
    let mut places = Vec::with_capacity(ranges.len());
    for (from, verdict) in &ranges {
        let place = match verdict {
            Verdict::Always(answer) => code.answer(*answer),
            Verdict::Where(rules) => code.rules(rules, others),
        };
        places.push((*from, place));
    }
    let tree = code.tree(&places);
    code.begin_at(tree);
    code.push(LOAD, CALL, 0, 0);
    let entry = code.last();
    let kill = code.answer(libc::SECCOMP_RET_KILL_PROCESS);
    code.test(JUMP_EQ, OURS, entry, kill);
    code.push(LOAD, ARCHITECTURE, 0, 0);
    code.finish()
}

/// Adds a range that begins here; one with the verdict of the range before is none, and the last word holds.
fn begin(ranges: &mut Vec<(u32, Verdict)>, from: u32, verdict: Verdict) {
    if ranges.last().is_some_and(|(at, _)| *at == from) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, before)| *before != verdict) {
        ranges.push((from, verdict));
    }
}

/// A program from its end: an instruction's place is how many come behind it.
#[derive(Debug, Default)]
struct Code {
    reversed: Vec<Instruction>,
    answers: BTreeMap<u32, usize>,
}

impl Code {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.reversed.push(Instruction { code, jt, jf, k });
    }

    /// The place of the instruction that was put in front last.
    fn last(&self) -> usize {
        self.reversed.len().saturating_sub(1)
    }

    /// The place of an instruction that ends with this answer; each is there once.
    fn answer(&mut self, answer: u32) -> usize {
        if let Some(place) = self.answers.get(&answer) {
            return *place;
        }
        self.push(RETURN, answer, 0, 0);
        self.answers.insert(answer, self.last());
        self.last()
    }

    /// A place within a test's reach from which the program goes on at `place`.
    fn near(&mut self, place: usize) -> usize {
        if self.reversed.len().saturating_sub(place) <= FAR {
            return place;
        }
        self.jump(place);
        self.last()
    }

    fn jump(&mut self, place: usize) {
        let over = self.reversed.len().saturating_sub(place + 1);
        self.push(JUMP, u32::try_from(over).unwrap_or(u32::MAX), 0, 0);
    }

    /// Makes what comes in front go on at `place`.
    fn begin_at(&mut self, place: usize) {
        if place != self.last() {
            self.jump(place);
        }
    }

    /// A test in front of all: goes on at `yes` or at `no`. Answers its place.
    fn test(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        let yes = self.near(yes);
        let no = self.near(no);
        let over = |place: usize| {
            let over = self.reversed.len().saturating_sub(place + 1);
            u8::try_from(over).unwrap_or(u8::MAX)
        };
        let (jt, jf) = (over(yes), over(no));
        self.push(code, k, jt, jf);
        self.last()
    }

    /// Finds the range that a value is in; ranges begin at these values and end before the next.
    fn tree(&mut self, ranges: &[(u32, usize)]) -> usize {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low, high) {
            ([], [(_, place), ..]) => *place,
            (_, [(from, _), ..]) => {
                let above = self.tree(high);
                let below = self.tree(low);
                self.test(JUMP_GE, *from, above, below)
            }
            // No ranges are no program; there is always one.
            (_, []) => 0,
        }
    }

    /// Allows where one of the rules holds, else answers `others`.
    fn rules(&mut self, rules: &[Rule], others: u32) -> usize {
        let (yes, no) = (self.answer(libc::SECCOMP_RET_ALLOW), self.answer(others));
        if let Some((at, values)) = one_of(rules) {
            let mut ranges = vec![(0, no)];
            for value in values {
                for (from, place) in [(Some(value), yes), (value.checked_add(1), no)] {
                    let Some(from) = from else { continue };
                    if ranges.last().is_some_and(|(at, _)| *at == from) {
                        ranges.pop();
                    }
                    if ranges.last().is_none_or(|(_, before)| *before != place) {
                        ranges.push((from, place));
                    }
                }
            }
            let tree = self.tree(&ranges);
            self.begin_at(tree);
            self.push(LOAD, low(at), 0, 0);
            return self.last();
        }
        rules.iter().rev().fold(no, |next, rule| {
            rule.iter()
                .rev()
                .fold(yes, |good, test| self.one(*test, good, next))
        })
    }

    /// One test of an argument.
    fn one(&mut self, test: Test, yes: usize, no: usize) -> usize {
        match test {
            Test::Is(at, value) => {
                self.test(JUMP_EQ, value, yes, no);
                self.push(LOAD, low(at), 0, 0);
            }
            Test::Not(at, value) => {
                self.test(JUMP_EQ, value, no, yes);
                self.push(LOAD, low(at), 0, 0);
            }
            Test::Bits(at, mask, value) => {
                self.test(JUMP_EQ, value, yes, no);
                self.push(AND, mask, 0, 0);
                self.push(LOAD, low(at), 0, 0);
            }
            Test::Null(at) => {
                let no = self.near(no);
                self.test(JUMP_EQ, 0, yes, no);
                self.push(LOAD, low(at), 0, 0);
                let rest = self.last();
                self.test(JUMP_EQ, 0, rest, no);
                self.push(LOAD, low(at) + 4, 0, 0);
            }
        }
        self.last()
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}

/// Where the lower half of an argument lies; both architectures are little-endian.
fn low(at: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(at)
}

/// The values that one argument may have, in order, if the rules say no more than that.
fn one_of(rules: &[Rule]) -> Option<(u8, Vec<u32>)> {
    let mut at = None;
    let mut values = Vec::with_capacity(rules.len());
    for rule in rules {
        match rule.as_slice() {
            [Test::Is(place, value)] if *at.get_or_insert(*place) == *place => values.push(*value),
            _ => return None,
        }
    }
    values.sort_unstable();
    values.dedup();
    Some((at?, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Calls;
    use crate::{Exec, Profile};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    /// Runs a program over one call, as the kernel does.
    fn run(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            CALL => number,
            ARCHITECTURE => OURS,
            _ => {
                let value = arguments[((offset - ARGUMENTS) / 8) as usize];
                if (offset - ARGUMENTS).is_multiple_of(8) {
                    value as u32
                } else {
                    (value >> 32) as u32
                }
            }
        };
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let holds = match i.code {
                LOAD => {
                    a = load(i.k);
                    continue;
                }
                AND => {
                    a &= i.k;
                    continue;
                }
                JUMP => {
                    at += i.k as usize;
                    continue;
                }
                RETURN => return i.k,
                JUMP_EQ => a == i.k,
                JUMP_GE => a >= i.k,
                0x25 => a > i.k,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { i.jt } else { i.jf });
        }
    }

    /// The same list by another compiler.
    fn oracle(calls: &BTreeMap<i64, Vec<Rule>>) -> Vec<Instruction> {
        let condition = |test: &Test| {
            let (at, len, op, value) = match *test {
                Test::Is(at, v) => (at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, v),
                Test::Bits(at, mask, v) => {
                    let op = SeccompCmpOp::MaskedEq(mask.into());
                    (at, SeccompCmpArgLen::Dword, op, v)
                }
                Test::Not(at, v) => (at, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, v),
                Test::Null(at) => (at, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
            };
            SeccompCondition::new(at, len, op, value.into()).unwrap()
        };
        let rule = |rule: &Rule| SeccompRule::new(rule.iter().map(condition).collect()).unwrap();
        let list = SeccompFilter::new(
            calls
                .iter()
                .map(|(n, rules)| (*n, rules.iter().map(rule).collect()))
                .collect(),
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = list.unwrap().try_into().unwrap();
        let plain = |i: &seccompiler::sock_filter| Instruction {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        };
        program.iter().map(plain).collect()
    }

    /// Values that rules look for, those beside them, and some that nobody looks for.
    fn values(rules: &[Rule]) -> Vec<u64> {
        let mut values = vec![0, 1, u64::from(u32::MAX), 1 << 32, 1 << 40 | 2, u64::MAX];
        for test in rules.iter().flatten() {
            let (Test::Is(_, v) | Test::Bits(_, _, v) | Test::Not(_, v)) = *test else {
                continue;
            };
            let v = u64::from(v);
            values.extend([v, v + 1, v.saturating_sub(1), v | 1 << 33, v | 0x8_0000]);
            if let Test::Bits(_, mask, _) = *test {
                values.extend((0..32).map(|bit| v | 1 << bit));
                values.push(v | u64::from(!mask));
            }
        }
        values.sort_unstable();
        values.dedup();
        values
    }

    #[test]
    fn every_call_of_every_profile_is_judged_as_another_compiler_does() {
        for profile in Profile::all() {
            for exec in [Exec::Never, Exec::Parked(63)] {
                let calls = Calls::of(profile, exec).into_rules();
                let ours = crate::seccomp::list(&calls, libc::SECCOMP_RET_ALLOW);
                let theirs = oracle(&calls);
                for number in
                    (0..=crate::seccomp::NEWEST).filter(|n| !crate::seccomp::is_absent(*n))
                {
                    let rules = calls.get(&i64::from(number)).map_or(&[][..], Vec::as_slice);
                    let values = values(rules);
                    let looked: Vec<u8> = rules
                        .iter()
                        .flatten()
                        .map(|test| match *test {
                            Test::Is(at, _)
                            | Test::Bits(at, _, _)
                            | Test::Not(at, _)
                            | Test::Null(at) => at,
                        })
                        .collect();
                    // Every pair of values in the first and the last argument that is looked at; the middle
                    // one goes through all values beside the first rule's.
                    let (first, last) = (looked.iter().min(), looked.iter().max());
                    for a in &values {
                        for b in &values {
                            let mut arguments = [*b; 6];
                            if let (Some(first), Some(last)) = (first, last) {
                                arguments[usize::from(*first)] = *a;
                                arguments[usize::from(*last)] = *b;
                            }
                            assert_eq!(
                                run(&ours, number, arguments),
                                run(&theirs, number, arguments),
                                "{profile:?} {exec:?}: call {number} {arguments:x?}"
                            );
                            if rules.is_empty() {
                                break;
                            }
                        }
                        if rules.is_empty() {
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_newer_and_what_is_another_architectures_is_not_on_a_list() {
        let calls = Calls::of(Profile::Foreign, Exec::Never).into_rules();
        let program = crate::seccomp::list(&calls, 7);
        for number in [crate::seccomp::NEWEST + 1, 1 << 30, u32::MAX] {
            assert_eq!(run(&program, number, [0; 6]), 7);
        }
        assert_eq!(
            program.get(1).map(|i| (i.code, i.k)),
            Some((JUMP_EQ, OURS)),
            "the architecture comes first"
        );
    }

    /// The kernel's time for a filter grows with the square of this; a list may grow, by reason.
    #[test]
    fn the_longest_list_is_short() {
        for profile in Profile::all() {
            let calls = Calls::of(profile, Exec::Parked(63)).into_rules();
            let length = crate::seccomp::list(&calls, 0).len();
            assert!(length <= 250, "{profile:?}: {length} instructions");
        }
    }

    #[test]
    fn a_tree_that_is_wider_than_a_jump_still_finds_every_number() {
        let calls: BTreeMap<u32, Verdict> = (0..600u32)
            .map(|n| (n * 2, Verdict::Always(n + 10)))
            .collect();
        let program = program(&calls, 1, 2000, 2);
        for number in 0..2000u32 {
            let expected = if number % 2 == 0 && number < 1200 {
                number / 2 + 10
            } else {
                1
            };
            assert_eq!(run(&program, number, [0; 6]), expected, "{number}");
        }
        assert_eq!(run(&program, 2001, [0; 6]), 2);
    }
}
