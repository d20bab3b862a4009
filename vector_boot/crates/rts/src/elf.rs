//! What an executable inside a package really is.
//!
//! A thin reading of the ELF header and segments with the `object` crate. Start with [`inspect`].
//! Never here: running or relocating anything.

use core::fmt;

use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

/// Segments of one program: linkers write about ten.
const SEGMENTS_MAX: usize = 128;

/// The processor that an executable is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `EM_X86_64`.
    X86_64,
    /// `EM_AARCH64`.
    Aarch64,
}

impl Machine {
    /// The machine that this code was built for; x86-64 on any third one.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// From ELF's number.
    pub fn from_elf(number: u16) -> Option<Self> {
        match number {
            62 => Some(Self::X86_64),
            183 => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// ELF's number.
    pub fn to_elf(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    /// The name as in `--arch` and in target triples.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// At a fixed address, needing nothing.
    Static,
    /// At any address, needing nothing.
    StaticPie,
    /// With an interpreter that loads its libraries.
    Dynamic,
    /// A library, not a program.
    Library,
}

/// What [`inspect`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The processor it is for.
    pub machine: Machine,
    /// How it is linked.
    pub linkage: Linkage,
}

impl Elf {
    /// Refuses what the machine cannot run: another processor's program, and whatever needs a loader.
    pub fn check_static(self, machine: Machine) -> Result<(), ElfProblem> {
        self.check_machine(machine)?;
        match self.linkage {
            Linkage::Static | Linkage::StaticPie => Ok(()),
            Linkage::Dynamic => Err(ElfProblem::Interpreter),
            Linkage::Library => Err(ElfProblem::Library),
        }
    }

    /// Refuses another processor's program.
    pub fn check_machine(self, machine: Machine) -> Result<(), ElfProblem> {
        if self.machine == machine {
            return Ok(());
        }
        Err(ElfProblem::OtherMachine {
            found: self.machine,
            expected: machine,
        })
    }
}

/// Why an executable is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfProblem {
    /// No ELF header.
    #[error("found no ELF header, expected a static ELF executable")]
    NotElf,
    /// 32 bits or big-endian.
    #[error("found ELF of another class, expected 64 bits little-endian")]
    Class,
    /// Neither program nor library.
    #[error("found ELF type {0}, expected 2 (EXEC) or 3 (DYN)")]
    Type(u16),
    /// A processor that we do not boot on.
    #[error("found ELF machine {0}, expected 62 (x86_64) or 183 (aarch64)")]
    Machine(u16),
    /// A processor other than the package's.
    #[error("found machine {found}, expected {expected}")]
    OtherMachine {
        /// The program's.
        found: Machine,
        /// The package's.
        expected: Machine,
    },
    /// A header or segment reaches past the file's end.
    #[error("found a segment or header past the end of the file, expected the whole program")]
    Truncated,
    /// Nothing to load, or more segments than [`SEGMENTS_MAX`].
    #[error("found {0} segments, expected 1 to 128 with something to load")]
    Segments(usize),
    /// A dynamic program.
    #[error(
        "found a program that needs an interpreter, expected a static one: the machine has no loader and no libraries"
    )]
    Interpreter,
    /// A shared library.
    #[error("found a shared library, expected a static program")]
    Library,
}

/// Whether `bytes` begin like an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads what kind of program `bytes` are.
pub fn inspect(bytes: &[u8]) -> Result<Elf, ElfProblem> {
    if !is_elf(bytes) {
        return Err(ElfProblem::NotElf);
    }
    // EI_CLASS and EI_DATA: two bits of 64, little-endian.
    if bytes.get(4..6) != Some(&[2, 1]) {
        return Err(ElfProblem::Class);
    }
    let file = FileHeader64::<Endianness>::parse(bytes).map_err(|_| ElfProblem::Truncated)?;
    let le = Endianness::Little;
    let kind = file.e_type(le);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(ElfProblem::Type(kind.0));
    }
    let machine = file.e_machine(le).0;
    let machine = Machine::from_elf(machine).ok_or(ElfProblem::Machine(machine))?;
    let segments = file
        .program_headers(le, bytes)
        .map_err(|_| ElfProblem::Truncated)?;
    if segments.len() > SEGMENTS_MAX {
        return Err(ElfProblem::Segments(segments.len()));
    }
    let mut interpreter = false;
    let mut libraries = false;
    let mut loads = 0_usize;
    for segment in segments {
        let kind = segment.p_type(le);
        if kind == elf::PT_LOAD || kind == elf::PT_INTERP {
            segment
                .data(le, bytes)
                .map_err(|()| ElfProblem::Truncated)?;
        }
        loads = loads.saturating_add(usize::from(kind == elf::PT_LOAD));
        interpreter |= kind == elf::PT_INTERP;
        let entries = segment
            .dynamic(le, bytes)
            .map_err(|_| ElfProblem::Truncated)?
            .unwrap_or_default();
        libraries |= entries.iter().any(|entry| entry.tag(le) == elf::DT_NEEDED);
    }
    if loads == 0 {
        return Err(ElfProblem::Segments(segments.len()));
    }
    let linkage = match (interpreter, libraries) {
        (true, _) => Linkage::Dynamic,
        (false, true) => Linkage::Library,
        (false, false) if file.e_entry(le) == 0 => Linkage::Library,
        (false, false) if kind == elf::ET_EXEC => Linkage::Static,
        (false, false) => Linkage::StaticPie,
    };
    Ok(Elf { machine, linkage })
}
