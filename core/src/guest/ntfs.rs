//! NTFS: which clusters its bitmap calls free.
//!
//! ```text
//! Boot sector (Linux fs/ntfs3/ntfs.h; little-endian)
//! 0x03    8     "NTFS    "
//! 0x0b    2     a sector's length
//! 0x0d    1     sectors of a cluster; above 0x80 two to the power of 256 less this
//! 0x28    8     sectors                                            clusters past the volume's end
//! 0x30    8     first cluster of the master file table
//! 0x40    1     clusters of a record; above 0x80 bytes, two to the power of 256 less this
//!
//! Record of the master file table: 2 is the journal, 3 the volume, 6 the bitmap
//! 0x00    4     "FILE"
//! 0x04    4     place and count of what is exchanged with the ends of 512 bytes    torn writes
//! 0x14    2     first attribute
//! 0x16    2     flags: 1 in use
//!
//! Attribute
//! 0x00    4     type: 0x20 others of it are elsewhere, 0x70 the volume's state, 0x80 content
//! 0x04    4     length                                             attributes without end
//! 0x08    1     1 if its content is in runs of clusters
//! 0x09    1     length of its name; the one that is meant here has none
//! 0x10    6     length and place of a content in the record
//! 0x10    8     first cluster of the content; 0
//! 0x20    2     place of the runs
//! 0x30    8     length of the content
//! Run: lengths of the next two in 4 bits each, how many clusters, how far from the run before
//!
//! Volume's state: flags at 0x0a: 1 dirty, 0x4000 chkdsk is at work
//!
//! Restart page of the journal: there are two, the newer counts
//! 0x00    4     "RSTR" or "CHKD"; all ones in a journal that was emptied
//! 0x10    4     a page's length, where the second one is
//! 0x18    2     place of the restart area
//! 0x1c    2     major version: 2 while Windows has it, or sleeps with it
//! Restart area: number at 0x00 (8 bytes), first client in use at 0x0c, flags at 0x0e: 2 is clean
//!
//! Header of shadow copies (libvshadow's documentation; at byte 0x1e00)
//! 0x00    16    3808876b-c176-4e48-b7ae-04046e6cc752
//! 0x30    8     where their catalog is: they read clusters that are free now
//! ```

use std::ops::Range;

use super::bits::next_clear;
use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume};
use crate::source::ReadAt;

const MAGIC: &[u8] = b"NTFS    ";
/// The end of each of these is exchanged in records.
const STRIDE: usize = 512;
const CLUSTER_LEN_MAX: u64 = 2 << 20;
const RECORD_LENS: std::ops::RangeInclusive<u64> = 512..=65_536;
/// Attributes of a record: more than fit.
const ATTRIBUTES_MAX: usize = 4096;
const RECORD_MFT: u64 = 0;
const RECORD_JOURNAL: u64 = 2;
const RECORD_VOLUME: u64 = 3;
const RECORD_BITMAP: u64 = 6;
/// Records that are always together at the beginning.
const FIRST_RECORDS: u64 = 16;
const ATTRIBUTE_LIST: u32 = 0x20;
const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const END: u32 = u32::MAX;
const DIRTY: u16 = 0x4001;
const RESTART_CLEAN: u16 = 2;
const NO_CLIENT: u16 = 0xffff;
/// A part of the bitmap that is read at once.
const BITMAP_PART_LEN: u64 = 64 << 10;
const SHADOW_COPIES_AT: u64 = 0x1e00;
const SHADOW_COPIES_ID: [u8; 16] = [
    0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e, 0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52,
];

struct Ntfs<'d> {
    disk: &'d dyn ReadAt,
    volume: &'d Volume,
    cluster_len: u64,
    clusters: u64,
    table: u64,
    record_len: u64,
}

