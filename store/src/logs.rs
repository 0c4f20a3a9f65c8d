//! Inspects RocksDB's manifest and logs before RocksDB reads them.
//!
//! *Endless reading.* One flipped bit can make a record look like one of a *recycled* log
//! (`RecyclableFull` and its kin, which only exist when `recycle_log_file_num` is set, and we do
//! not set it). `RocksDB` 11 takes it for the remains of an older log: in a manifest it reads the
//! same record for ever (found by `tests/it/damage.rs`; facebook/rocksdb#11968 is its sibling), in
//! a log it does that or ends early without a word. So such a record is damage, and is reported as
//! such.
//!
//! *A torn end.* After a loss of power the end of a log may read as damaged without being so: see
//! `torn`.
//!
//! *A refused write.* If a log ends in a write that was refused, that write is cut off before the
//! log is read again: see `unacknowledged`.
//!
//! *The whole part.* A damaged store can be looked at without its unreadable tables, but `RocksDB`
//! would then pass over unreadable records of the log too, and show a state that never was. So only
//! the part of the logs before the first unreadable record is given to it.
//!
//! ```text
//! A log, and a manifest, is blocks of 32 KiB; a record never crosses one, and fewer than 7 bytes
//! at a block's end are padding.
//!
//! offset  size  meaning
//! 0       4     CRC-32C of the bytes from the type on, rotated right by 15 bits, plus 0xa282ead8
//!               (LE)
//! 4       2     length of the bytes after the header (LE)
//! 6       1     type: 1 to 4 whole and parts, 5 to 8, 11 and 131 those of recycled logs
//! ```
//!
//! Source: RocksDB's `db/log_format.h` and `util/crc32c.h`.

mod mending;
mod torn;
mod unacknowledged;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::StoreError;
pub(crate) use mending::{LogContent, put_record, read_log};
use torn::LogEnd;

const BLOCK_LEN: usize = 32 << 10;
const HEADER_LEN: usize = 7;
const CHECKSUM_SHIFT: u32 = 0xa282_ead8;

/// Fails if the manifest of the database in `dir` holds a record of a kind that is never written
/// there. Others may lie beside it: those are older, or were never finished.
pub(crate) fn check_manifests(dir: &Path) -> Result<(), StoreError> {
    let current = fs::read_to_string(dir.join("CURRENT")).unwrap_or_default();
    let current = list_files(dir, |name| {
        name.starts_with("MANIFEST-") && name == current.trim_end()
    })?;
    current
        .iter()
        .try_for_each(|path| check_kinds(path, &read_whole(path)?))
}

