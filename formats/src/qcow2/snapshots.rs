//! The internal snapshots of a qcow2: which there are, and each as the image that it was.
//!
//! ```text
//! All numbers are big-endian. Source: qemu docs/interop/qcow2.rst.
//!
//! Entry of the snapshot table                              the failure its check guards
//! 0   8  offset of the L1 table                            a table outside the file
//! 8   4  entries of the L1 table                           content without a table
//! 12  2  length of the id, 14 2 of the name                texts outside the file
//! 16  8  when it was made: seconds (4), nanoseconds (4)
//! 32  4  length of the guest's memory, in bytes
//! 36  4  length of the extra data: 8 bytes longer length   entries of any length
//!        of the memory, 8 bytes length of the disk
//! 40     extra data, id, name; up to a multiple of 8
//! ```

use std::sync::Arc;

use super::header::Qcow2Header;
use super::{FORMAT, Qcow2, malformed};
use crate::fields::{be_u16, be_u32, be_u64};
use crate::{malformed as wrong, read_up_to};
use vellum_core::source::{ClusterDecoder, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

/// qemu's own limit.
const SNAPSHOTS_MAX: u32 = 65_536;
const ENTRY_LEN: u64 = 40;
/// qemu's own limit.
const EXTRA_LEN_MAX: u32 = 1024;

/// A state of the disk that was kept inside its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSnapshot {
    /// The id, unique in the file: a number as text.
    pub id: String,
    /// The name that a person gave; several may have the same.
    pub name: String,
    /// Its creation time, in seconds since 1970.
    pub seconds: u32,
    /// The disk's length at that time, in bytes.
    pub len: u64,
    /// Bytes of the guest's memory that are kept beside it, and not read.
    pub memory_len: u64,
    /// The place and the entries of its L1 table.
    l1: (u64, u32),
}

/// Lists the snapshots, in the file's order.
pub(crate) fn list_snapshots(file: &dyn ReadAt) -> Result<Vec<InternalSnapshot>, SourceError> {
    let header = Qcow2Header::read_from(file)?;
    if header.snapshots > SNAPSHOTS_MAX {
        return Err(malformed(format!(
            "{} snapshots at byte 60 are too many",
            header.snapshots
        )));
    }
    let (mut found, mut at) = (Vec::new(), header.snapshots_offset);
    for number in 0..header.snapshots {
        let (snapshot, len) = InternalSnapshot::read_entry(file, at, number, header.virtual_len)?;
        found.push(snapshot);
        at = at.saturating_add(len);
    }
    Ok(found)
}

/// Opens a state that [`list`] told of.
pub(crate) fn open_snapshot(
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    snapshot: &InternalSnapshot,
) -> Result<Qcow2, SourceError> {
    let header = Qcow2Header::read_from(&*file)?;
    let header = header.with_l1(snapshot.len, snapshot.l1, file.len())?;
    Qcow2::with_header(file, decoder, header)
}

impl InternalSnapshot {
    fn read_entry(
        file: &dyn ReadAt,
        at: u64,
        number: u32,
        disk_len: u64,
    ) -> Result<(Self, u64), SourceError> {
        let cut = || {
            wrong(
                FORMAT,
                format!("snapshot {number} at byte {at} leaves the file"),
            )
        };
        let fixed = read_up_to(file, at, ENTRY_LEN as usize)?;
        let extra_len = be_u32(&fixed, 36).ok_or_else(cut)?;
        if extra_len > EXTRA_LEN_MAX {
            return Err(malformed(format!(
                "snapshot {number} has {extra_len} bytes of extra data"
            )));
        }
        let (id_len, name_len) = (be_u16(&fixed, 12), be_u16(&fixed, 14));
        let (id_len, name_len) = id_len.zip(name_len).ok_or_else(cut)?;
        let (id_len, name_len) = (usize::from(id_len), usize::from(name_len));
        let texts_at = extra_len as usize;
        let rest_len = texts_at + id_len + name_len;
        let rest = read_up_to(file, at + ENTRY_LEN, rest_len)?;
        let text = |from: usize, len: usize| {
            let bytes = rest.get(from..from + len)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let extra = |at: usize| be_u64(&rest, at).filter(|_| at + 8 <= texts_at);
        let len = extra(8).unwrap_or(disk_len);
        if len > IMAGE_LEN_MAX {
            return Err(malformed(format!(
                "snapshot {number} has {len} bytes, which is too much"
            )));
        }
        let short_memory = be_u32(&fixed, 32).map_or(0, u64::from);
        let l1 = be_u64(&fixed, 0).zip(be_u32(&fixed, 8)).ok_or_else(cut)?;
        let snapshot = Self {
            id: text(texts_at, id_len).ok_or_else(cut)?,
            name: text(texts_at + id_len, name_len).ok_or_else(cut)?,
            seconds: be_u32(&fixed, 16).ok_or_else(cut)?,
            len,
            memory_len: extra(0).unwrap_or(short_memory),
            l1,
        };
        Ok((snapshot, (ENTRY_LEN + rest_len as u64).next_multiple_of(8)))
    }
}
