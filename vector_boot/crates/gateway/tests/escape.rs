//! The promise of the file tools: no byte is returned that does not lie below the root.
//!
//! A model of the file system judges random paths, and a renamer races against reads. Start with
//! [`a_renamer_never_makes_a_secret_readable`].

use gateway::reality::{RootMode, Score};
use gateway::roots::{Root, Roots};
use gateway::tools::{self, Meter, World};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What a leak would show.
const SECRET: &str = "SECRET";
/// Reads of the race, each with its own resolution and opening.
const TRIES: usize = 20_000;

fn world(folder: &Path, mode: RootMode) -> World {
    let path = folder.join("root").canonicalize().unwrap();
    let directory = fs::File::open(&path).unwrap().into();
    let root = Root::new("root".to_owned(), mode, Some(path), directory).unwrap();
    World {
        roots: Roots(vec![root]),
        proc: fs::File::open("/proc").ok(),
    }
}

/// Score and content of one read.
fn read(world: &World, path: &str) -> (Score, Option<String>) {
    let params = match json!({"path": path, "root": "root"}) {
        Value::Object(params) => params,
        _ => Map::new(),
    };
    let prepared = (tools::find("fs_read").unwrap().prepare)(world, &params).unwrap();
    assert_eq!(prepared.act.is_some(), prepared.reality.passes());
    let content = prepared.act.map(|act| {
        let data = act(&mut Meter::default());
        data.map_or(String::new(), |d| d["content"].as_str().unwrap().to_owned())
    });
    (prepared.reality.score, content)
}

/// A root with a bit of everything, and a secret beside it.
fn everything(folder: &Path) {
    for name in ["root/a/b", "outside"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("outside/secret"), SECRET).unwrap();
    fs::write(folder.join("root/f"), "f").unwrap();
    fs::write(folder.join("root/a/b/f"), "abf").unwrap();
    symlink("../outside", folder.join("root/out")).unwrap();
    symlink("../../outside/secret", folder.join("root/a/s")).unwrap();
    symlink("/proc/self/root", folder.join("root/magic")).unwrap();
    symlink("b", folder.join("root/a/inner")).unwrap();
    fs::hard_link(folder.join("outside/secret"), folder.join("root/hard")).unwrap();
    let pipe = folder.join("root/pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(pipe)
            .status()
            .unwrap()
            .success()
    );
}

/// What the path leads to by the plain rules: lexical steps that may not leave the root, through
/// directories only, without links.
fn model(root: &Path, path: &str) -> Option<PathBuf> {
    if path.starts_with('/') || path.contains('\0') || path.len() > 4000 {
        return None;
    }
    let mut at = vec![root.to_path_buf()];
    let trailing = path.ends_with('/');
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let here = at.last().unwrap();
        if !fs::symlink_metadata(here).ok()?.is_dir() {
            return None;
        }
        match part {
            "." => {}
            ".." if at.len() == 1 => return None,
            ".." => drop(at.pop()),
            name => {
                let next = here.join(name);
                let found = fs::symlink_metadata(&next).ok()?;
                if found.file_type().is_symlink() {
                    return None;
                }
                at.push(next);
            }
        }
    }
    let last = at.pop().unwrap();
    (!trailing || last.is_dir()).then_some(last)
}

fn path_of_parts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just(".."), 1 => Just("."), 1 => Just(""), 3 => Just("a"), 3 => Just("b"), 4 => Just("f"),
        2 => Just("out"), 2 => Just("s"), 1 => Just("magic"), 1 => Just("inner"), 1 => Just("hard"),
        1 => Just("pipe"), 1 => Just("secret"), 1 => Just("outside"), 1 => Just("root"), 1 => Just("\0"),
        1 => Just("proc"), 1 => Just("self"), 1 => Just("fd"), 1 => Just("0"),
    ];
    (any::<bool>(), proptest::collection::vec(part, 1..8)).prop_map(|(absolute, parts)| {
        let start = if absolute && parts.len() > 3 { "/" } else { "" };
        format!("{start}{}", parts.join("/"))
    })
}

