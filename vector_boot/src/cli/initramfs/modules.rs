//! Which kernel modules the archive carries, and in which order PID 1 loads them.
//!
//! A kernel package that was only unpacked has no `modules.dep`, so the order comes from what each module says
//! of itself: the `.modinfo` section's `name=`, `depends=` and `softdep=pre:`.
//! Never here: loading a module. Start with [`Index::plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

/// Folders below `kernel/`; Debian's deepest module lies 7 down.
const DEPTH_MAX: usize = 16;
/// Debian's generic kernel has about 4,300 modules.
const MODULES_MAX: usize = 20_000;
/// The largest of Debian's modules is below 10 MiB.
const MODULE_BYTES_MAX: u64 = 64 << 20;
/// The kernel's own limit: `MODULE_NAME_LEN` is 56 with the final zero byte.
const NAME_BYTES_MAX: usize = 55;

/// Why no load order exists.
#[derive(Debug, thiserror::Error)]
pub(super) enum ModulesError {
    #[error("kernel modules {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("kernel modules {path}: over {MODULES_MAX} files or {DEPTH_MAX} folders deep")]
    TooMany { path: PathBuf },
    #[error("kernel module {path}: {bytes} bytes, limit {MODULE_BYTES_MAX}")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("kernel module {path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error(
        "kernel module {name}: not among the kernel's modules and not built in (wanted by {wanted_by})"
    )]
    Missing { name: String, wanted_by: String },
    #[error("kernel modules depend on each other in a circle: {}", circle.join(" -> "))]
    Circle { circle: Vec<String> },
}

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// The kernel's name for it, with underscores.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// What to carry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Each module after everything that it needs.
    pub(super) order: Vec<Module>,
    /// Wanted, but part of the kernel itself.
    pub(super) built_in: Vec<String>,
}

