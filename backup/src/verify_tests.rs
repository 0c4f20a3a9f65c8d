//! Verification says clean only of what restores.

use std::collections::BTreeSet;
use std::sync::Arc;

use vellum_store::Unwatched;

use crate::objects::Objects;
use crate::objects::memory::Memory;
use crate::prune::catalog;
use crate::testing::pusher::{Base, Disk, init, open, push, restore};
use crate::testing::seed;
use crate::verify::{VerifyOptions, verify};

fn names(memory: &Memory) -> Vec<String> {
    let mut names = Vec::new();
    memory
        .list("", &mut |name, _| {
            names.push(name.to_owned());
            Ok(())
        })
        .expect("a listing");
    names
}

/// One object that is another from now on, or gone.
fn harm(memory: &Memory, name: &str, random: &mut fastrand::Rng) {
    let mut bytes = memory.get(name).expect("it was listed");
    memory.delete(name).expect("a deletion");
    match random.u8(..4) {
        0 => return,
        1 => bytes.truncate(random.usize(..bytes.len())),
        _ => {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
        }
    }
    memory.put(name, &bytes).expect("a put");
}

/// Whatever is damaged: a point that does not restore is named, and if nothing is found, all restore.
#[test]
fn clean_means_that_every_point_restores_and_what_does_not_is_named() {
    let mut random = fastrand::Rng::with_seed(seed());
    for _ in 0..200 {
        let memory = Memory::new();
        let repository = init(Arc::new(memory.clone()));
        for serial in 0..3_u64 {
            let disk: Disk = (0..4).map(|_| (random.u16(..16), random.u16(1..30))).collect();
            let base = if random.bool() { Base::Newest } else { Base::None };
            push(&repository, "image", serial, serial, &disk, base).expect("a push");
        }
        let read = verify(&repository, &VerifyOptions { read_data: true, subset: None }, &Unwatched).expect("a verification");
        assert_eq!((read.findings.len(), read.points), (0, 3));
        let names: Vec<String> = names(&memory)
            .into_iter()
            .filter(|name| name.starts_with("packs") || name.starts_with("maps") || name.starts_with("index"))
            .collect();
        harm(&memory, &names[random.usize(..names.len())], &mut random);
        let repository = open(Arc::new(memory.clone())).expect("the journal is whole");
        let report = verify(&repository, &VerifyOptions { read_data: true, subset: None }, &Unwatched).expect("a verification");
        let hit: BTreeSet<&String> = report.findings.iter().flat_map(|finding| &finding.points).collect();
        let catalog = catalog(&repository);
        for point in repository.state().points() {
            let restored = catalog.as_ref().is_ok_and(|catalog| restore(&repository, catalog, point).is_ok());
            assert!(restored || hit.contains(&point.id) || catalog.is_err(), "{point:?} is hit and not named: {:?}", report.findings);
            assert!(restored || !report.findings.is_empty(), "clean, and {point:?} does not restore");
        }
    }
}

/// All parts of the packs together are all packs.
#[test]
fn subsets_cover_every_pack_once() {
    let repository = init(Arc::new(Memory::new()));
    for serial in 0..12_u64 {
        let disk: Disk = [(0, 100 + serial as u16)].into();
        push(&repository, "image", serial, serial, &disk, Base::None).expect("a push");
    }
    let read = |subset| verify(&repository, &VerifyOptions { read_data: true, subset }, &Unwatched).expect("a verification").packs_read;
    assert_eq!((1..=5).map(|nth| read(Some((nth, 5)))).sum::<u64>(), read(None));
    assert_eq!(read(None), 12);
}
