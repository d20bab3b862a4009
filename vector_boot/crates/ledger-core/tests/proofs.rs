//! Proofs and tiles: published vectors, another implementation, every small tree, every changed hash.

use ed25519_dalek::{Signer, SigningKey};
use ledger_core::checkpoint::{Checkpoint, decimal, hash_of_text};
use ledger_core::note::VerifierKey;
use ledger_core::proof::{self, Node, verify_consistency, verify_inclusion};
use ledger_core::tile::{self, Edge, TILE_WIDTH, Tile};
use ledger_core::tlog_proof::TlogProof;
use ledger_core::{CompactRange, Hash, leaf_hash, parent};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

fn hex(text: &str) -> Vec<u8> {
    let byte = |n: usize| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap();
    (0..text.len() / 2).map(byte).collect()
}

fn hash(text: &str) -> Hash {
    hex(text).try_into().unwrap()
}

/// Perfect subtrees over leaf hashes, by their definition.
fn subtree(leaves: &[Hash], node: Node) -> Hash {
    match node.level {
        0 => leaves[usize::try_from(node.index).unwrap()],
        _ => {
            let below = |index| Node {
                level: node.level - 1,
                index,
            };
            let left = subtree(leaves, below(2 * node.index));
            parent(&left, &subtree(leaves, below(2 * node.index + 1)))
        }
    }
}

fn ok<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

fn root(leaves: &[Hash], size: u64) -> Hash {
    ok(proof::root(size, &mut |node| Ok(subtree(leaves, node))))
}

fn inclusion(leaves: &[Hash], index: u64, size: u64) -> Vec<Hash> {
    ok(proof::inclusion(index, size, &mut |node| {
        Ok(subtree(leaves, node))
    }))
    .unwrap()
}

fn consistency(leaves: &[Hash], from: u64, to: u64) -> Vec<Hash> {
    ok(proof::consistency(from, to, &mut |node| {
        Ok(subtree(leaves, node))
    }))
    .unwrap()
}

/// The tree that the Certificate Transparency project publishes for RFC 6962
/// (`merkletree/merkle_verifier_test` of google/certificate-transparency).
fn reference() -> Vec<Hash> {
    [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    .map(|leaf| leaf_hash(&hex(leaf)))
    .to_vec()
}

#[test]
fn roots_and_paths_are_those_of_rfc_6962() {
    let leaves = reference();
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    for (size, wanted) in (0u64..).zip(roots) {
        assert_eq!(root(&leaves, size), hash(wanted), "{size}");
    }
    let first = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    .map(hash);
    assert_eq!(inclusion(&leaves, 0, 8), first);
    assert_eq!(consistency(&leaves, 1, 8), first);
    let six = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    .map(hash);
    assert_eq!(consistency(&leaves, 6, 8), six);
    let two = [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]
    .map(hash);
    assert_eq!(consistency(&leaves, 2, 5), two);
}

/// The lines of a file of published proofs: whether they hold, four fields, the hashes; `None` where one is no
/// hash, which no reader of ours takes.
fn published(
    text: &'static str,
) -> impl Iterator<Item = (bool, [&'static str; 4], Option<Vec<Hash>>, &'static str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let words: Vec<&str> = line.splitn(7, ' ').collect();
        let [good, a, b, c, d, proof, what] = words[..] else {
            panic!("{line}");
        };
        let hashes = proof.split(',').filter(|_| proof != "-").map(hash_of_text);
        (good == "good", [a, b, c, d], hashes.collect(), what)
    })
}

#[test]
fn published_proofs_of_inclusion_hold_or_do_not() {
    let mut counts = [0, 0];
    for (good, [index, size, root, leaf], path, what) in
        published(include_str!("golden/rfc6962-inclusion.txt"))
    {
        let holds = || {
            let (index, size) = (decimal(index)?, decimal(size)?);
            let (root, leaf) = (hash_of_text(root)?, hash_of_text(leaf)?);
            Some(verify_inclusion(&leaf, index, size, path.as_ref()?, &root))
        };
        assert_eq!(holds().unwrap_or(false), good, "{index} of {size}: {what}");
        counts[usize::from(good)] += 1;
    }
    assert_eq!(counts, [92, 6]);
}

#[test]
fn published_proofs_of_consistency_hold_or_do_not() {
    let mut counts = [0, 0];
    for (good, [from, to, old, new], path, what) in
        published(include_str!("golden/rfc6962-consistency.txt"))
    {
        // One holds over roots of 12 bytes, which are no hashes to us.
        let good = good && hash_of_text(old).is_some();
        let holds = || {
            let (from, to) = (decimal(from)?, decimal(to)?);
            let (old, new) = (hash_of_text(old)?, hash_of_text(new)?);
            Some(verify_consistency(from, to, &old, &new, path.as_ref()?))
        };
        assert_eq!(holds().unwrap_or(false), good, "{from} to {to}: {what}");
        counts[usize::from(good)] += 1;
    }
    assert_eq!(counts, [93, 5]);
}

