//! What QEMU's emulation must not do: run code on that its guest has changed (`EMULATION` in `qemu/machine/guest.py`).

use std::path::PathBuf;

use system_tests::machine::{BOOT_LIMIT, Options, Watched};
use system_tests::{initramfs, program};

/// Boots a kernel that does nothing but patch itself, three times.
pub fn drill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let program = program::compile_c("patcher", folder);
    let options = Options {
        initramfs: Some(initramfs::with_program(folder, "init", &program)),
        package: Some(PathBuf::from("none")),
        data: folder.join("data.img"),
        ..Options::default()
    };
    for _ in 0..3 {
        let machine = Watched::boot(&options);
        let line = machine.serial().wait_for_line("patched ", BOOT_LIMIT);
        println!("{line}");
        let times = line.split(' ').find_map(|word| word.parse::<u64>().ok());
        assert!(times.is_some_and(|times| times > 100), "{line}");
        machine.wait_for_end();
    }
}