/// The content of a file as runs of clusters.
struct ClusterRuns {
    runs: Vec<Range<u64>>,
    len: u64,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut boot = [0; 512];
    if !volume.try_read_at(disk, 0, &mut boot)? || !ByteFields(&boot).starts_with(3, MAGIC) {
        return Ok(None);
    }
    let ntfs = Ntfs::parse(disk, volume, ByteFields(&boot))?;
    let found = |verdict| {
        Ok(Some(GuestFileSystem {
            kind: "ntfs",
            verdict,
        }))
    };
    if ntfs.has_shadow_copies()? {
        return found(FreeVerdict::kept_because(
            "it has shadow copies, which read clusters that are free",
        ));
    }
    let table = content_runs(&ntfs.read_record(RECORD_MFT)?, ntfs.clusters)?;
    let first = table.runs.first().map_or(0, |run| run.end - run.start);
    if table.runs.first().map(|run| run.start) != Some(ntfs.table)
        || first * ntfs.cluster_len < FIRST_RECORDS * ntfs.record_len
    {
        return malformed("the beginning of its file table");
    }
    let bitmap = ntfs.read_record(RECORD_BITMAP)?;
    if find_attribute(&bitmap, ATTRIBUTE_LIST)?.is_some() {
        return found(FreeVerdict::kept_because(
            "its bitmap is in too many pieces",
        ));
    }
    let bitmap = content_runs(&bitmap, ntfs.clusters)?;
    let journal = content_runs(&ntfs.read_record(RECORD_JOURNAL)?, ntfs.clusters)?;
    let mut used = [&table.runs[..], &bitmap.runs, &journal.runs].concat();
    used.push(0..1);
    used.sort_unstable_by_key(|run| run.start);
    ntfs.visit_free(&bitmap, &used, visit)?;
    found(ntfs.free_verdict(&journal)?)
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "ntfs",
        reason,
    })
}

impl<'d> Ntfs<'d> {
    fn parse(
        disk: &'d dyn ReadAt,
        volume: &'d Volume,
        fields: ByteFields<'_>,
    ) -> Result<Self, GuestError> {
        let power = |byte: u8| 1_u64.checked_shl(256 - u32::from(byte));
        let sector_len = u64::from(fields.le16(0x0b));
        let cluster_sectors = match fields.u8(0x0d) {
            byte @ 0x81.. => power(byte),
            byte => Some(byte.into()),
        };
        let cluster_len = cluster_sectors.and_then(|sectors| sectors.checked_mul(sector_len));
        let Some(cluster_len) = cluster_len
            .filter(|len| len.is_power_of_two() && (512..=CLUSTER_LEN_MAX).contains(len))
        else {
            return malformed("the length of its clusters");
        };
        let record_len = match fields.u8(0x40) {
            byte @ 0x81.. => power(byte),
            byte => Some(u64::from(byte) * cluster_len),
        };
        let Some(record_len) =
            record_len.filter(|len| len.is_power_of_two() && RECORD_LENS.contains(len))
        else {
            return malformed("the length of its records");
        };
        let len = fields.le64(0x28).checked_mul(sector_len);
        let Some(len) = len.filter(|len| *len <= volume.len) else {
            return malformed("the number of its sectors");
        };
        Ok(Self {
            disk,
            volume,
            cluster_len,
            clusters: len / cluster_len,
            table: fields.le64(0x30),
            record_len,
        })
    }

    /// One of the first records, whole.
    fn read_record(&self, number: u64) -> Result<Vec<u8>, GuestError> {
        let mut bytes = vec![0; self.record_len as usize];
        let at = self
            .table
            .checked_mul(self.cluster_len)
            .and_then(|start| start.checked_add(number * self.record_len));
        let is_read = match at {
            Some(at) => self.volume.try_read_at(self.disk, at, &mut bytes)?,
            None => false,
        };
        if !is_read || !bytes.starts_with(b"FILE") {
            return malformed("a record of its file table");
        }
        restore_ends(&mut bytes)?;
        if ByteFields(&bytes).le16(0x16) & 1 == 0 {
            return malformed("a record that is not in use");
        }
        Ok(bytes)
    }

    fn has_shadow_copies(&self) -> Result<bool, GuestError> {
        let mut bytes = [0; 512];
        self.volume
            .try_read_at(self.disk, SHADOW_COPIES_AT, &mut bytes)?;
        let fields = ByteFields(&bytes);
        Ok(fields.starts_with(0, &SHADOW_COPIES_ID) && fields.le64(0x30) != 0)
    }

