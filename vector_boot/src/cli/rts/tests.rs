//! The role as its users see it: files in, files out, one line where something is wrong.

use std::os::unix::fs::PermissionsExt;

use rts::Machine;
use rts::sample;

use super::*;

/// A folder with the inputs of a package.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        bench.put("vector_boot", &sample::program(Machine::X86_64));
        bench.put("vb-services", &sample::program(Machine::X86_64));
        bench.put("app", &sample::program(Machine::X86_64));
        bench.put("model.gguf", &neural::default_model());
        bench.put(
            "app.toml",
            b"[[service]]\nname = \"app\"\nimage = \"app\"\n",
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs words in which `@NAME` stands for a file of the folder; gives the code and the answer, or the one line.
    fn run(&self, words: &str) -> Result<(u8, String), String> {
        let folder = format!("{}/", self.folder.path().display());
        let words: Vec<OsString> = words
            .split(' ')
            .map(|word| word.replace('@', &folder).into())
            .collect();
        let mut out = Vec::new();
        match run(&words, &mut out) {
            Ok(code) => Ok((code, String::from_utf8(out).unwrap())),
            Err(Failure::Refused(line)) => {
                assert!(!line.contains('\n'), "{line}");
                Err(line.replace(&folder, "@"))
            }
            Err(Failure::Words(error)) => panic!("{error}"),
        }
    }

    fn pack(&self, out: &str, more: &str) -> Result<(u8, String), String> {
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(" {more}")
        };
        self.run(&format!("pack --binary @vector_boot --services @vb-services --model @model.gguf --out @{out}{more}"))
    }
}

#[test]
fn packing_twice_gives_the_same_bytes_and_no_other_file() {
    let bench = Bench::new();
    bench
        .pack(
            "a.rts",
            "--manifest @app.toml --add app=@app --add notes=@app.toml",
        )
        .unwrap();
    bench
        .pack(
            "b.rts",
            "--manifest @app.toml --add notes=@app.toml --add app=@app",
        )
        .unwrap();
    assert_eq!(bench.get("a.rts"), bench.get("b.rts"));
    let files = std::fs::read_dir(bench.folder.path()).unwrap().count();
    assert_eq!(files, 7);
    assert!(
        bench
            .run("diff @a.rts @b.rts")
            .unwrap()
            .1
            .starts_with("0 of ")
    );
}

#[test]
fn every_part_comes_out_as_it_went_in() {
    let bench = Bench::new();
    bench
        .pack(
            "p.rts",
            "--manifest @app.toml --add app=@app --add notes=@app.toml",
        )
        .unwrap();
    for (part, file) in [
        ("--binary", "vector_boot"),
        ("--tensors", "model.gguf"),
        ("--section vb-services", "vb-services"),
        ("--section app", "app"),
        ("--section notes", "app.toml"),
    ] {
        bench
            .run(&format!("extract @p.rts {part} --out @x"))
            .unwrap();
        assert_eq!(bench.get("x"), bench.get(file), "{part}");
        let mode = std::fs::metadata(bench.path("x"))
            .unwrap()
            .permissions()
            .mode();
        let executable = !matches!(file, "model.gguf" | "app.toml");
        assert_eq!(mode & 0o100 != 0, executable, "{part}");
        std::fs::remove_file(bench.path("x")).unwrap();
    }
    bench.run("extract @p.rts --manifest --out @x").unwrap();
    bench.run("manifest @app.toml --out @y").unwrap();
    assert_eq!(bench.get("x"), bench.get("y"));
    bench.run("extract @p.rts --json --out @x").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bench.get("x")).unwrap();
    assert_eq!(json["service"][0]["uid"], 30_000);
    let said = bench
        .run("extract @p.rts --section nothing --out @z")
        .unwrap_err();
    assert_eq!(
        said,
        "@p.rts: section \"nothing\": not there, expected one of: vb-services, app, notes"
    );
}

#[test]
fn verify_accepts_what_pack_made_and_names_what_is_wrong() {
    let bench = Bench::new();
    bench.pack("p.rts", "").unwrap();
    let (_, said) = bench.run("verify @p.rts").unwrap();
    assert!(
        said.contains(": ok, every byte, ") && said.contains("unsigned"),
        "{said}"
    );
    let bytes = bench.get("p.rts");
    let package = Package::parse(&bytes).unwrap();
    let tensors = usize::try_from(package.tensors().offset).unwrap();
    for (at, expected) in [
        (17, "@bad: binary_size at byte 17: one bit differs"),
        (600, "@bad: elf_blake3 at byte 512: found "),
        (tensors + 9, "@bad: block 1 at byte 65536 (tensors): found "),
        (bytes.len() - 1, "@bad: final padding at byte "),
    ] {
        let mut bad = bytes.clone();
        bad[at] ^= 8;
        bench.put("bad", &bad);
        let said = bench.run("verify @bad").unwrap_err();
        assert!(said.starts_with(expected), "{said}");
    }
    bench.put("bad", &bytes[..bytes.len() - 1]);
    assert!(
        bench
            .run("verify @bad")
            .unwrap_err()
            .starts_with("@bad: package_bytes at byte 56: found ")
    );
    bench.put("bad", &[bytes, vec![7]].concat());
    assert!(
        bench
            .run("verify @bad")
            .unwrap_err()
            .starts_with("@bad: trailing bytes at byte ")
    );
}