/// Fails if a log in the database's folder `dir` holds a record of a kind that is never written
/// there, or records behind something that is none. Of those RocksDB would show nothing, and not
/// say so: it takes zeros for the end.
pub(crate) fn check_logs(dir: &Path) -> Result<(), StoreError> {
    let mut unsound: Option<PathBuf> = None;
    for path in list_logs(dir)? {
        let log = read_whole(&path)?;
        check_kinds(&path, &log)?;
        if log.is_empty() {
            continue;
        }
        if unsound.is_none() {
            match torn::end_of(&log) {
                LogEnd::Sound => continue,
                LogEnd::Torn(_) => {
                    unsound = Some(path);
                    continue;
                }
                LogEnd::Damaged => {}
            }
        }
        let path = unsound.unwrap_or(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(StoreError::damaged_record(
            format!("{name} of the database"),
            "a record cannot be read, and there are others behind it",
        ));
    }
    Ok(())
}

/// Cuts off what a loss of power left of the last record of the last log in `dir`, if it tore one:
/// it was never acknowledged as durable. Everything before it, in this log and all others, must be
/// whole; else nothing is changed. A log without content may follow: a recovery that was cut off
/// itself made it. For the one process that writes. Reads all logs; whether they are whole now.
pub(crate) fn cut_torn_end(dir: &Path) -> Result<bool, StoreError> {
    let mut last = None;
    for path in list_logs(dir)? {
        let log = fs::read(&path).map_err(|source| StoreError::of_file("read", &path, source))?;
        if log.is_empty() {
            continue;
        }
        if last.is_some_and(|(_, end)| end != LogEnd::Sound) {
            return Ok(false);
        }
        last = Some((path, torn::end_of(&log)));
    }
    match last {
        None | Some((_, LogEnd::Sound)) => Ok(true),
        Some((_, LogEnd::Damaged)) => Ok(false),
        Some((path, LogEnd::Torn(whole_len))) => {
            refuse_flipped_bit(&path)?;
            truncate_log(&path, whole_len)?;
            Ok(true)
        }
    }
}

/// Cuts off records that were written to the logs in `dir` after the sequence number
/// `acknowledged`, the last one that was acknowledged: at most one record, the last of the last
/// log. For the one process that writes, after a failed write. Reads all logs.
pub(crate) fn cut_unacknowledged(dir: &Path, acknowledged: u64) -> Result<(), StoreError> {
    let logs = list_logs(dir)?;
    for (nth, path) in logs.iter().enumerate() {
        let log = fs::read(path).map_err(|source| StoreError::of_file("read", path, source))?;
        let Some(begin) = unacknowledged::begins_at(&log, acknowledged) else {
            continue;
        };
        if nth + 1 < logs.len() {
            // Its length may stand in the manifest. Who opens the store anew sees what it holds.
            return Err(StoreError::Stopped(
                "the write that failed is not the last in the log".to_owned(),
            ));
        }
        truncate_log(path, begin)?;
    }
    Ok(())
}

/// Ends a log after its first `len` bytes, durably.
fn truncate_log(path: &Path, len: usize) -> Result<(), StoreError> {
    let cut = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .and_then(|file| {
            file.set_len(len as u64)?;
            file.sync_all()
        });
    cut.map_err(|source| StoreError::of_file("repair", path, source))
}

/// Fails if one flipped bit is all that is wrong with the end of a log: power tears more than that,
/// and what was acknowledged can be brought back.
fn refuse_flipped_bit(path: &Path) -> Result<(), StoreError> {
    let log = fs::read(path).map_err(|source| StoreError::of_file("read", path, source))?;
    let content = read_log(log);
    if content.mended_bits == 0 {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Err(StoreError::damaged_record(
        format!("{name} of the database"),
        "a bit of a record has flipped",
    ))
}

/// True if every record of a log, or a manifest, is as it was written.
pub(crate) fn is_whole(log: &[u8]) -> bool {
    torn::end_of(log) == LogEnd::Sound
}

/// Copies the logs in the database's folder `dir` to `room`, up to the first record of all of them
/// that cannot be read. A single bit that flipped in a record is put right there: its checksum says
/// which.
pub(crate) fn copy_whole_part(dir: &Path, room: &Path) -> Result<(), StoreError> {
    for path in list_logs(dir)? {
        let content = read_log(read_whole(&path)?);
        let target = room.join(path.file_name().unwrap_or_default());
        let whole = if content.is_cut {
            &content.bytes[..content.whole_len]
        } else {
            &content.bytes
        };
        fs::write(&target, whole)
            .map_err(|source| StoreError::of_file("write", &target, source))?;
        if content.is_cut {
            break;
        }
    }
    Ok(())
}

/// The records of the logs in `dir` that can be read, and lie behind one that cannot.
pub(crate) fn records_behind_damage(dir: &Path) -> Result<Vec<Vec<u8>>, StoreError> {
    let (mut behind, mut is_cut) = (Vec::new(), false);
    for path in list_logs(dir)? {
        let content = read_log(read_whole(&path)?);
        if is_cut {
            behind.extend(content.records);
        }
        is_cut |= content.is_cut;
        behind.extend(content.later);
    }
    Ok(behind)
}

/// All of a log. One that is gone is empty: a reading process looks while the owner replaces files.
fn read_whole(path: &Path) -> Result<Vec<u8>, StoreError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| StoreError::of_file("read", path, source)),
    }
}

/// Fails if `bytes`, a log or a manifest, holds a record of a kind that is never written there.
fn check_kinds(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut blocks = (0..).step_by(BLOCK_LEN).zip(bytes.chunks(BLOCK_LEN));
    let found = blocks.find_map(|(start, block)| Some(start + recycled_record(block)?));
    match found {
        None => Ok(()),
        Some(at) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Err(StoreError::damaged_record(
                format!("{name} of the database"),
                format!("the record at byte {at} is of no kind that is written"),
            ))
        }
    }
}

/// The logs, oldest first: their names are numbers of one length.
fn list_logs(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut logs = list_files(dir, |name| {
        Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "log")
    })?;
    logs.sort();
    Ok(logs)
}

