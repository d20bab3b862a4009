//! Small inputs for tests, here and in other rooms: a program and a plain package.

use crate::elf::Machine;

/// The smallest static program: an ELF header, one segment to load, a few bytes of code.
pub fn program(machine: Machine) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend_from_slice(&2_u16.to_le_bytes());
    elf.extend_from_slice(&machine.to_elf().to_le_bytes());
    elf.extend_from_slice(&1_u32.to_le_bytes());
    for word in [0x40_0078_u64, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&5_u32.to_le_bytes());
    for word in [0, 0x40_0000, 0x40_0000, 0x80, 0x80, 0x1000_u64] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(b"\x0f\x05\x90\x90\x90\x90\x90\x90");
    elf
}

/// As the seed's text says: 40 bytes, zeros to 512, binary, tensors.
pub fn plain(binary: &[u8], tensors: &[u8]) -> Vec<u8> {
    let mut bytes = b"RTS\x01\0\0\0\x01".to_vec();
    let (n, m) = (binary.len() as u64, tensors.len() as u64);
    for word in [512, n, 512 + n, m] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.resize(512, 0);
    bytes.extend_from_slice(binary);
    bytes.extend_from_slice(tensors);
    bytes
}
