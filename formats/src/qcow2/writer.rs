//! A qcow2 that is written, version 3: plain or compressed, with or without subclusters, with or
//! without a backing file.
//!
//! ```text
//! cluster       what
//! 0             header, extensions, the backing file's name
//! 1             L1 table
//! behind it     content in the disk's order; behind the clusters of each L2 table the table
//!               itself; blocks of refcounts when they are complete
//! at the end    the last blocks of refcounts, the refcount table
//!
//! Header: what is not named in the reader's table
//! 48  8  place of the refcount table     56  4  its clusters
//! 96  4  refcount order: 4, 16 bits      100 4  length: 112
//! ```
//!
//! Compressed clusters lie without gaps, as qemu puts them; one that does not shrink is plain. A
//! cluster of zeros has no entry, or the flag "zero" over a backing file.

use super::FORMAT;
use super::entry::{COMPRESSED, COPIED, READS_AS_ZEROS, SUBCLUSTERS_BITS};
use super::header::{
    CLUSTER_BITS_MAX, CLUSTER_BITS_MIN, COMPRESSION, EXTENDED_CLUSTER_BITS_MIN, EXTENDED_L2,
    EXTENSION_BACKING_FORMAT, L1_LEN_MAX, MAGIC, table_span_bits,
};
use super::refcounts::{RefcountEnd, RefcountWriter};
use crate::write::flow::{CellFlow, CellPacking, CellSink};
use crate::write::{
    CellGap, CellGrid, ClusterCodecName, HeaderBytes, ImageTarget, ImageWriteError, Qcow2Kind,
    SECTOR_LEN, WriteJob, WrittenImage, end_file, impossible_image, put_bytes,
};

/// qemu's own default.
const CLUSTER_BITS: u32 = 16;
const HEADER_LEN: usize = 112;
const REFCOUNT_ORDER: u32 = 4;
const ZERO_SUBCLUSTERS_SHIFT: u32 = 32;

/// The file under construction.
struct Qcow2Writer<'t> {
    target: &'t mut dyn ImageTarget,
    cluster_bits: u32,
    is_extended: bool,
    l1: Vec<u64>,
    table: Option<FillingTable>,
    refcounts: RefcountWriter,
    /// The byte that comes next; inside a cluster after compressed ones.
    position: u64,
}

/// The L2 table that is filling.
struct FillingTable {
    index: u64,
    words: Vec<u64>,
}

pub(crate) fn write_image(
    kind: Qcow2Kind,
    job: &mut WriteJob,
) -> Result<WrittenImage, ImageWriteError> {
    job.options.verify_names(FORMAT)?;
    let image_len = job.sector_len();
    let cluster_bits = cluster_bits(kind, image_len)?;
    let l1_count = image_len.div_ceil(1 << table_span_bits(cluster_bits, kind.has_extended_l2));
    let head = first_cluster(kind, job, cluster_bits)?;
    let has_parent = job.has_parent();
    let has_subclusters = kind.has_extended_l2 && kind.codec.is_none();
    let cell_bits = if has_subclusters {
        cluster_bits - SUBCLUSTERS_BITS
    } else {
        cluster_bits
    };
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(1 << cell_bits, has_parent),
        packing: kind.codec.map(|codec| CellPacking {
            codec: codec.cluster_codec(),
            encoder: job.encoder,
            is_always: false,
        }),
    };
    let mut writer = Qcow2Writer::new(
        &mut *job.target,
        cluster_bits,
        kind.has_extended_l2,
        l1_count,
    );
    flow.copy_to(&mut writer)?;
    let end_of_file = writer.write_tables()?;
    put_bytes(&mut *job.target, &head.with_refcounts(&end_of_file), 0)?;
    let file_len = end_of_file.clusters << cluster_bits;
    end_file(&mut *job.target, file_len)?;
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: None,
    })
}

/// The cluster length that was asked for, or the least from 64 KiB on whose L1 table is not too
/// long.
fn cluster_bits(kind: Qcow2Kind, image_len: u64) -> Result<u32, ImageWriteError> {
    let least = if kind.has_extended_l2 {
        EXTENDED_CLUSTER_BITS_MIN
    } else {
        CLUSTER_BITS_MIN
    };
    let fits = |bits: &u32| {
        let span_bits = table_span_bits(*bits, kind.has_extended_l2);
        image_len.div_ceil(1 << span_bits) * 8 <= L1_LEN_MAX
    };
    let found = match kind.cluster_bits {
        Some(bits) => Some(bits)
            .filter(|bits| (least..=CLUSTER_BITS_MAX).contains(bits))
            .filter(fits),
        None => (CLUSTER_BITS..=CLUSTER_BITS_MAX).find(fits),
    };
    found.ok_or_else(|| {
        impossible_image(
            FORMAT,
            format!("{image_len} bytes cannot be written in clusters of this length"),
        )
    })
}

/// The first cluster, but for what is known at the end.
struct FirstCluster(HeaderBytes);

