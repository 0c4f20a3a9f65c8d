//! A fuzz body for whole stores: the input decides which operations a small store does, and the
//! naive model says what it must show. The model is the one of the store's property test.

use std::path::Path;

use vellum_store::{Access, Store, StoreParameters};

use crate::content::Choices;
use crate::drive;
use crate::world::{Limits, Operation, World};

/// Enough for every pair of operations to meet, few enough for many inputs a second.
const OPERATIONS_MAX: usize = 40;
const LIMITS: Limits = Limits {
    images: 4,
    snapshots: 3,
    len_max: 96 << 10,
    total_len: 1 << 20,
};

/// The input as decisions; when it ends, every decision is the first.
struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        let mut value = 0_u64;
        let mut bound = 1_u64;
        while bound < limit {
            let Some((byte, rest)) = self.0.split_first() else {
                return 0;
            };
            value = value << 8 | u64::from(*byte);
            bound = bound.saturating_mul(256);
            self.0 = rest;
        }
        value % limit
    }
}

fn open(dir: &Path) -> Store {
    Store::open_dir(dir, Access::ReadWrite, "fuzz").expect("a whole store opens")
}

/// Random operations agree with plain bytes.
pub fn store_ops(data: &[u8]) {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::TempDir::new_in(memory)
    } else {
        tempfile::TempDir::new()
    };
    let folder = made.expect("a folder can be made");
    let dir = folder.path().join("store");
    Store::init_dir(&dir, StoreParameters::DEFAULT).expect("an empty folder becomes a store");
    let (mut store, mut world, mut choices) =
        (Some(open(&dir)), World::new(4096, LIMITS), Bytes(data));
    for _ in 0..OPERATIONS_MAX {
        if choices.0.is_empty() {
            break;
        }
        let operation = world.pick(&mut choices);
        match operation {
            Operation::Reopen => {
                drop(store.take());
                store = Some(open(&dir));
            }
            // Operations that the model knows only within bounds are for the property test.
            Operation::Crash
            | Operation::Rebase {
                keep_content: false,
                ..
            } => {}
            _ => {
                let operation = drive::flushed(operation);
                let now = store.as_ref().expect("a store is open between operations");
                let expected = world.expected(&operation);
                if drive::agrees(
                    expected,
                    &drive::perform(now, &world, &operation, folder.path()),
                ) {
                    world.apply(&operation);
                }
            }
        }
    }
    drive::compare_all(
        store.as_ref().expect("a store is open between operations"),
        &world,
    );
}
