//! Writes that do not wait inside `RocksDB`.
//!
//! `RocksDB` stops writes while its flushes lag behind, and lets them wait in its queue. If the
//! disk fills up meanwhile, the flush fails, and the recovery that `RocksDB` begins by itself
//! enters the same queue behind the write that waits for it: neither ever ends (version 11:
//! `DBImpl::DelayWrite` waits as long as a recovery is in progress, which is
//! `SstFileManagerImpl::ClearError`). So a write is refused where it would have to wait; it waits
//! here, and fails when a flush has failed.
//!
//! `RocksDB` also slows writes down before it stops them. That is switched off: a write that is
//! refused for it would be slowed down more with every attempt.

use std::thread;
use std::time::{Duration, Instant};

use rocksdb::{DB, ErrorKind, Options, WriteBatch, WriteOptions, properties};

/// The pause between two attempts: a flush takes some tens of milliseconds at least.
const PAUSE: Duration = Duration::from_millis(1);
/// Time that a write waits for flushes after one has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tables of a family that may overlap until writes stop: `RocksDB`'s own limit.
const LOOSE_TABLES_MAX: i32 = 36;

/// A write that was not done.
pub(super) enum FailedWrite {
    Failed(rocksdb::Error),
    /// Writes have stopped, and a flush or compaction that they wait for has failed.
    Stopped(rocksdb::Error),
}

/// Has writes stop where they would be slowed down.
pub(super) fn stop_at_once(options: &mut Options) {
    options.set_level_zero_slowdown_writes_trigger(LOOSE_TABLES_MAX);
    options.set_level_zero_stop_writes_trigger(LOOSE_TABLES_MAX);
    options.set_soft_pending_compaction_bytes_limit(0);
}

/// Flushes and compactions that failed since the database was opened; `RocksDB` may have recovered.
fn background_errors(db: &DB) -> u64 {
    let counted = db.property_int_value(properties::BACKGROUND_ERRORS);
    counted.ok().flatten().unwrap_or_default()
}

/// True if a flush or compaction has failed since the database was opened.
pub(super) fn has_failed(db: &DB) -> bool {
    background_errors(db) > 0
}

/// Writes what `operations` gives, which is asked once for each attempt.
pub(super) fn write_unstalled(
    db: &DB,
    operations: impl Fn() -> WriteBatch,
    mut options: WriteOptions,
) -> Result<(), FailedWrite> {
    options.set_no_slowdown(true);
    let mut begun: Option<(u64, Instant)> = None;
    loop {
        let stopped = match db.write_opt(operations(), &options) {
            Err(error) if error.kind() == ErrorKind::Incomplete => error,
            written => return written.map_err(FailedWrite::Failed),
        };
        let failures = background_errors(db);
        let (before, since) = *begun.get_or_insert_with(|| (failures, Instant::now()));
        if failures > before || before > 0 && since.elapsed() >= PATIENCE {
            return Err(FailedWrite::Stopped(stopped));
        }
        thread::sleep(PAUSE);
    }
}
