//! Links the static `vector_boot` at a fixed address; `docs/decisions/fixed-address.md` says what that buys and costs.
//!
//! The services stay movable, and so does everything that is not linked statically.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=beat.ld");
    println!("cargo:rerun-if-changed=near.ld");
    println!("cargo:rerun-if-changed=start.ld");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    // The last word of its kind wins with the compiler's driver: these stand behind rustc's `-static-pie`.
    // The third means nothing to a linker; `qemu/link-aarch64` looks for it.
    for word in ["-static", "-no-pie", "-DFIXED_ADDRESS"] {
        println!("cargo:rustc-link-arg-bin=vector_boot={word}");
    }
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        // A function that several name lies where the first has it.
        for list in ["beat.ld", "near.ld", "start.ld"] {
            println!("cargo:rustc-link-arg-bin=vector_boot=-Wl,-T,{folder}/{list}");
        }
    }
}