fn list_files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |source| StoreError::of_file("read the folder", dir, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(&wanted)
        {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Offset in a block of the first record of a recycled log. Other faults are left to RocksDB's
/// checksums.
fn recycled_record(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some([_, _, _, _, low, high, kind]) = block.get(at..at + HEADER_LEN) {
        if is_recycled(*kind) {
            return Some(at);
        }
        at += HEADER_LEN + usize::from(u16::from_le_bytes([*low, *high]));
    }
    None
}

/// Type and end of the sound fragment that begins at `at` of a log, if one does.
fn parse_fragment(log: &[u8], at: usize) -> Option<(u8, usize)> {
    let header = log.get(at..at + HEADER_LEN)?;
    let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    // No record is written with type zero.
    if kind == 0 || is_recycled(kind) || in_block(at) + HEADER_LEN + len > BLOCK_LEN {
        return None;
    }
    let end = at + HEADER_LEN + len;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    (fragment_checksum(log.get(at + 6..end)?) == stored).then_some((kind, end))
}

fn in_block(at: usize) -> usize {
    at % BLOCK_LEN
}

/// True if only recycled logs have records of this type.
fn is_recycled(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

/// The checksum of a type and the bytes after the header.
fn fragment_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(CHECKSUM_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let body = [&[kind], payload].concat();
        let sum = crc32c::crc32c(&body)
            .rotate_right(15)
            .wrapping_add(CHECKSUM_SHIFT);
        [
            &sum.to_le_bytes()[..],
            &(payload.len() as u16).to_le_bytes(),
            &body,
        ]
        .concat()
    }

    #[test]
    fn only_records_of_recycled_logs_are_refused() {
        for kind in [1, 2, 3, 4, 9, 10, 130, 200] {
            assert_eq!(
                recycled_record(&[record(1, &[9; 300]), record(kind, &[9; 20])].concat()),
                None,
                "{kind}"
            );
        }
        for kind in [5, 6, 7, 8, 11, 131] {
            assert_eq!(
                recycled_record(&[record(1, &[9; 300]), record(kind, &[9; 20])].concat()),
                Some(307),
                "{kind}"
            );
        }
        assert_eq!(recycled_record(&[0; 100]), None);
        assert_eq!(recycled_record(&[]), None);
    }

    /// RocksDB takes zeros for the end of a log, whatever follows.
    #[test]
    fn zeros_before_records_are_damage_and_at_the_end_they_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let whole = [record(1, &[9; 300]), record(1, &[8; 200]), record(1, &[7])].concat();
        let zeroed = |range: std::ops::Range<usize>| {
            let mut log = whole.clone();
            log[range].fill(0);
            log
        };
        let is_sound = |first: &[u8], second: &[u8]| {
            std::fs::write(dir.path().join("000001.log"), first).expect("room");
            std::fs::write(dir.path().join("000002.log"), second).expect("room");
            let whole = cut_torn_end(dir.path()).expect("it reads");
            assert!(!whole || check_logs(dir.path()).is_ok());
            check_logs(dir.path()).is_ok()
        };
        for range in [0..1, 0..40, 307..320, 310..500, 200..310] {
            assert!(!is_sound(&zeroed(range.clone()), b""), "{range:?}");
        }
        assert!(is_sound(&whole, b"") && is_sound(&whole, &whole));
        assert!(
            is_sound(&zeroed(520..whole.len()), b""),
            "the last one is torn"
        );
        assert!(
            !is_sound(&zeroed(520..whole.len()), &whole),
            "another log follows"
        );
    }

    #[test]
    fn a_log_that_rocksdb_wrote_is_whole() {
        let (dir, store) = crate::model::new_store(4096);
        for nth in 0..300 {
            store
                .create_image(&crate::model::name(&format!("image-{nth}")), 1 << 40)
                .expect("created");
        }
        let (database, room) = (
            dir.path().join("store").join("database"),
            tempfile::tempdir().expect("a folder"),
        );
        copy_whole_part(&database, room.path()).expect("copied");
        for path in list_logs(&database).expect("listed") {
            let copy = room.path().join(path.file_name().expect("a name"));
            assert!(std::fs::read(copy).expect("a copy") == std::fs::read(path).expect("a log"));
        }
    }
}
