//! A qcow2 image as its content, versions 2 and 3.
//!
//! Read are plain, zero, unallocated and compressed clusters (deflate and zstd) and extended L2
//! entries (subclusters), through the active L1 table or that of an internal snapshot
//! (`snapshots`); persistent bitmaps become change maps (`bitmaps`). Refcounts are not looked at,
//! so a dirty image is read as it stands. Refused, with the reference or the feature named, are
//! external data files, encryption, images marked corrupt and features that are not known.
//!
//! An unallocated cluster is [`ExtentKind::Absent`], although an image without backing file reads
//! zeros there: the file says nothing about it, so whoever imports decides. Without a parent absent
//! is zero and the two agree; with one, the cluster is the parent's.
//!
//! It decodes no stream itself: that is the [`ClusterDecoder`].

pub(crate) mod bitmaps;
mod entry;
mod header;
mod refcounts;
pub(crate) mod snapshots;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entry::{CompressedCluster, Grain};
use header::Qcow2Header;
use table::{L2Table, L2Tables};

use super::{ImageFacts, read_exact};
use vellum_core::source::{ClusterDecoder, Extent, ExtentKind, ImageSource, ReadAt, SourceError};

const FORMAT: &str = "qcow2";
/// A run ends after this many grains at the latest, so that no question takes longer than a
/// millisecond or so in any image. At 64 KiB clusters a whole L2 table has an eighth of it.
const RUN_GRAINS_MAX: usize = 1 << 16;

/// An open image. Reading is safe from many threads at once.
pub(super) struct Qcow2 {
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    header: Qcow2Header,
    tables: L2Tables,
    /// The compressed cluster that was read in part last: readers in small steps would decode each
    /// cluster many times.
    decoded: Mutex<Option<DecodedCluster>>,
}

/// A compressed cluster's content: at most 2 MiB.
struct DecodedCluster {
    from: CompressedCluster,
    bytes: Vec<u8>,
}

/// Bytes of the image from some offset that one action fills.
struct GrainRun {
    len: u64,
    content: Grain,
}

impl Qcow2 {
    /// Reads and checks the header and the L1 table, at most 34 MiB. Of one with a backing file the
    /// clusters are absent where that one is seen.
    pub(super) fn open_active(
        file: Arc<dyn ReadAt>,
        decoder: Arc<dyn ClusterDecoder>,
    ) -> Result<Self, SourceError> {
        let header = Qcow2Header::read_from(&*file)?;
        Self::with_header(file, decoder, header)
    }

    fn with_header(
        file: Arc<dyn ReadAt>,
        decoder: Arc<dyn ClusterDecoder>,
        header: Qcow2Header,
    ) -> Result<Self, SourceError> {
        let tables = L2Tables::read_from(&*file, header)?;
        Ok(Self {
            file,
            decoder,
            header,
            tables,
            decoded: Mutex::new(None),
        })
    }
}

/// Tells an image's length and its backing file's name.
pub(super) fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    Ok(ImageFacts {
        parent: Qcow2Header::read_parent(file)?,
        ..ImageFacts::whole_image(Qcow2Header::read_from(file)?.virtual_len, FORMAT)
    })
}

impl ImageSource for Qcow2 {
    fn len(&self) -> u64 {
        self.header.virtual_len
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let same_kind =
            |run: &GrainRun, next: &GrainRun| kind_of(run.content) == kind_of(next.content);
        let run = self.run_at(offset, u64::MAX, same_kind)?;
        Ok(Extent {
            start: offset,
            len: run.len,
            kind: kind_of(run.content),
        })
    }

    fn left_behind(&self) -> Vec<String> {
        self.header.left_behind()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let run = self.run_at(offset, rest.len() as u64, GrainRun::goes_on_with)?;
            let (part, after) = rest.split_at_mut(as_len(run.len));
            self.fill_part(part, offset, run.content)?;
            offset += run.len;
            rest = after;
        }
        Ok(())
    }
}

impl Qcow2 {
    /// The run from `offset`, of `len_max` bytes at most, made of grains of one L2 table that
    /// `join`.
    fn run_at(
        &self,
        offset: u64,
        len_max: u64,
        join: impl Fn(&GrainRun, &GrainRun) -> bool,
    ) -> Result<GrainRun, SourceError> {
        let image_len = self.header.virtual_len;
        assert!(
            offset < image_len,
            "byte {offset} lies outside an image of {image_len}"
        );
        let end = offset.saturating_add(len_max).min(image_len);
        let Some(table) = self.tables.table_for(&*self.file, offset)? else {
            return Ok(GrainRun {
                len: self.tables.gap_end(offset, end) - offset,
                content: Grain::Absent,
            });
        };
        let end = end.min(self.tables.table_end(offset));
        let mut run = self.grain_at(&table, offset)?;
        for _ in 1..RUN_GRAINS_MAX {
            if offset + run.len >= end {
                break;
            }
            // A damaged neighbour only ends the run: whoever asks for it gets the error.
            match self.grain_at(&table, offset + run.len) {
                Ok(next) if join(&run, &next) => run.len += next.len,
                _ => break,
            }
        }
        Ok(GrainRun {
            len: run.len.min(len_max),
            ..run
        })
    }