#[test]
fn random_paths_read_exactly_what_the_model_allows() {
    let folder = tempfile::tempdir().unwrap();
    everything(folder.path());
    let world = world(folder.path(), RootMode::ReadWrite);
    let root = folder.path().join("root");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 8_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&path_of_parts(), |path| {
            let (score, content) = read(&world, &path);
            prop_assert_ne!(content.as_deref(), Some(SECRET));
            let target = model(&root, &path);
            let expected = target
                .as_ref()
                .filter(|t| t.ends_with("f"))
                .map(|t| fs::read_to_string(t).unwrap());
            prop_assert_eq!(&content, &expected);
            let exists = score == Score::USABLE || score == Score::EXISTS;
            prop_assert_eq!(exists, target.is_some());
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_renamer_never_makes_a_secret_readable() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["root/d", "root/keep", "outside"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("outside/f"), SECRET).unwrap();
    fs::write(at("root/keep/f"), "good").unwrap();
    fs::write(at("root/d/f"), "good").unwrap();
    symlink(at("outside"), at("link-to-folder")).unwrap();
    symlink(at("outside/f"), at("link-to-file")).unwrap();
    let world = world(folder.path(), RootMode::ReadWrite);
    let stop = AtomicBool::new(false);
    let (mut good, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A folder gives its name to a link and takes it back; a file does the same.
            while !stop.load(Relaxed) {
                for (name, link) in [
                    ("root/d", "link-to-folder"),
                    ("root/keep/f", "link-to-file"),
                ] {
                    let (away, link) = (at("away"), at(link));
                    fs::rename(at(name), &away).unwrap();
                    fs::rename(&link, at(name)).unwrap();
                    std::thread::yield_now();
                    fs::rename(at(name), &link).unwrap();
                    fs::rename(&away, at(name)).unwrap();
                }
            }
        });
        for n in 0..TRIES {
            let path = ["d/f", "keep/f", "d/../d/f", "keep/../../outside/f"][n % 4];
            match read(&world, path) {
                (_, None) => refused += 1,
                (_, Some(content)) => {
                    assert_eq!(content, "good", "{path}");
                    good += 1;
                }
            }
        }
        stop.store(true, Relaxed);
    });
    // Both sides of the race were met, so the race was one.
    assert!(
        good > TRIES / 100 && refused > TRIES / 4,
        "{good} good, {refused} refused"
    );
}

#[test]
fn magic_links_devices_and_pipes_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    everything(folder.path());
    let world_here = world(folder.path(), RootMode::ReadWrite);
    for path in ["pipe", "magic/etc/passwd", "out/secret", "a/s", "hard"] {
        assert_eq!(read(&world_here, path).1, None, "{path}");
    }
    // Even a root that holds such things gives none of them.
    for root in ["/proc/self", "/dev"] {
        let directory = fs::File::open(root).unwrap().into();
        let root = Root::new("root".to_owned(), RootMode::ReadOnly, None, directory).unwrap();
        let world = World {
            roots: Roots(vec![root]),
            proc: None,
        };
        for path in [
            "root/etc/passwd",
            "exe",
            "fd/0",
            "cwd/x",
            "null",
            "zero",
            "tty",
            "random",
        ] {
            assert_eq!(read(&world, path).1, None, "{path}");
        }
    }
}

#[test]
fn a_write_under_a_renamer_stays_below_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["root/d", "outside"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("outside/f"), SECRET).unwrap();
    symlink(at("outside"), at("link")).unwrap();
    let world = world(folder.path(), RootMode::ReadWrite);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                fs::rename(at("root/d"), at("root/away")).unwrap();
                fs::rename(at("link"), at("root/d")).unwrap();
                std::thread::yield_now();
                fs::rename(at("root/d"), at("link")).unwrap();
                fs::rename(at("root/away"), at("root/d")).unwrap();
            }
        });
        for n in 0..1_000 {
            let mode = ["replace", "append"][n % 2];
            let params = json!({"path": "d/f", "root": "root", "content": "w", "create": true, "mode": mode});
            let params = params.as_object().unwrap();
            let prepared = (tools::find("fs_write").unwrap().prepare)(&world, params).unwrap();
            if let Some(act) = prepared.act {
                // The directory may have moved away inside the root; then the name is free there.
                let _ = act(&mut Meter::default());
            }
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(fs::read_to_string(at("outside/f")).unwrap(), SECRET);
    assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 1);
}
