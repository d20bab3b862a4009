//! `include/vector_boot.h` is what cbindgen makes of the exports. `VB_BLESS=1` writes it anew.

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};
use std::path::Path;

/// What no single declaration says.
const HEADER: &str = "\
/*
 * The neural runtime of Vector Boot in the caller's process: models and packages, pixel programs, registers.
 * Made by cbindgen of vector_boot/src/ffi; do not edit.
 *
 * docs/c-abi.md says what each side owes; in short:
 *  - Functions may be called from any thread at any time. None ends the process or throws.
 *  - A negative result is one of the codes below, but for neural_execute_pixels, which has its own;
 *    neural_last_error has the words, per thread.
 *  - Where a function takes (buffer, length) and returns a count, it writes as much as there is room for and
 *    returns how much there is in all; (NULL, 0) asks for the count alone. Text has no NUL behind it.
 *  - Text that goes in ends with a NUL and is UTF-8, but for paths, which are any bytes.
 *  - A file must not be shortened or written to while it is open.
 */";
/// The sources of the exports, in the header's order.
const SOURCES: &[&str] = &[
    "src/ffi/failure.rs",
    "src/ffi.rs",
    "src/ffi/runtime.rs",
    "src/ffi/evolution.rs",
];
/// Public inside the library only.
const INTERNAL: &[&str] = &["MESSAGE_BYTES_MAX"];

fn generated(root: &Path) -> String {
    let mut config = Config {
        header: Some(HEADER.to_owned()),
        include_guard: Some("VECTOR_BOOT_H".to_owned()),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        cpp_compat: true,
        language: Language::C,
        style: Style::Type,
        tab_width: 4,
        documentation_style: DocumentationStyle::C99,
        usize_is_size_t: true,
        line_length: 110,
        ..Config::default()
    };
    config.export.exclude = INTERNAL.iter().map(|name| (*name).to_owned()).collect();
    let builder = SOURCES
        .iter()
        .fold(Builder::new().with_config(config), |builder, source| {
            builder.with_src(root.join(source))
        });
    let mut text = Vec::new();
    builder
        .generate()
        .expect("the exports are readable")
        .write(&mut text);
    String::from_utf8(text).expect("a header is text")
}

#[test]
fn the_header_is_what_the_exports_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/vector_boot.h");
    let made = generated(root);
    if std::env::var_os("VB_BLESS").is_some() {
        std::fs::write(&path, &made).expect("the header is writable");
    }
    let held = std::fs::read_to_string(&path).expect("the header");
    assert!(
        held == made,
        "include/vector_boot.h is not made of these exports; VB_BLESS=1 cargo test -p vector_boot --test header"
    );
}
