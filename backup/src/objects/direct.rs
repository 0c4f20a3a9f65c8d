//! Direct I/O: writes a file past the page cache, since a pack is not read again soon and would
//! evict pages that are.
//!
//! It saves the copy into the cache, and the bytes are on their way to the disk at once instead of
//! when the file is synced. Where a file system does not support that, the file is written the
//! usual way.

use std::fs::File;
use std::io::{self, ErrorKind, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Shorter files are gone from the page cache soon enough.
const LEN_MIN: usize = 1 << 20;
/// Bytes of one write: enough that a disk is not waiting for the next, and few beside the pack that
/// they come from.
const PIECE_LEN: usize = 4 << 20;
/// The alignment of memory and file offsets for direct I/O, in bytes: a multiple of every disk's
/// block length.
const ALIGNMENT: usize = 4096;

/// Writes `bytes` at the position of `file`, which is a multiple of [`ALIGNMENT`]. Nothing is
/// durable before the file is synced.
pub(super) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    if bytes.len() >= LEN_MIN && set_direct(file, true).is_ok() {
        let direct = write_direct(file, bytes);
        // Also before an error is told: nothing may be left to find the file as it is not expected.
        set_direct(file, false)?;
        written = direct?;
    }
    file.write_all(&bytes[written..])
}

/// Writes as much as can be written so, whole blocks from the front; returns the number of bytes.
fn write_direct(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    let mut memory = vec![0; PIECE_LEN + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let aligned = &mut memory[start..start + PIECE_LEN];
    let mut written = 0;
    for piece in bytes.chunks(PIECE_LEN) {
        let whole = piece.len() / ALIGNMENT * ALIGNMENT;
        aligned[..whole].copy_from_slice(&piece[..whole]);
        match file.write(&aligned[..whole]) {
            Ok(len) => written += len,
            // Larger blocks than any known, or a file system that finds out only now.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Interrupted
                ) =>
            {
                return Ok(written);
            }
            Err(error) => return Err(error),
        }
        if written % PIECE_LEN > 0 {
            return Ok(written);
        }
    }
    Ok(written)
}

fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, is_direct);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &std::path::Path, len: usize) {
        let path = folder.join("pack");
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let file = File::create(&path).expect("a file");
        write_all(&file, &bytes).expect("written");
        assert!(
            std::fs::read(&path).expect("read") == bytes,
            "{len} bytes in {}",
            folder.display()
        );
        assert!(
            !fcntl_getfl(&file).expect("flags").contains(OFlags::DIRECT),
            "{len}: who writes on may write any length"
        );
    }

    #[test]
    fn every_length_is_written_whole_on_disks_and_in_memory() {
        let disk = tempfile::tempdir().expect("a folder");
        // Here older kernels refuse it.
        let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let edges = [
            0,
            LEN_MIN,
            LEN_MIN + ALIGNMENT,
            PIECE_LEN,
            2 * PIECE_LEN + LEN_MIN,
        ];
        for edge in edges
            .into_iter()
            .flat_map(|edge: usize| [edge.saturating_sub(1), edge, edge + 1])
        {
            check(disk.path(), edge);
            check(memory.path(), edge);
        }
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("it is everywhere");
        let error = write_all(&full, &vec![1; LEN_MIN]).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