    /// Visits the runs of clear bits. None of them may be of `used`, which is in order.
    fn visit_free(
        &self,
        bitmap: &ClusterRuns,
        used: &[Range<u64>],
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        let needed = self.clusters.div_ceil(8);
        let held: u64 = bitmap.runs.iter().map(|run| run.end - run.start).sum();
        if bitmap.len < needed || held * self.cluster_len < needed {
            return malformed("its bitmap is too short");
        }
        let mut first = 0;
        let mut part = vec![0; BITMAP_PART_LEN as usize];
        for run in &bitmap.runs {
            let (mut at, end) = (run.start * self.cluster_len, run.end * self.cluster_len);
            while at < end && first < self.clusters {
                let len = BITMAP_PART_LEN.min(end - at);
                let Some(part) = part.get_mut(..len as usize) else {
                    break;
                };
                if !self.volume.try_read_at(self.disk, at, part)? {
                    return malformed("its bitmap lies past its end");
                }
                let bits = (len * 8).min(self.clusters - first);
                self.clear_bits(part, first, bits, used, &mut *visit)?;
                (at, first) = (at + len, first + len * 8);
            }
        }
        Ok(())
    }

    fn clear_bits(
        &self,
        part: &[u8],
        first: u64,
        bits: u64,
        used: &[Range<u64>],
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        let mut bit = 0;
        while bit < bits {
            let clear = next_clear(part, bit, bits);
            bit = clear.end;
            if clear.is_empty() {
                continue;
            }
            let clusters = first + clear.start..first + clear.end;
            let next = used.partition_point(|run| run.end <= clusters.start);
            if used.get(next).is_some_and(|run| run.start < clusters.end) {
                return malformed("its bitmap calls its own tables free");
            }
            let bytes = clusters.start * self.cluster_len..clusters.end * self.cluster_len;
            visit(self.volume.disk_range(bytes))?;
        }
        Ok(())
    }

    fn free_verdict(&self, journal: &ClusterRuns) -> Result<FreeVerdict, GuestError> {
        let record = self.read_record(RECORD_VOLUME)?;
        let Some(state) = find_attribute(&record, VOLUME_INFORMATION)? else {
            return malformed("a volume without its state");
        };
        if resident_content(state).le16(0x0a) & DIRTY != 0 {
            return Ok(FreeVerdict::unclean_because("it is marked as dirty"));
        }
        Ok(if self.journal_is_closed(journal)? {
            FreeVerdict::Free
        } else {
            FreeVerdict::unclean_because(
                "it is mounted, or was not unmounted, or Windows sleeps with it: its journal is \
                 open",
            )
        })
    }

    /// True if the newer of the two restart pages says that the volume was closed.
    fn journal_is_closed(&self, journal: &ClusterRuns) -> Result<bool, GuestError> {
        let Some(run) = journal.runs.first() else {
            return Ok(false);
        };
        let (start, len) = (
            run.start * self.cluster_len,
            (run.end - run.start) * self.cluster_len,
        );
        let mut newest: Option<(u64, bool)> = None;
        let mut at = 0;
        for _ in 0..2 {
            let mut page = [0; STRIDE];
            if at + STRIDE as u64 > len
                || !self.volume.try_read_at(self.disk, start + at, &mut page)?
            {
                break;
            }
            if at == 0 && page.iter().all(|byte| *byte == 0xff) {
                return Ok(true);
            }
            let fields = ByteFields(&page);
            if let Some((number, is_closed)) = parse_restart_page(fields)
                && newest.is_none_or(|(newest, _)| number > newest)
            {
                newest = Some((number, is_closed));
            }
            at = u64::from(fields.le32(0x10)).max(STRIDE as u64);
        }
        Ok(newest.is_some_and(|(_, is_closed)| is_closed))
    }
}