#[test]
fn every_proof_of_small_trees_holds_and_nothing_else_does() {
    const LEAVES: u64 = 20;
    let leaves: Vec<Hash> = (0..LEAVES).map(|n| leaf_hash(&n.to_le_bytes())).collect();
    let roots: Vec<Hash> = (0..=LEAVES).map(|n| root(&leaves, n)).collect();
    let at = |n: u64| usize::try_from(n).unwrap();
    for size in 1..=LEAVES {
        for index in 0..size {
            let path = inclusion(&leaves, index, size);
            let leaf = &leaves[at(index)];
            assert!(verify_inclusion(leaf, index, size, &path, &roots[at(size)]));
            for other in 0..=LEAVES {
                let same = other == index;
                let holds = verify_inclusion(leaf, other, size, &path, &roots[at(size)]);
                assert_eq!(holds, same, "{index} as {other} of {size}");
            }
            for n in 0..path.len() {
                let mut bad = path.clone();
                bad[n][31] ^= 1;
                assert!(!verify_inclusion(leaf, index, size, &bad, &roots[at(size)]));
            }
            let mut long = path.clone();
            long.push(*leaf);
            assert!(!verify_inclusion(
                leaf,
                index,
                size,
                &long,
                &roots[at(size)]
            ));
        }
        for from in 0..=size {
            let path = consistency(&leaves, from, size);
            let (old, new) = (&roots[at(from)], &roots[at(size)]);
            assert!(
                verify_consistency(from, size, old, new, &path),
                "{from} {size}"
            );
            let mut bad = *old;
            bad[0] ^= 1;
            assert!(!verify_consistency(from, size, &bad, new, &path));
            for n in 0..path.len() {
                let mut changed = path.clone();
                changed[n][0] ^= 1;
                assert!(!verify_consistency(from, size, old, new, &changed));
                assert!(!verify_consistency(from, size, old, new, &path[..n]));
            }
            let mut long = path.clone();
            long.push([0; 32]);
            assert!(!verify_consistency(from, size, old, new, &long));
        }
        assert!(!verify_consistency(
            size + 1,
            size,
            &roots[0],
            &roots[0],
            &[]
        ));
    }
    assert_eq!(proof::inclusion(3, 3, &mut |_| Err(())), Ok(None));
    assert_eq!(proof::consistency(4, 3, &mut |_| Err(())), Ok(None));
}

/// What a folder of tiles holds.
type Kept = BTreeMap<Tile, Vec<Hash>>;

fn grown(size: u64) -> (Edge, Kept, CompactRange) {
    let (mut edge, mut kept, mut range) = (Edge::default(), Kept::new(), CompactRange::default());
    for n in 0..size {
        let leaf = range.push(&[u8::try_from(n % 251).unwrap(); 64]);
        edge.push(leaf, &mut |tile, row| {
            assert!(kept.insert(tile, row.to_vec()).is_none(), "{tile:?} twice");
        });
    }
    (edge, kept, range)
}