fn first_cluster(
    kind: Qcow2Kind,
    job: &WriteJob,
    cluster_bits: u32,
) -> Result<FirstCluster, ImageWriteError> {
    let cluster_len = 1_usize << cluster_bits;
    let span_bits = table_span_bits(cluster_bits, kind.has_extended_l2);
    let l1_count = job.sector_len().div_ceil(1 << span_bits);
    let is_zstd = kind.codec == Some(ClusterCodecName::Zstd);
    let mut features = 0;
    if is_zstd {
        features |= COMPRESSION;
    }
    if kind.has_extended_l2 {
        features |= EXTENDED_L2;
    }
    let parent = job.options.parent.as_ref();
    let mut extensions = Vec::new();
    if let Some(format) = parent.and_then(|parent| parent.format.as_deref()) {
        extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format.as_bytes());
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name = parent.map_or("", |parent| parent.path.as_str()).as_bytes();
    let name_offset = HEADER_LEN + extensions.len();
    if name_offset + name.len() > cluster_len {
        return Err(impossible_image(
            FORMAT,
            "the backing file's name does not fit into the first cluster",
        ));
    }
    let mut header = HeaderBytes::new(name_offset + name.len());
    header
        .put_field(0, MAGIC)
        .be_u32(4, 3)
        .be_u64(
            8,
            if name.is_empty() {
                0
            } else {
                name_offset as u64
            },
        )
        .be_u32(16, name.len() as u32)
        .be_u32(20, cluster_bits)
        .be_u64(24, job.sector_len())
        .be_u32(36, l1_count as u32)
        .be_u64(40, cluster_len as u64)
        .be_u64(72, features)
        .be_u32(96, REFCOUNT_ORDER)
        .be_u32(100, HEADER_LEN as u32)
        .put_field(104, &[u8::from(is_zstd)])
        .put_field(HEADER_LEN, &extensions)
        .put_field(name_offset, name);
    Ok(FirstCluster(header))
}

impl FirstCluster {
    fn with_refcounts(mut self, end: &RefcountEnd) -> Vec<u8> {
        self.0
            .be_u64(48, end.table_place)
            .be_u32(56, end.table_clusters as u32);
        self.0.as_slice().to_vec()
    }
}

impl<'t> Qcow2Writer<'t> {
    fn new(
        target: &'t mut dyn ImageTarget,
        cluster_bits: u32,
        is_extended: bool,
        l1_count: u64,
    ) -> Self {
        let mut writer = Self {
            target,
            cluster_bits,
            is_extended,
            l1: vec![0; l1_count as usize],
            table: None,
            refcounts: RefcountWriter::new(cluster_bits),
            position: 0,
        };
        // The header, and the L1 table.
        let l1_clusters = (8 * l1_count).div_ceil(writer.cluster_len());
        writer.take_clusters(1 + l1_clusters);
        writer
    }