    /// The meaning of the L2 table for the byte at `offset` and those after it in the same grain,
    /// or in the same compressed cluster.
    fn grain_at(&self, table: &L2Table, offset: u64) -> Result<GrainRun, SourceError> {
        let (rules, cluster_bits) = (self.tables.entry_rules(), self.header.cluster_bits);
        let cluster =
            (offset >> cluster_bits) % (1 << (self.header.table_span_bits() - cluster_bits));
        let grain = (offset >> rules.grain_bits()) % (1 << (cluster_bits - rules.grain_bits()));
        let (start, end) = self.unit_around(offset, rules.grain_bits());
        let content = rules.decode_grain(table.entry_words(as_len(cluster)), grain, end - start);
        match content
            .map_err(|reason| malformed(format!("the L2 entry for image byte {offset} {reason}")))?
        {
            Grain::Plain(place) => Ok(GrainRun {
                len: end - offset,
                content: Grain::Plain(place + (offset - start)),
            }),
            content @ Grain::Compressed(_) => Ok(GrainRun {
                len: self.unit_around(offset, cluster_bits).1 - offset,
                content,
            }),
            content => Ok(GrainRun {
                len: end - offset,
                content,
            }),
        }
    }

    /// The unit of `1 << bits` bytes around `offset`, as far as the image goes.
    fn unit_around(&self, offset: u64, bits: u32) -> (u64, u64) {
        let start = offset >> bits << bits;
        (start, (start + (1 << bits)).min(self.header.virtual_len))
    }

    fn fill_part(&self, part: &mut [u8], offset: u64, content: Grain) -> Result<(), SourceError> {
        match content {
            Grain::Absent | Grain::Zero => {
                part.fill(0);
                Ok(())
            }
            Grain::Plain(place) => read_exact(&*self.file, part, place),
            Grain::Compressed(from) if part.len() as u64 == self.header.cluster_len() => {
                self.decode_compressed(from, part)
            }
            Grain::Compressed(from) => self.fill_from_part(part, offset, from),
        }
    }

    fn fill_from_part(
        &self,
        part: &mut [u8],
        offset: u64,
        from: CompressedCluster,
    ) -> Result<(), SourceError> {
        let cluster_len = self.header.cluster_len();
        let kept = self.lock_decoded().take_if(|decoded| decoded.from == from);
        let decoded = match kept {
            Some(decoded) => decoded,
            None => self.decode_whole(from)?,
        };
        let skipped = decoded
            .bytes
            .get(as_len(offset % cluster_len)..)
            .unwrap_or_default();
        part.copy_from_slice(
            skipped
                .get(..part.len())
                .expect("a run of a compressed cluster ends with it"),
        );
        *self.lock_decoded() = Some(decoded);
        Ok(())
    }

    fn decode_whole(&self, from: CompressedCluster) -> Result<DecodedCluster, SourceError> {
        let mut bytes = vec![0; as_len(self.header.cluster_len())];
        self.decode_compressed(from, &mut bytes)?;
        Ok(DecodedCluster { from, bytes })
    }

    fn decode_compressed(
        &self,
        from: CompressedCluster,
        output: &mut [u8],
    ) -> Result<(), SourceError> {
        let mut input = vec![0; as_len(from.len)];
        read_exact(&*self.file, &mut input, from.offset)?;
        let done = self
            .decoder
            .decode_cluster(self.header.codec, &input, output);
        done.map_err(|reason| {
            malformed(format!(
                "the compressed cluster at byte {}: {reason}",
                from.offset
            ))
        })
    }

    /// A panic of another thread leaves a whole cluster or none.
    fn lock_decoded(&self) -> MutexGuard<'_, Option<DecodedCluster>> {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GrainRun {
    /// True if one action can fill both. A compressed cluster is always filled alone.
    fn goes_on_with(&self, next: &Self) -> bool {
        match (self.content, next.content) {
            (Grain::Absent, Grain::Absent) | (Grain::Zero, Grain::Zero) => true,
            (Grain::Plain(place), Grain::Plain(next)) => next == place + self.len,
            _ => false,
        }
    }
}

fn kind_of(content: Grain) -> ExtentKind {
    match content {
        Grain::Absent => ExtentKind::Absent,
        Grain::Zero => ExtentKind::Zero,
        Grain::Plain(_) | Grain::Compressed(_) => ExtentKind::Data,
    }
}

/// A length that is bounded by a buffer or by two clusters.
fn as_len(len: u64) -> usize {
    usize::try_from(len).expect("it is the length of something in memory")
}

fn malformed(reason: impl Into<String>) -> SourceError {
    SourceError::Malformed {
        format: FORMAT,
        reason: reason.into(),
    }
}

fn refused(reason: impl Into<String>) -> SourceError {
    SourceError::Refused {
        format: FORMAT,
        reason: reason.into(),
    }
}