#[test]
fn verify_refuses_every_flipped_header_bit_and_every_cut_in_one_line() {
    let bench = Bench::new();
    bench.pack("p.rts", "").unwrap();
    let bytes = bench.get("p.rts");
    let file = std::fs::File::options()
        .write(true)
        .open(bench.path("p.rts"))
        .unwrap();
    for at in 0..rts::HEADER_BYTES {
        for bit in 0..8 {
            file.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64)
                .unwrap();
            let said = bench.run("verify @p.rts").unwrap_err();
            assert!(
                said.contains(" at byte ") && said.contains("expected "),
                "byte {at} bit {bit}: {said}"
            );
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    bench.run("verify @p.rts").unwrap();
    // The library's own test cuts at every byte; here every 61st, and all of the header.
    for len in (0..bytes.len())
        .rev()
        .filter(|len| *len < 600 || len % 61 == 0)
    {
        file.set_len(len as u64).unwrap();
        let said = bench.run("verify @p.rts").unwrap_err();
        assert!(
            said.contains(" at byte ") && said.contains("expected "),
            "{len}: {said}"
        );
    }
}

#[test]
fn verify_refuses_in_the_order_and_the_words_of_a_machine() {
    let bench = Bench::new();
    for name in ["ours", "theirs"] {
        bench.run(&format!("keygen @{name}")).unwrap();
    }
    bench.pack("unsigned.rts", "").unwrap();
    bench.pack("ours.rts", "--sign @ours").unwrap();
    bench.pack("theirs.rts", "--sign @theirs").unwrap();
    bench.pack("arm.rts", "--unchecked --arch aarch64").unwrap();
    // Whose it is comes first: what is not ours may be as broken as it likes behind its header.
    let mut bytes = bench.get("theirs.rts");
    let table = bytes.len() - 5000;
    bytes[table..].fill(0xff);
    bench.put("theirs.rts", &bytes);
    let mut bytes = bench.get("ours.rts");
    let magic = bytes
        .windows(4)
        .rposition(|four| four == rts::manifest::MANIFEST_MAGIC)
        .unwrap();
    bytes[magic + 9] ^= 1;
    bench.put("tampered.rts", &bytes);
    for (words, expected) in [
        (
            "@unsigned.rts --key @ours.pub",
            "signature at byte 328: found none",
        ),
        ("@theirs.rts --key @ours.pub", "key_id at byte 296: found "),
        ("@tampered.rts --key @ours.pub", "manifest_blake3 at byte "),
        (
            "@arm.rts --arch x86_64",
            "machine at byte 50: package is for aarch64, this machine is x86_64",
        ),
    ] {
        let said = bench.run(&format!("verify {words}")).unwrap_err();
        assert!(said.contains(expected), "{words}: {said}");
    }
    bench
        .run("verify @ours.rts --key @ours.pub --arch x86_64")
        .unwrap();
}

#[test]
fn verify_reads_a_plain_package_down_to_its_model() {
    let bench = Bench::new();
    bench.put("plain", &sample::plain(&[1; 777], &bench.get("model.gguf")));
    assert!(
        bench
            .run("verify @plain")
            .unwrap()
            .1
            .contains("plain package, nothing to hash")
    );
    assert!(
        bench
            .run("verify @plain --require-signature")
            .unwrap_err()
            .starts_with("@plain: signature at byte 328: found none")
    );
    bench.put("plain", &sample::plain(&[1; 777], b"GGUF"));
    assert!(
        bench
            .run("verify @plain")
            .unwrap_err()
            .starts_with("@plain: tensors: ")
    );
}

#[test]
fn signatures_are_required_trusted_and_found_broken() {
    let bench = Bench::new();
    bench.run("keygen @one").unwrap();
    bench.run("keygen @two").unwrap();
    assert_eq!(
        std::fs::metadata(bench.path("one"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert!(
        bench
            .run("keygen @one")
            .unwrap_err()
            .starts_with("@one: there already")
    );
    bench.put("three.pub", b"");
    assert!(
        bench
            .run("keygen @three")
            .unwrap_err()
            .starts_with("@three.pub: there already")
    );
    assert!(!bench.path("three").exists());
    bench.pack("p.rts", "").unwrap();
    bench.pack("s.rts", "--sign @one").unwrap();
    assert!(
        bench
            .run("verify @p.rts --require-signature")
            .unwrap_err()
            .contains("signature at byte 328: found none")
    );
    assert!(
        bench
            .run("verify @p.rts --key @one.pub")
            .unwrap_err()
            .contains("found none")
    );
    bench.run("verify @s.rts --require-signature").unwrap();
    bench
        .run("verify @s.rts --key @two.pub --key @one.pub")
        .unwrap();
    assert!(
        bench
            .run("verify @s.rts --key @two.pub")
            .unwrap_err()
            .starts_with("@s.rts: key_id at byte 296: found ")
    );
    bench.run("sign @p.rts --key @one").unwrap();
    assert_eq!(bench.get("p.rts"), bench.get("s.rts"));
    bench.run("sign @p.rts --key @two").unwrap();
    bench.run("verify @p.rts --key @two.pub").unwrap();
    assert!(
        bench
            .run("verify @p.rts --key @one")
            .unwrap_err()
            .starts_with("@one: key file: expected one line: vb-ed25519-public")
    );
}

#[test]
fn a_damaged_package_is_not_signed() {
    let bench = Bench::new();
    bench.run("keygen @one").unwrap();
    bench.pack("p.rts", "").unwrap();
    let mut bytes = bench.get("p.rts");
    bytes[600] ^= 1;
    bench.put("p.rts", &bytes);
    assert!(
        bench
            .run("sign @p.rts --key @one")
            .unwrap_err()
            .starts_with("@p.rts: elf_blake3 at byte 512")
    );
    assert_eq!(bench.get("p.rts"), bytes);
}

#[test]
fn pack_refuses_what_the_machine_could_not_run_and_leaves_nothing() {
    let bench = Bench::new();
    let itself = std::env::current_exe().unwrap();
    if !cfg!(target_feature = "crt-static") {
        let said = bench
            .pack("p.rts", &format!("--add app={}", itself.display()))
            .unwrap_err();
        assert!(
            said.contains("found a program that needs an interpreter, expected a static one"),
            "{said}"
        );
    }
    bench.put("arm", &sample::program(Machine::Aarch64));
    assert_eq!(
        bench.pack("p.rts", "--add app=@arm").unwrap_err(),
        "@arm: found machine aarch64, expected x86_64"
    );
    let said = bench.pack("p.rts", "--arch aarch64").unwrap_err();
    assert_eq!(said, "@vector_boot: found machine x86_64, expected aarch64");
    bench.pack("data.rts", "--add app=@app.toml").unwrap();
    let said = bench
        .pack("p.rts", "--manifest @app.toml --add app=@app.toml")
        .unwrap_err();
    assert!(
        said.starts_with("@p.rts: manifest service app: image: \"app\""),
        "{said}"
    );
    assert!(
        bench
            .pack("p.rts", "--add vb-services=@app")
            .unwrap_err()
            .contains("is taken")
    );
    assert!(
        bench
            .pack("p.rts", "--add A=@app")
            .unwrap_err()
            .contains("name \"A\", expected 1 to 32")
    );
    bench.put("model.gguf", b"GGUF");
    assert!(
        bench
            .pack("p.rts", "")
            .unwrap_err()
            .starts_with("@model.gguf: ")
    );
    assert!(!bench.path("p.rts").exists());
    bench.pack("p.rts", "--unchecked").unwrap();
    assert!(
        bench
            .run("verify @p.rts")
            .unwrap_err()
            .starts_with("@p.rts: tensors: ")
    );
}

#[test]
fn diff_finds_the_blocks_that_changed() {
    let bench = Bench::new();
    bench.pack("a.rts", "").unwrap();
    let mut elf = bench.get("vb-services");
    elf.extend_from_slice(b"changed");
    bench.put("vb-services", &elf);
    bench.pack("b.rts", "").unwrap();
    let (code, said) = bench.run("diff @a.rts @b.rts").unwrap();
    assert_eq!(code, 1);
    let package = bench.get("a.rts");
    let section = Package::parse(&package)
        .unwrap()
        .section("vb-services")
        .unwrap();
    let block = section.offset / BLOCK_BYTES;
    assert!(
        said.starts_with(&format!(
            "blocks {block}..{}: 65536 bytes from {}\n1 of ",
            block + 1,
            section.offset
        )),
        "{said}"
    );
}

#[test]
fn inspect_shows_the_same_to_people_and_programs() {
    let bench = Bench::new();
    bench.pack("p.rts", "").unwrap();
    let (_, json) = bench.run("inspect @p.rts --json").unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (_, text) = bench.run("inspect @p.rts").unwrap();
    assert_eq!(json["binary"]["linkage"], "static");
    assert_eq!(json["manifest"]["service"][2]["pass"][1], "root.share");
    assert!(text.contains(json["digest"].as_str().unwrap()));
    assert!(
        text.contains("service   gateway: vb-services gateway, uid 903, needs ledger capacity"),
        "{text}"
    );
    let (_, said) = bench.pack("q.rts", "").unwrap();
    assert!(said.contains(&format!("digest {}", json["digest"].as_str().unwrap())));
}

#[test]
fn a_wrong_manifest_is_one_line_that_names_the_field() {
    let bench = Bench::new();
    bench.put(
        "app.toml",
        b"[[service]]\nname = \"app\"\nimage = \"app\"\ncolour = 3\n",
    );
    let said = bench.run("manifest @app.toml --out @m").unwrap_err();
    assert!(
        said.starts_with("@app.toml: manifest source: line 4: unknown field `colour`"),
        "{said}"
    );
    assert!(!bench.path("m").exists());
}