    fn cluster_len(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The next `count` whole clusters; returns the place of the first.
    fn take_clusters(&mut self, count: u64) -> u64 {
        let first = self.position.div_ceil(self.cluster_len());
        for cluster in first..first + count {
            self.refcounts.add_user(cluster);
        }
        self.position = (first + count) << self.cluster_bits;
        first << self.cluster_bits
    }

    /// The next `len` bytes, which share their clusters.
    fn take_bytes(&mut self, len: u64) -> u64 {
        if self.refcounts.is_full(self.position >> self.cluster_bits) {
            self.position = self.position.next_multiple_of(self.cluster_len());
        }
        let place = self.position;
        for cluster in place >> self.cluster_bits..=(place + len - 1) >> self.cluster_bits {
            self.refcounts.add_user(cluster);
        }
        self.position += len;
        place
    }

    /// Writes the blocks of refcounts that are complete.
    fn settle_refcounts(&mut self) -> Result<(), ImageWriteError> {
        while self.refcounts.is_due(self.position >> self.cluster_bits) {
            let place = self.take_clusters(1);
            self.refcounts.write_block(&mut *self.target, place)?;
        }
        Ok(())
    }

    /// The word of a cluster's entry, in the table that holds it.
    fn entry_words(&mut self, cluster: u64) -> Result<&mut [u64], ImageWriteError> {
        let words_per_entry = if self.is_extended { 2 } else { 1 };
        let words = self.cluster_len() / 8;
        let (index, within) = (
            cluster / (words / words_per_entry),
            cluster % (words / words_per_entry),
        );
        if self.table.as_ref().is_none_or(|table| table.index != index) {
            self.close_table()?;
        }
        let table = self.table.get_or_insert_with(|| FillingTable {
            index,
            words: vec![0; words as usize],
        });
        let at = (within * words_per_entry) as usize;
        let entry = table.words.get_mut(at..at + words_per_entry as usize);
        Ok(entry.expect("a table has an entry for each of its clusters"))
    }

    fn close_table(&mut self) -> Result<(), ImageWriteError> {
        let Some(table) = self.table.take() else {
            return Ok(());
        };
        let bytes: Vec<u8> = table
            .words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        let place = self.take_clusters(1);
        put_bytes(&mut *self.target, &bytes, place)?;
        let entry = self.l1.get_mut(table.index as usize);
        *entry.expect("the L1 table has an entry for each table of the disk") = place | COPIED;
        self.settle_refcounts()
    }

    fn write_tables(mut self) -> Result<RefcountEnd, ImageWriteError> {
        self.close_table()?;
        let l1: Vec<u8> = self
            .l1
            .iter()
            .flat_map(|entry| entry.to_be_bytes())
            .collect();
        let l1_place = self.cluster_len();
        if !l1.is_empty() {
            put_bytes(&mut *self.target, &l1, l1_place)?;
        }
        let clusters = self.position.div_ceil(self.cluster_len());
        self.refcounts.write_rest(&mut *self.target, clusters)
    }

    /// Makes the cluster's entry say where its plain bytes are, in part: `subclusters` are
    /// allocated.
    fn set_plain(
        &mut self,
        cluster: u64,
        place: u64,
        subclusters: u32,
    ) -> Result<(), ImageWriteError> {
        if let [entry, bitmap @ ..] = self.entry_words(cluster)? {
            *entry = place | COPIED;
            if let [bitmap] = bitmap {
                *bitmap |= u64::from(subclusters);
            }
        }
        Ok(())
    }

    /// The place of a cluster that has some subclusters already.
    fn place_of(&mut self, cluster: u64) -> Result<Option<u64>, ImageWriteError> {
        let entry = self
            .entry_words(cluster)?
            .first()
            .copied()
            .unwrap_or_default();
        Ok(Some(entry & !COPIED).filter(|place| *place != 0))
    }

    /// Parts of a range, cluster by cluster: its number, the offset in it, the length.
    fn cluster_parts(&self, start: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
        let cluster_len = self.cluster_len();
        let (mut at, end) = (start, start + len);
        std::iter::from_fn(move || {
            let within = at % cluster_len;
            let part_len = (cluster_len - within).min(end.checked_sub(at)?);
            let part = (part_len > 0).then_some((at / cluster_len, within, part_len))?;
            at += part_len;
            Some(part)
        })
    }

    /// The bits of the subclusters in a part of a cluster.
    fn subcluster_mask(&self, within: u64, len: u64) -> u32 {
        let bits = self.cluster_bits - SUBCLUSTERS_BITS;
        let (first, count) = (within >> bits, (len >> bits).min(32));
        (((1_u64 << count) - 1) << first) as u32
    }
}

impl CellSink for Qcow2Writer<'_> {
    fn write_gap(&mut self, start: u64, len: u64, gap: CellGap) -> Result<(), ImageWriteError> {
        if gap == CellGap::Absent {
            return Ok(());
        }
        for (cluster, within, len) in self.cluster_parts(start, len) {
            let zeros = if self.is_extended {
                self.subcluster_mask(within, len)
            } else {
                0
            };
            match self.entry_words(cluster)? {
                [_, bitmap] => *bitmap |= u64::from(zeros) << ZERO_SUBCLUSTERS_SHIFT,
                [entry, ..] => *entry = READS_AS_ZEROS,
                [] => {}
            }
        }
        Ok(())
    }

    /// Parts that follow each other in the file are written at once.
    fn write_data(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        let (mut from, mut run_place, mut at) = (0, None, 0);
        for (cluster, within, len) in self.cluster_parts(start, bytes.len() as u64) {
            let known = if self.is_extended {
                self.place_of(cluster)?
            } else {
                None
            };
            // Closing a table takes a cluster: before this one gets its own.
            self.entry_words(cluster)?;
            let place = match known {
                Some(place) => place,
                None => self.take_clusters(1),
            };
            let subclusters = if self.is_extended {
                self.subcluster_mask(within, len)
            } else {
                0
            };
            self.set_plain(cluster, place, subclusters)?;
            let here = place + within;
            let run_end = run_place.map(|place| place + (at - from) as u64);
            if run_end != Some(here) {
                self.put_run(bytes.get(from..at), run_place)?;
                (from, run_place) = (at, Some(here));
            }
            at += len as usize;
        }
        self.put_run(bytes.get(from..at), run_place)?;
        self.settle_refcounts()
    }

    fn write_packed(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        let cluster = start >> self.cluster_bits;
        self.entry_words(cluster)?;
        let len = bytes.len() as u64;
        let place = self.take_bytes(len);
        put_bytes(&mut *self.target, bytes, place)?;
        let more_sectors = (place + len - 1) / SECTOR_LEN - place / SECTOR_LEN;
        let offset_bits = 62 - (self.cluster_bits - 8);
        let word = COMPRESSED | more_sectors << offset_bits | place;
        if let Some(entry) = self.entry_words(cluster)?.first_mut() {
            *entry = word;
        }
        self.settle_refcounts()
    }
}

impl Qcow2Writer<'_> {
    fn put_run(&mut self, bytes: Option<&[u8]>, place: Option<u64>) -> Result<(), ImageWriteError> {
        match (bytes, place) {
            (Some(bytes), Some(place)) if !bytes.is_empty() => {
                put_bytes(&mut *self.target, bytes, place)
            }
            _ => Ok(()),
        }
    }
}
