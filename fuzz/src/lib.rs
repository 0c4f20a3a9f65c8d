//! The bodies of the fuzz targets: one function each, over bytes. `targets/` hands them to
//! libFuzzer, `tests/replay.rs` replays the corpus on the stable compiler.

pub mod encodings;
pub mod formats;
pub mod guest;
pub mod nbd;
pub mod repository;
pub mod store_ops;

// The property test's model, its content and its hands: the same rules for both.
#[path = "../../store/tests/it/content.rs"]
mod content;
#[path = "../../store/tests/it/drive.rs"]
#[expect(dead_code, reason = "the property test uses the rest")]
mod drive;
#[path = "../../store/tests/it/world.rs"]
#[expect(dead_code, reason = "the property test uses the rest")]
mod world;

// The disks in memory that the server's tests use.
#[path = "../../serve/tests/nbd/memory.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod memory;
