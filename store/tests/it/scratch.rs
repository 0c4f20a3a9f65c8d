//! Folders of tests' stores: in memory if the machine has a file system for that, since thousands
//! of synced writes would spend their time waiting for a disk.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use vellum_core::units::ChunkLen;
use vellum_store::{Access, Compression, Store, StoreParameters};

pub(crate) const ZSTD: StoreParameters = StoreParameters::DEFAULT;
pub(crate) const LZ4: StoreParameters = StoreParameters {
    frame_len: 128 << 10,
    compression: Compression::Lz4,
    ..ZSTD
};
pub(crate) const PLAIN: StoreParameters = StoreParameters {
    frame_len: 4 << 10,
    compression: Compression::None,
    ..ZSTD
};

/// Chunks of 64 KiB, four to a frame.
pub(crate) fn coarse() -> StoreParameters {
    StoreParameters {
        chunk_len: ChunkLen::new(64 << 10).expect("a power of two in bounds"),
        frame_len: 256 << 10,
        ..ZSTD
    }
}

/// An empty folder that goes when it is dropped.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        TempDir::with_prefix_in("vellum-test-", memory)
    } else {
        TempDir::with_prefix("vellum-test-")
    };
    made.expect("a folder for a test can be made")
}

/// A new store in `dir`, open.
pub(crate) fn store_in(dir: &Path, parameters: StoreParameters) -> Store {
    Store::init_dir(dir, parameters).expect("an empty folder becomes a store");
    open(dir)
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open_dir(dir, Access::ReadWrite, "test").expect("a whole store opens")
}

/// Copies the files of a store that nobody writes. The reserve is left out: it holds nothing, and
/// is made again.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_name() != "reserve" {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Names, lengths and times of all files below `dir`, in order.
fn inventory(dir: &Path) -> std::io::Result<Vec<(std::path::PathBuf, u64, std::time::SystemTime)>> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                all.push((entry.path(), metadata.len(), metadata.modified()?));
            }
        }
    }
    all.sort();
    Ok(all)
}

/// Copies the files as they would be if the process that has the store in `from` open were killed
/// now. `RocksDB` works in the background, so files that change while they are copied are copied
/// again.
pub(crate) fn copy_of_a_crash(from: &Path, to: &Path) {
    for _ in 0..200 {
        let before = inventory(from);
        let copied = copy(from, to);
        let after = inventory(from);
        if copied.is_ok() && matches!((before, after), (Ok(before), Ok(after)) if before == after) {
            return;
        }
        fs::remove_dir_all(to).expect("a copy can be thrown away");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the files of {} never hold still", from.display());
}