fn node(edge: &Edge, kept: &Kept, node: Node) -> Option<Hash> {
    edge.node(node).or_else(|| {
        let (level, index, range) = Tile::of_node(node);
        tile::fold(kept.get(&Tile::full(level, index))?.get(range)?)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn an_edge_and_its_tiles_prove_whatever_the_tree_holds(size in 1u64..1500, a in any::<u64>(), b in any::<u64>()) {
        let (edge, kept, range) = grown(size);
        prop_assert_eq!(edge.root(), range.root());
        prop_assert_eq!(kept.len() as u64, size / 256 + size / 65_536);
        let (to, index) = (a % size + 1, b % (a % size + 1));
        let mut look = |n| node(&edge, &kept, n).ok_or(n);
        let old = proof::root(to, &mut look).unwrap();
        let new = edge.root();
        let leaf = look(Node { level: 0, index }).unwrap();
        let path = proof::inclusion(index, to, &mut look).unwrap().unwrap();
        prop_assert!(verify_inclusion(&leaf, index, to, &path, &old));
        let path = proof::consistency(to, size, &mut look).unwrap().unwrap();
        prop_assert!(verify_consistency(to, size, &old, &new, &path));
        // The edge comes back from full tiles and the leaves' partial one.
        let partial: BTreeMap<_, _> = edge.partial().map(|(t, row)| (t, row.to_vec())).collect();
        let restored = Edge::restore(size, &mut |tile| kept.get(&tile).or(partial.get(&tile)).cloned());
        prop_assert_eq!(restored.as_ref(), Some(&edge));
        // A compact range knows its peaks as nodes, and no other node.
        let mut look = |n| range.node(n).ok_or(());
        prop_assert_eq!(proof::root(size, &mut look), Ok(edge.root()));
        let peaks = (0..11u32).flat_map(|level| (0..size >> level).map(move |index| Node { level, index }));
        let known: Vec<Hash> = peaks.filter_map(|n| range.node(n)).collect();
        prop_assert_eq!(known.len(), range.peaks().len());
        let halves = Node { level: 3, index }.children().unwrap();
        prop_assert_eq!(halves.map(Node::leaves), [8 * index..8 * index + 4, 8 * index + 4..8 * index + 8]);
        // Another implementation makes the same tiles of the same tree.
        let names: Vec<String> = kept.keys().chain(partial.keys()).map(Tile::path).collect();
        for theirs in tlog_tiles::Tile::new_tiles(8, 0, size) {
            let path = theirs.path().replacen("tile/8/", "tile/", 1);
            prop_assert!(names.contains(&path), "{}", path);
        }
    }

    #[test]
    fn paths_of_tiles_are_read_back(level in 0u32..8, index in any::<u32>(), width in 1u16..257) {
        let tile = Tile { level, index: u64::from(index), width };
        prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        let bundle = Tile { level: 0, ..tile };
        prop_assert_eq!(Tile::parse_entries(&bundle.entries_path()), Some(bundle));
        let theirs = tlog_tiles::Tile::new(8, u8::try_from(level).unwrap(), u64::from(index), u32::from(width), false);
        prop_assert_eq!(theirs.path().replacen("tile/8/", "tile/", 1), tile.path());
    }

    #[test]
    fn paths_have_one_form(path in "tile/(entries|[0-9]{1,2})/(x?[0-9]{1,4}/){0,3}x?[0-9]{2,4}(\\.p/[0-9]{1,3})?") {
        if let Some(tile) = Tile::parse(&path) {
            prop_assert_eq!(tile.path(), path.clone());
        }
        if let Some(tile) = Tile::parse_entries(&path) {
            prop_assert_eq!(tile.entries_path(), path);
        }
    }

    #[test]
    fn bundles_are_read_back(lengths in proptest::collection::vec(0usize..300, 0..256), cut in any::<u16>()) {
        let mut bundle = Vec::new();
        for n in &lengths {
            tile::push_entry(&mut bundle, &vec![7; *n]).unwrap();
        }
        let read = tile::entries(&bundle).unwrap();
        prop_assert!(read.iter().map(|e| e.len()).eq(lengths.iter().copied()));
        let cut = usize::from(cut) % (bundle.len() + 1);
        if let Some(part) = tile::entries(&bundle[..cut]) {
            prop_assert!(part.len() <= lengths.len());
        }
    }
}

#[test]
fn tiles_have_the_names_of_the_specification() {
    // The examples of C2SP tlog-tiles.
    assert_eq!(Tile::full(0, 1_234_067).path(), "tile/0/x001/x234/067");
    let of = |level, index| Tile::of_size(level, index, 70_000).map(|t| t.width);
    assert_eq!(
        (of(0, 272), of(0, 273), of(0, 274)),
        (Some(256), Some(112), None)
    );
    assert_eq!(
        (of(1, 0), of(1, 1), of(2, 0), of(3, 0)),
        (Some(256), Some(17), Some(1), None)
    );
    assert_eq!(Tile::of_size(0, 1, 256), None);
    assert_eq!(
        Tile::of_size(1, 0, 256).map(|t| t.path()).as_deref(),
        Some("tile/1/000.p/1")
    );
    for bad in [
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/1",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/8/000",
        "tile/00/000",
        "tile/0/../000",
        "tile/0/000/",
    ] {
        assert_eq!(Tile::parse(bad), None, "{bad}");
    }
    assert_eq!(tile::hashes(&[0; 64], 2).map(|h| h.len()), Some(2));
    assert_eq!(tile::hashes(&[0; 63], 2), None);
    assert_eq!(usize::from(TILE_WIDTH) * 32, tile::TILE_BYTES);
}

#[test]
fn a_proof_as_text_holds_offline_and_changed_it_does_not() {
    let origin = "vb-1/ledger";
    let secret = SigningKey::from_bytes(&[7; 32]);
    let key = VerifierKey::log(origin, secret.verifying_key().as_bytes()).unwrap();
    let entry = |id: u64| ledger_core::commitment(id, &[9; 32], &[1; 8], b"body");
    let leaves: Vec<Hash> = (1..=11).map(|id| leaf_hash(&entry(id))).collect();
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: 11,
        root: root(&leaves, 11),
    };
    let proof = TlogProof {
        entry: entry(5),
        index: 4,
        path: inclusion(&leaves, 4, 11),
        checkpoint: checkpoint
            .sign(&key, |bytes| secret.sign(bytes).to_bytes())
            .unwrap(),
    };
    let text = proof.to_string();
    assert_eq!(TlogProof::parse(&text).as_ref(), Ok(&proof));
    let proven = proof.verify(&key).unwrap();
    assert_eq!((proven.event_id, proven.commit_id), (5, [9; 32]));
    for at in (0..text.len()).step_by(3) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        let holds = TlogProof::parse(&changed).is_ok_and(|p| p.verify(&key).is_ok());
        assert!(!holds, "byte {at}");
    }
    // An entry that claims another id than its place.
    let lying = TlogProof {
        entry: entry(6),
        ..proof
    };
    assert!(lying.verify(&key).is_err());
}
