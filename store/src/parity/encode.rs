//! Encodes a parity group: its tables are read once, from the front to the back, and its file is
//! written whole, synced, and named last.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use super::code::ParityEncoder;
use super::files::{ParityFolder, UnnamedFile};
use super::group::{BlockSum, GroupHead, ParityGroup, block_sums};
use super::shape::NewGroup;
use super::window::{read_stretch, split_windows};
use crate::error::StoreError;
use crate::watch::{Progress, Watch, go_on};

/// Reason that a group could not be made.
pub(super) enum EncodeRefusal {
    /// This table cannot be read, or is not what it was when it was first protected.
    Table(u64),
    Failed(StoreError),
}

impl From<StoreError> for EncodeRefusal {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Writes the group number `id` of the tables of `new`. `known` are the block sums of tables that
/// were protected before: what is not as it was then is not protected as it is.
pub(super) fn write_group(
    folder: &ParityFolder,
    id: u64,
    new: &NewGroup,
    known: &BTreeMap<u64, Vec<BlockSum>>,
    watch: &dyn Watch,
) -> Result<(), EncodeRefusal> {
    let head = GroupHead::for_new_group(new);
    let mut tables = Vec::new();
    for table in &new.members {
        let file = folder.open_table(table.number).ok();
        let file = file.filter(|file| file.metadata().is_ok_and(|found| found.len() == table.len));
        tables.push(file.ok_or(EncodeRefusal::Table(table.number))?);
    }
    let target = folder.group_path(id);
    let partial = UnnamedFile::create(folder)?;
    let write = |bytes: &[u8], at: u64| {
        partial
            .file()
            .write_all_at(bytes, at)
            .map_err(|source| StoreError::of_file("write", &target, source))
    };
    let mut group = ParityGroup {
        members: new.members.clone(),
        parity_count: new.parity_count,
        member_sums: vec![Vec::new(); new.members.len()],
        parity_sums: vec![Vec::new(); new.parity_count],
    };
    let (mut encoder, mut done) = (ParityEncoder::default(), 0);
    let total = Some(new.members.iter().map(|table| table.len).sum());
    for range in split_windows(&new.members, 0..usize::MAX) {
        go_on(watch)?;
        let data = read_data(new, &tables, &range, known)?;
        for ((_, sums), all) in data.iter().zip(&mut group.member_sums) {
            all.extend_from_slice(sums);
        }
        let data: Vec<&[u8]> = data.iter().map(|(bytes, _)| bytes.as_slice()).collect();
        for (at, bytes) in encoder
            .encode_parity(&data, new.parity_count)?
            .iter()
            .enumerate()
        {
            let from = head.record_len() + head.parity_len() * at as u64 + range.start_offset();
            write(bytes, from)?;
            group.parity_sums[at].extend(block_sums(bytes));
        }
        done += (range.len() * range.table_count) as u64;
        watch.report_progress(Progress { done, total });
    }
    write(&group.encode(), 0)?;
    Ok(partial.publish_as(&target)?)
}

/// One window of all tables that have it, with the sums of their blocks.
fn read_data(
    new: &NewGroup,
    tables: &[File],
    range: &super::window::WindowRange,
    known: &BTreeMap<u64, Vec<BlockSum>>,
) -> Result<Vec<(Vec<u8>, Vec<BlockSum>)>, EncodeRefusal> {
    (0..range.table_count)
        .into_par_iter()
        .map(|at| {
            let table = new.members[at];
            let (bytes, sums, is_read) = read_stretch(&tables[at], table.len, range);
            let is_as_known = known
                .get(&table.number)
                .is_none_or(|known| known.get(range.blocks.clone()) == Some(&sums[..]));
            if is_read && is_as_known {
                Ok((bytes, sums))
            } else {
                Err(EncodeRefusal::Table(table.number))
            }
        })
        .collect()
}