/// The modules of one kernel: where each lies, and which are built in.
pub(super) struct Index {
    paths: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Index {
    /// Looks through a kernel's module folder (`/lib/modules/RELEASE`); opens no module yet.
    pub(super) fn scan(root: &Path) -> Result<Self, ModulesError> {
        let mut paths = BTreeMap::new();
        walk(root, 0, &mut paths)?;
        let list = root.join("modules.builtin");
        let built_in = match std::fs::read_to_string(&list) {
            Ok(text) => text
                .lines()
                .filter_map(|line| module_name(Path::new(line)))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeSet::new(),
            Err(source) => return Err(ModulesError::Read { path: list, source }),
        };
        Ok(Self { paths, built_in })
    }

    /// Whether the kernel has this as a module.
    pub(super) fn has(&self, name: &str) -> bool {
        self.paths.contains_key(&normal(name))
    }

    /// The wanted modules and what they need, in the order in which they load.
    pub(super) fn plan(&self, wanted: &[String]) -> Result<Plan, ModulesError> {
        let needs = |name: &str| match self.paths.get(name) {
            Some(path) => modinfo_of(path).map(|info| Need::Module(info.needs)),
            None if self.built_in.contains(name) => Ok(Need::BuiltIn),
            None => Ok(Need::Nowhere),
        };
        let order = load_order(wanted, needs)?;
        let module = |name: String| {
            self.paths.get(&name).map(|path| Module {
                name: name.clone(),
                path: path.clone(),
            })
        };
        Ok(Plan {
            order: order.load.into_iter().filter_map(module).collect(),
            built_in: order.built_in,
        })
    }
}

/// What is known of one name.
enum Need {
    Module(Vec<String>),
    BuiltIn,
    Nowhere,
}

struct Order {
    load: Vec<String>,
    built_in: Vec<String>,
}

/// Depth first over what each name needs: a name joins the order when all that it needs is in it.
fn load_order(
    wanted: &[String],
    mut needs: impl FnMut(&str) -> Result<Need, ModulesError>,
) -> Result<Order, ModulesError> {
    let mut order = Order {
        load: Vec::new(),
        built_in: Vec::new(),
    };
    let mut done = BTreeSet::new();
    for want in wanted {
        // The path from the wanted name down: each with what it still waits for.
        let mut path: Vec<(String, Vec<String>)> = Vec::new();
        let mut next = Some(normal(want));
        loop {
            if let Some(name) = next.take() {
                if done.contains(&name) {
                    continue;
                }
                if let Some(from) = path.iter().position(|(above, _)| *above == name) {
                    let mut circle: Vec<_> = path
                        .iter()
                        .skip(from)
                        .map(|(above, _)| above.clone())
                        .collect();
                    circle.push(name);
                    return Err(ModulesError::Circle { circle });
                }
                match needs(&name)? {
                    // Taken from the end, so reversed: the first dependency loads first.
                    Need::Module(all) => path.push((name, all.into_iter().rev().collect())),
                    Need::BuiltIn => {
                        done.insert(name.clone());
                        order.built_in.push(name);
                    }
                    Need::Nowhere => {
                        let above = path.last().map(|(above, _)| format!("{above} for {want}"));
                        return Err(ModulesError::Missing {
                            name,
                            wanted_by: above.unwrap_or_else(|| "--want".to_owned()),
                        });
                    }
                }
            }
            let Some((_, waits)) = path.last_mut() else {
                break;
            };
            next = waits.pop();
            if next.is_none()
                && let Some((name, _)) = path.pop()
            {
                done.insert(name.clone());
                order.load.push(name);
            }
        }
    }
    Ok(order)
}

/// What a module says of itself.
#[derive(Debug, PartialEq, Eq)]
struct ModInfo {
    needs: Vec<String>,
}

fn modinfo_of(path: &Path) -> Result<ModInfo, ModulesError> {
    let read_error = |source| ModulesError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(read_error)?.len();
    if bytes > MODULE_BYTES_MAX {
        return Err(ModulesError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    let data = std::fs::read(path).map_err(read_error)?;
    modinfo(&data).map_err(|reason| ModulesError::Malformed {
        path: path.to_owned(),
        reason,
    })
}

/// Reads `.modinfo`: zero-terminated `key=value` strings.
fn modinfo(elf: &[u8]) -> Result<ModInfo, String> {
    let file = object::File::parse(elf).map_err(|error| format!("not an ELF file: {error}"))?;
    let section = file
        .section_by_name(".modinfo")
        .ok_or("section .modinfo: absent")?;
    let data = section
        .data()
        .map_err(|error| format!("section .modinfo: {error}"))?;
    let mut info = ModInfo { needs: Vec::new() };
    for entry in data
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
    {
        // Other keys (author, description) may be in any encoding.
        let Some((key, value)) = std::str::from_utf8(entry)
            .ok()
            .and_then(|text| text.split_once('='))
        else {
            continue;
        };
        match key {
            "depends" => add_needs(&mut info, value.split(','))?,
            "softdep" => {
                // modprobe.d(5): "pre: a b post: c"; what comes after is not needed to load.
                let pre = value
                    .split("post:")
                    .next()
                    .unwrap_or("")
                    .replace("pre:", " ");
                add_needs(&mut info, pre.split_whitespace())?;
            }
            _ => {}
        }
    }
    Ok(info)
}

fn add_needs<'a>(info: &mut ModInfo, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    for name in names.filter(|name| !name.is_empty()) {
        let good = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !good || name.len() > NAME_BYTES_MAX {
            return Err(format!("section .modinfo: {name:?} is no module name"));
        }
        let name = normal(name);
        if !info.needs.contains(&name) {
            info.needs.push(name);
        }
    }
    Ok(())
}

/// Collects every `.ko` below a folder by its module name.
fn walk(
    folder: &Path,
    depth: usize,
    paths: &mut BTreeMap<String, PathBuf>,
) -> Result<(), ModulesError> {
    let read_error = |source| ModulesError::Read {
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        // Not followed through symlinks: `build` and `source` of an installed kernel lead out of the folder.
        let kind = entry.file_type().map_err(read_error)?;
        let path = entry.path();
        if kind.is_dir() {
            if depth == DEPTH_MAX {
                return Err(ModulesError::TooMany { path });
            }
            walk(&path, depth + 1, paths)?;
        } else if let Some(name) = module_name(&path) {
            // The smaller path wins, so that the listing's order does not matter.
            let place = paths.entry(name).or_insert_with(|| path.clone());
            if path < *place {
                *place = path;
            }
            if paths.len() > MODULES_MAX {
                return Err(ModulesError::TooMany {
                    path: folder.to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// `.../virtio-rng.ko` is the module `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    path.file_name()?.to_str()?.strip_suffix(".ko").map(normal)
}

/// The kernel writes its names with underscores, files use either.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// A relocatable x86_64 ELF whose only content is a `.modinfo` section.
#[cfg(test)]
pub(super) fn elf_with_modinfo(content: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let names_at = 64 + content.len();
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    elf.resize(16, 0);
    for half in [1_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [0, 0, sections_at as u64] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 0, 0, 64, 3, 2] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(content);
    elf.extend(names);
    elf.resize(sections_at, 0);
    elf.extend([0; 64]);
    for (name, kind, at, size) in [
        (1_u32, 1_u32, 64, content.len()),
        (10, 3, names_at, names.len()),
    ] {
        elf.extend(name.to_le_bytes());
        elf.extend(kind.to_le_bytes());
        for word in [0, 0, at as u64, size as u64] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend([0; 8]);
        for word in [1_u64, 0] {
            elf.extend(word.to_le_bytes());
        }
    }
    elf
}

/// Reads hostile bytes as a module: must end, and must not panic.
#[cfg(test)]
fn fuzz_body(data: &[u8]) {
    // Whether it is a module is not the question here.
    let _ = modinfo(data);
    let _ = modinfo(&elf_with_modinfo(data));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Orders `wanted` over a table of `name: needs`; `+name` is built in.
    fn order(table: &[(&str, &[&str])], wanted: &[&str]) -> Result<Order, ModulesError> {
        load_order(&names(wanted), |name| {
            let row = table
                .iter()
                .find(|(row, _)| row.trim_start_matches('+') == name);
            Ok(match row {
                Some((row, _)) if row.starts_with('+') => Need::BuiltIn,
                Some((_, needs)) => Need::Module(names(needs)),
                None => Need::Nowhere,
            })
        })
    }

    const VIRTIO: &[(&str, &[&str])] = &[
        ("virtio", &["virtio_ring"]),
        ("virtio_ring", &[]),
        (
            "virtio_pci",
            &["virtio_ring", "virtio", "virtio_pci_modern_dev"],
        ),
        ("virtio_pci_modern_dev", &[]),
        ("virtio_net", &["net_failover", "virtio", "virtio_ring"]),
        ("net_failover", &["failover"]),
        ("failover", &[]),
        ("+ext4", &[]),
    ];

    #[test]
    fn needs_load_before_their_module_and_each_once() {
        let order = order(VIRTIO, &["virtio-pci", "ext4", "virtio_net"]).unwrap();
        let want =
            "virtio_ring virtio virtio_pci_modern_dev virtio_pci failover net_failover virtio_net";
        assert_eq!(order.load.join(" "), want);
        assert_eq!(order.built_in, ["ext4"]);
    }

    #[test]
    fn a_missing_module_is_named_with_who_wants_it() {
        let table: &[(&str, &[&str])] = &[("a", &["b"]), ("b", &["zz"])];
        let refused = order(table, &["a"]).err().unwrap().to_string();
        assert!(
            refused.contains("kernel module zz:") && refused.contains("wanted by b for a"),
            "{refused}"
        );
        let refused = order(table, &["yy"]).err().unwrap().to_string();
        assert!(
            refused.contains("kernel module yy:") && refused.contains("--want"),
            "{refused}"
        );
    }

    #[test]
    fn a_circle_is_named_and_ends() {
        let table: &[(&str, &[&str])] =
            &[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("me", &["me"])];
        let refused = order(table, &["a"]).err().unwrap().to_string();
        assert!(refused.ends_with("b -> c -> b"), "{refused}");
        let refused = order(table, &["me"]).err().unwrap().to_string();
        assert!(refused.ends_with("me -> me"), "{refused}");
    }

    #[test]
    fn modinfo_gives_hard_and_soft_needs() {
        let elf = elf_with_modinfo(
            b"license=GPL\0author=\xff\0depends=virtio-ring,b\0softdep=pre: c b post: d\0",
        );
        assert_eq!(modinfo(&elf).unwrap().needs, ["virtio_ring", "b", "c"]);
        assert!(
            modinfo(&elf_with_modinfo(b"depends=\0"))
                .unwrap()
                .needs
                .is_empty()
        );
        assert!(
            modinfo(&elf_with_modinfo(b"depends=../x\0"))
                .unwrap_err()
                .contains("no module name")
        );
        assert!(modinfo(b"\x7fELF").unwrap_err().contains("not an ELF file"));
    }

    #[test]
    fn a_module_cut_at_any_byte_is_an_error_that_says_so() {
        let elf = elf_with_modinfo(b"depends=a\0");
        for cut in 0..elf.len() - 64 {
            assert!(modinfo(&elf[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_tree_is_scanned_by_module_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kernel/x")).unwrap();
        std::fs::write(
            dir.path().join("kernel/x/virtio-rng.ko"),
            elf_with_modinfo(b"depends=virtio\0"),
        )
        .unwrap();
        std::fs::write(dir.path().join("kernel/broken.ko"), b"text").unwrap();
        std::fs::write(
            dir.path().join("modules.builtin"),
            "kernel/drivers/virtio/virtio.ko\n",
        )
        .unwrap();
        let index = Index::scan(dir.path()).unwrap();
        let plan = index.plan(&names(&["virtio_rng"])).unwrap();
        assert_eq!(plan.order.len(), 1);
        assert_eq!(plan.order[0].name, "virtio_rng");
        assert_eq!(plan.built_in, ["virtio"]);
        let refused = index.plan(&names(&["broken"])).unwrap_err().to_string();
        assert!(refused.contains("broken.ko: not an ELF file"), "{refused}");
    }

    #[test]
    fn fuzzed_modules_end_without_panic() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let bytes = prop::collection::vec(any::<u8>(), 0..512);
        runner
            .run(&bytes, |data| {
                fuzz_body(&data);
                Ok(())
            })
            .unwrap();
        let valid = elf_with_modinfo(b"depends=a,b\0softdep=pre: c\0");
        let flips = (0..valid.len(), any::<u8>());
        let flip = |(at, byte): (usize, u8)| {
            let mut data = valid.clone();
            data[at] = byte;
            fuzz_body(&data);
            Ok(())
        };
        let config = proptest::test_runner::Config::with_cases(4096);
        let seed = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
        proptest::test_runner::TestRunner::new_with_rng(config, seed)
            .run(&flips, flip)
            .unwrap();
    }

    proptest! {
        #[test]
        fn any_table_without_circles_gives_an_order_that_holds(
            edges in prop::collection::vec((0_usize..12, 0_usize..12), 0..40),
        ) {
            // An edge always points to the smaller number, so there is no circle.
            let mut table: Vec<Vec<String>> = vec![Vec::new(); 12];
            for (a, b) in edges {
                if a != b {
                    table[a.max(b)].push(format!("m{}", a.min(b)));
                }
            }
            let wanted: Vec<String> = (0..12).rev().map(|n| format!("m{n}")).collect();
            let order = load_order(&wanted, |name| {
                let number: usize = name[1..].parse().unwrap();
                Ok(Need::Module(table[number].clone()))
            })
            .unwrap();
            prop_assert_eq!(order.load.len(), 12);
            for (place, name) in order.load.iter().enumerate() {
                let number: usize = name[1..].parse().unwrap();
                for need in &table[number] {
                    prop_assert!(order.load[..place].contains(need));
                }
            }
        }
    }
}