/// The number of a restart page, and whether it says that the volume was closed.
fn parse_restart_page(fields: ByteFields<'_>) -> Option<(u64, bool)> {
    let area = usize::from(fields.le16(0x18));
    let is_page = fields.starts_with(0, b"RSTR") || fields.starts_with(0, b"CHKD");
    if !is_page || !(0x1e..STRIDE - 2 - 0x10).contains(&area) {
        return None;
    }
    let is_closed = fields.le16(0x1c) < 2
        && (fields.le16(area + 0x0c) == NO_CLIENT || fields.le16(area + 0x0e) & RESTART_CLEAN != 0);
    Some((fields.le64(area), is_closed))
}

/// Puts back what is kept of the end of each 512 bytes.
fn restore_ends(bytes: &mut [u8]) -> Result<(), GuestError> {
    let fields = ByteFields(bytes);
    let (at, count) = (usize::from(fields.le16(4)), usize::from(fields.le16(6)));
    if count != bytes.len() / STRIDE + 1 || at + 2 * count > STRIDE - 2 {
        return malformed("the ends of a record");
    }
    let mark = fields.le16(at).to_le_bytes();
    let ends: Vec<[u8; 2]> = (1..count)
        .map(|nth| fields.le16(at + 2 * nth).to_le_bytes())
        .collect();
    for (sector, end) in bytes.chunks_exact_mut(STRIDE).zip(ends) {
        let Some(last) = sector.last_chunk_mut::<2>() else {
            continue;
        };
        if *last != mark {
            return malformed("a record that was torn");
        }
        *last = end;
    }
    Ok(())
}

/// The first attribute of a type that has no name.
fn find_attribute(record: &[u8], wanted: u32) -> Result<Option<ByteFields<'_>>, GuestError> {
    let fields = ByteFields(record);
    let mut at = usize::from(fields.le16(0x14));
    for _ in 0..ATTRIBUTES_MAX {
        let (kind, len) = (fields.le32(at), fields.le32(at + 4) as usize);
        if kind == END {
            return Ok(None);
        }
        if len < 0x18 || at + len > record.len() {
            break;
        }
        let found = ByteFields(fields.slice_of(at..at + len));
        if kind == wanted && found.u8(9) == 0 {
            return Ok(Some(found));
        }
        at += len;
    }
    malformed("the attributes of a record")
}

/// The content of an attribute that has it in the record.
fn resident_content(attribute: ByteFields<'_>) -> ByteFields<'_> {
    let (len, at) = (
        attribute.le32(0x10) as usize,
        usize::from(attribute.le16(0x14)),
    );
    ByteFields(if attribute.u8(8) == 0 {
        attribute.slice_of(at..at.saturating_add(len))
    } else {
        &[]
    })
}

/// The runs of the content of a file, all of them in the volume and none sparse.
fn content_runs(record: &[u8], clusters: u64) -> Result<ClusterRuns, GuestError> {
    let content = find_attribute(record, DATA)?.filter(|content| content.u8(8) == 1);
    let Some(content) = content.filter(|content| content.le64(0x10) == 0) else {
        return malformed("a table without its runs");
    };
    let (mut at, mut runs, mut start) = (usize::from(content.le16(0x20)), Vec::new(), 0_i64);
    loop {
        let head = content.u8(at);
        let (count_len, start_len) = (usize::from(head & 15), usize::from(head >> 4));
        if head == 0 {
            break;
        }
        if !(1..=8).contains(&count_len) || !(1..=8).contains(&start_len) {
            return malformed("the runs of a table");
        }
        let count = signed_le(content.slice_of(at + 1..at + 1 + count_len));
        let step = signed_le(content.slice_of(at + 1 + count_len..at + 1 + count_len + start_len));
        at += 1 + count_len + start_len;
        let run = start
            .checked_add(step)
            .and_then(|start| Some(start..start.checked_add(count)?))
            .and_then(|run| Some(u64::try_from(run.start).ok()?..u64::try_from(run.end).ok()?))
            .filter(|run| run.start < run.end && run.end <= clusters);
        let Some(run) = run else {
            return malformed("the runs of a table");
        };
        start += step;
        runs.push(run);
    }
    Ok(ClusterRuns {
        runs,
        len: content.le64(0x30),
    })
}

/// A little-endian number of at most 8 bytes.
fn signed_le(bytes: &[u8]) -> i64 {
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let fill = if is_negative { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(whole)
}
