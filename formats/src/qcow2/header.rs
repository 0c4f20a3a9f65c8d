//! The qcow2 header: what the image says of itself, and which of it is believed.
//! It reads no table: those are `entry` and `table`.

use super::{malformed, refused};
use crate::fields::{be_u32, be_u64};
use crate::identity::ParentReference;
use crate::{lies_inside, read_up_to};
use vellum_core::source::{ClusterCodec, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

// Source: qemu docs/interop/qcow2.txt. All numbers are big-endian. Fields without a name below are
// not used for reading.
//
// | offset | size | meaning                                | the failure its check guards         |
// | ------ | ---- | -------------------------------------- | ------------------------------------ |
// | 0      | 4    | magic "QFI\xfb"                        | another format                       |
// | 4      | 4    | version, 2 or 3                        | fields that mean something else      |
// | 8      | 8    | offset of the backing file's name, 0:  | an overlay taken for a whole disk    |
// |        |      | none                                   |                                      |
// | 16     | 4    | length of that name, at most 1023      | a name outside the file              |
// | 20     | 4    | cluster_bits, 9 to 21                  | a shift too far, a table of any size |
// | 24     | 8    | virtual length in bytes                | sums that overflow, tables of any    |
// |        |      |                                        | size                                 |
// | 32     | 4    | encryption method, 0: none             | ciphertext taken for content         |
// | 36     | 4    | entries in the active L1 table         | 32 GiB reserved for a small file;    |
// |        |      |                                        | content without a table              |
// | 40     | 8    | offset of the active L1 table, on a    | a table outside the file or over the |
// |        |      | cluster                                | header                               |
// | 48     | 8    | offset of the refcount table           | (only writers need it)               |
// | 56     | 4    | clusters of the refcount table         | (only writers need it)               |
// | 60     | 4    | number of internal snapshots           | states that are left behind without  |
// |        |      |                                        | a word                               |
// | 64     | 8    | offset of the snapshot table           | (checked where it is read:           |
// |        |      |                                        | `snapshots`)                         |
// |        |      | *version 3:*                           |                                      |
// | 72     | 8    | incompatible features, see below       | content that means something else    |
// | 80     | 8    | compatible features                    | (free to ignore)                     |
// | 88     | 8    | autoclear features                     | (free to ignore for readers)         |
// | 96     | 4    | refcount order                         | (only writers need it)               |
// | 100    | 4    | header length, at least 104, a         | extensions read from the wrong place |
// |        |      | multiple of 8                          |                                      |
// | 104    | 1    | compression: 0 deflate, 1 zstd         | a stream given to the wrong codec    |
//
// Then header extensions up to the end of the first cluster, each: type (4), length (4), data,
// padding to a multiple of 8.
pub(super) const MAGIC: &[u8] = b"QFI\xfb";
const FIXED_LEN: usize = 112;
const V2_HEADER_LEN: usize = 72;
const V3_HEADER_LEN_MIN: usize = 104;
const COMPRESSION_AT: usize = 104;
pub(super) const CLUSTER_BITS_MIN: u32 = 9;
/// 2 MiB clusters: qemu's own limit, so nobody has larger ones.
pub(super) const CLUSTER_BITS_MAX: u32 = 21;
/// Below 16 KiB a subcluster would be smaller than a sector.
pub(super) const EXTENDED_CLUSTER_BITS_MIN: u32 = 14;
/// 32 MiB: qemu's own limit, so nobody has more, and a bound for what a header can make us reserve.
pub(super) const L1_LEN_MAX: u64 = 32 << 20;
const BACKING_NAME_LEN_MAX: u32 = 1023;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
/// Set by writers that keep the bitmaps as they are.
const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
/// Number of bitmaps (4), reserved (4), length (8) and offset (8) of their directory.
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME_LEN: usize = 48;

/// The fields of a header that a reader needs, every number checked against the file and its limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Qcow2Header {
    /// The image's length in bytes, at most [`IMAGE_LEN_MAX`].
    pub(super) virtual_len: u64,
    /// log2 of the cluster length, 9 to 21.
    pub(super) cluster_bits: u32,
    /// Offset of the L1 table: on a cluster, behind the header, inside the file.
    pub(super) l1_offset: u64,
    /// Number of L1 entries that the virtual length needs; all of them lie inside the file.
    pub(super) l1_count: u64,
    /// True if bit 0 of an L2 entry means "reads as zeros": version 3 without subclusters.
    pub(super) zero_flag: bool,
    /// True if L2 entries are 128 bits with a bitmap of 32 subclusters.
    pub(super) extended: bool,
    /// The codec of compressed clusters.
    pub(super) codec: ClusterCodec,
    /// Internal snapshots.
    pub(super) snapshots: u32,
    /// The place of their table, as the header has it.
    pub(super) snapshots_offset: u64,
    /// Persistent bitmaps.
    pub(super) bitmaps: u32,
    /// The place of their directory, as the header has it.
    pub(super) bitmap_directory: Option<BitmapDirectory>,
    /// True if its last writer did not close it.
    pub(super) is_dirty: bool,
}

/// Place of the bitmaps' directory, as the header has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BitmapDirectory {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// True if no program that does not know bitmaps wrote the image since.
    pub(super) is_current: bool,
}

impl Qcow2Header {
    /// Reads the header and refuses what cannot be followed; a backing file is the caller's affair
    /// ([`Qcow2Header::read_parent`]). Reads at most the first cluster.
    pub(super) fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        let raw = RawHeader::parse(&read_up_to(file, 0, FIXED_LEN)?)?;
        raw.verify_shape()?;
        let first_cluster = read_up_to(file, 0, 1 << raw.cluster_bits)?;
        raw.refuse_references(&first_cluster)?;
        raw.refuse_features(&first_cluster)?;
        let extensions = HeaderExtensions::from_first_cluster(&first_cluster, raw.header_len)?;
        let extension = extensions.find_kind(EXTENSION_BITMAPS).unwrap_or_default();
        let directory = be_u64(extension, 8).zip(be_u64(extension, 16));
        let header = raw.verify_tables(file.len())?;
        Ok(Self {
            bitmaps: be_u32(extension, 0).unwrap_or(0),
            bitmap_directory: directory.map(|(len, offset)| BitmapDirectory {
                offset,
                len,
                is_current: raw.autoclear & AUTOCLEAR_BITMAPS != 0,
            }),
            ..header
        })
    }

    /// The same image with another L1 table (offset, entries) of another length: a snapshot's.
    pub(super) fn with_l1(
        self,
        virtual_len: u64,
        (offset, count): (u64, u32),
        file_len: u64,
    ) -> Result<Self, SourceError> {
        let l1_count = virtual_len.div_ceil(1 << self.table_span_bits());
        verify_l1(
            (offset, u64::from(count)),
            l1_count,
            self.cluster_bits,
            file_len,
        )?;
        Ok(Self {
            virtual_len,
            l1_offset: offset,
            l1_count,
            ..self
        })
    }

    /// Names the things in the file beside the disk's present state.
    pub(super) fn left_behind(&self) -> Vec<String> {
        let mut told = Vec::new();
        let count = |count: u32, thing: &str| {
            let s = if count == 1 { "" } else { "s" };
            format!("has {count} {thing}{s}, which stay behind")
        };
        if self.snapshots > 0 {
            told.push(format!(
                "{}: `qemu-img convert -l NAME` makes a file of each",
                count(self.snapshots, "internal snapshot")
            ));
        }
        if self.bitmaps > 0 {
            told.push(count(self.bitmaps, "persistent bitmap"));
        }
        if self.is_dirty {
            told.push("was not closed by its last writer, and is read as it stands".to_owned());
        }
        told
    }

    /// The backing file as the header names it, if there is one.
    pub(super) fn read_parent(file: &dyn ReadAt) -> Result<Option<ParentReference>, SourceError> {
        let raw = RawHeader::parse(&read_up_to(file, 0, FIXED_LEN)?)?;
        raw.verify_shape()?;
        if raw.backing_offset == 0 {
            return Ok(None);
        }
        let first_cluster = read_up_to(file, 0, 1 << raw.cluster_bits)?;
        let extensions = HeaderExtensions::from_first_cluster(&first_cluster, raw.header_len)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Some(ParentReference {
            identity: None,
            hints: raw
                .backing_bytes(&first_cluster)
                .map(text)
                .into_iter()
                .collect(),
            format: extensions.find_kind(EXTENSION_BACKING_FORMAT).map(text),
        }))
    }

    /// The cluster length in bytes.
    pub(super) fn cluster_len(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the bytes that one L2 table maps.
    pub(super) fn table_span_bits(&self) -> u32 {
        table_span_bits(self.cluster_bits, self.extended)
    }
}

/// An L2 table is one cluster of entries, 8 or 16 bytes each, and each entry maps one cluster.
pub(super) fn table_span_bits(cluster_bits: u32, extended: bool) -> u32 {
    let entry_len_bits = if extended { 4 } else { 3 };
    2 * cluster_bits - entry_len_bits
}

/// The header's numbers as they stand in the file.
struct RawHeader {
    version: u32,
    backing_offset: u64,
    backing_len: u32,
    cluster_bits: u32,
    virtual_len: u64,
    encryption: u32,
    l1_count: u32,
    l1_offset: u64,
    snapshots: u32,
    snapshots_offset: u64,
    incompatible: u64,
    autoclear: u64,
    header_len: usize,
    compression: u8,
}

impl RawHeader {
    /// The shape: magic, a known version, all fields there.
    fn parse(bytes: &[u8]) -> Result<Self, SourceError> {
        if !bytes.starts_with(MAGIC) {
            return Err(malformed(
                "no qcow2 magic at byte 0: is it in another format?",
            ));
        }
        let cut = || {
            malformed(format!(
                "the file ends inside the header, at byte {}",
                bytes.len()
            ))
        };
        match be_u32(bytes, 4).ok_or_else(cut)? {
            version @ (2 | 3) => Self::parse_fields(bytes, version).ok_or_else(cut),
            1 => Err(refused(
                "version 1 (qcow) is not read; convert it with `qemu-img convert -O qcow2`",
            )),
            version => Err(refused(format!(
                "version {version} is unknown; known are 2 and 3"
            ))),
        }
    }

    fn parse_fields(bytes: &[u8], version: u32) -> Option<Self> {
        let three = version == 3;
        let header_len = if three {
            be_u32(bytes, 100)? as usize
        } else {
            V2_HEADER_LEN
        };
        let has_compression = three && header_len > COMPRESSION_AT;
        Some(Self {
            version,
            backing_offset: be_u64(bytes, 8)?,
            backing_len: be_u32(bytes, 16)?,
            cluster_bits: be_u32(bytes, 20)?,
            virtual_len: be_u64(bytes, 24)?,
            encryption: be_u32(bytes, 32)?,
            l1_count: be_u32(bytes, 36)?,
            l1_offset: be_u64(bytes, 40)?,
            snapshots: be_u32(bytes, 60)?,
            snapshots_offset: be_u64(bytes, V2_HEADER_LEN - 8)?,
            incompatible: if three { be_u64(bytes, 72)? } else { 0 },
            autoclear: if three { be_u64(bytes, 88)? } else { 0 },
            header_len,
            compression: if has_compression {
                *bytes.get(COMPRESSION_AT)?
            } else {
                0
            },
        })
    }

    fn has_feature(&self, feature: u64) -> bool {
        self.incompatible & feature != 0
    }

    /// Cluster and header length, which everything after rests on.
    fn verify_shape(&self) -> Result<(), SourceError> {
        let least = if self.has_feature(EXTENDED_L2) {
            EXTENDED_CLUSTER_BITS_MIN
        } else {
            CLUSTER_BITS_MIN
        };
        if !(least..=CLUSTER_BITS_MAX).contains(&self.cluster_bits) {
            let bits = self.cluster_bits;
            return Err(malformed(format!(
                "cluster_bits at byte 20 is {bits}, outside {least} to {CLUSTER_BITS_MAX}"
            )));
        }
        let len = self.header_len;
        let right = self.version == 2 || (len >= V3_HEADER_LEN_MIN && len.is_multiple_of(8));
        if !right || len > 1 << self.cluster_bits {
            return Err(malformed(format!("the header length at byte 100 is {len}")));
        }
        Ok(())
    }

    /// Another file would have to be opened, or a key given: neither is done on the word of a
    /// header.
    fn refuse_references(&self, first_cluster: &[u8]) -> Result<(), SourceError> {
        let extensions = HeaderExtensions::from_first_cluster(first_cluster, self.header_len)?;
        let data_file = extensions.find_kind(EXTENSION_DATA_FILE);
        if data_file.is_some() || self.has_feature(DATA_FILE) {
            return Err(refused(format!(
                "its content lies in the external data file {}; make it whole first with \
                 `qemu-img convert`",
                data_file.map_or("(without a name)".to_owned(), quote_bytes)
            )));
        }
        if self.encryption != 0 || extensions.find_kind(EXTENSION_ENCRYPTION).is_some() {
            return Err(refused(
                "it is encrypted; decrypt it first with `qemu-img convert`",
            ));
        }
        Ok(())
    }

    fn backing_bytes<'c>(&self, first_cluster: &'c [u8]) -> Option<&'c [u8]> {
        let start = usize::try_from(self.backing_offset).ok()?;
        let rest = first_cluster.get(start..)?;
        (self.backing_len <= BACKING_NAME_LEN_MAX).then(|| rest.get(..self.backing_len as usize))?
    }

    /// The dirty bit passes: it says that refcounts may be wrong, and a reader uses none.
    fn refuse_features(&self, first_cluster: &[u8]) -> Result<(), SourceError> {
        if self.has_feature(CORRUPT) {
            return Err(refused(
                "it is marked corrupt; repair a copy of it first with `qemu-img check -r all`",
            ));
        }
        if self.has_feature(!KNOWN) {
            let bit = (self.incompatible & !KNOWN).trailing_zeros();
            let name = HeaderExtensions::from_first_cluster(first_cluster, self.header_len)?
                .feature_name(bit);
            let name = name.map_or(String::new(), |name| format!(" ({name})"));
            return Err(refused(format!(
                "it uses the unknown incompatible feature {bit}{name}"
            )));
        }
        match (self.has_feature(COMPRESSION), self.compression) {
            (false, 0) | (true, 1) => Ok(()),
            (true, 2..) => Err(refused(format!(
                "its compression type {} is unknown",
                self.compression
            ))),
            _ => Err(malformed(
                "the compression type at byte 104 contradicts feature bit 3",
            )),
        }
    }

    /// The virtual length and the L1 table that maps it.
    fn verify_tables(&self, file_len: u64) -> Result<Qcow2Header, SourceError> {
        if self.virtual_len > IMAGE_LEN_MAX {
            return Err(malformed(format!(
                "the virtual length {} at byte 24 is more than {IMAGE_LEN_MAX}",
                self.virtual_len
            )));
        }
        let extended = self.has_feature(EXTENDED_L2);
        let l1_count = self
            .virtual_len
            .div_ceil(1 << table_span_bits(self.cluster_bits, extended));
        let l1 = (self.l1_offset, u64::from(self.l1_count));
        verify_l1(l1, l1_count, self.cluster_bits, file_len)?;
        Ok(Qcow2Header {
            virtual_len: self.virtual_len,
            cluster_bits: self.cluster_bits,
            l1_offset: self.l1_offset,
            l1_count,
            zero_flag: self.version == 3 && !extended,
            extended,
            codec: if self.compression == 1 {
                ClusterCodec::Zstd
            } else {
                ClusterCodec::Deflate
            },
            snapshots: self.snapshots,
            snapshots_offset: self.snapshots_offset,
            bitmaps: 0,
            bitmap_directory: None,
            is_dirty: self.has_feature(DIRTY),
        })
    }
}

/// Checks an L1 table (offset, entries) of which `needed` entries are read. A longer table than
/// needed is usual: guest memory of internal snapshots lies behind the disk.
fn verify_l1(
    (offset, count): (u64, u64),
    needed: u64,
    cluster_bits: u32,
    file_len: u64,
) -> Result<(), SourceError> {
    let len = count * 8;
    if len > L1_LEN_MAX {
        return Err(malformed(format!(
            "the L1 table of {count} entries is longer than {L1_LEN_MAX} bytes"
        )));
    }
    if count < needed {
        return Err(malformed(format!(
            "the L1 table has {count} entries, and the virtual length needs {needed}"
        )));
    }
    let placed = offset >= 1 << cluster_bits && offset.is_multiple_of(1 << cluster_bits);
    if needed > 0 && !(placed && lies_inside(offset, len, file_len)) {
        return Err(malformed(format!(
            "the L1 table at byte {offset} of {len} bytes is not on a cluster inside the file"
        )));
    }
    Ok(())
}

/// The header extensions, which are read for what they name, never followed.
struct HeaderExtensions<'a>(Vec<(u32, &'a [u8])>);

impl<'a> HeaderExtensions<'a> {
    /// Every extension takes at least 8 bytes, so the first cluster bounds their number.
    fn from_first_cluster(first_cluster: &'a [u8], header_len: usize) -> Result<Self, SourceError> {
        let mut found = Vec::new();
        let mut at = header_len;
        while let (Some(kind), Some(len)) =
            (be_u32(first_cluster, at), be_u32(first_cluster, at + 4))
        {
            if kind == EXTENSION_END {
                break;
            }
            let data = first_cluster
                .get(at + 8..)
                .and_then(|rest| rest.get(..len as usize));
            let data = data.ok_or_else(|| {
                malformed(format!(
                    "the header extension at byte {at} leaves the first cluster"
                ))
            })?;
            found.push((kind, data));
            at += 8 + data.len().next_multiple_of(8);
        }
        Ok(Self(found))
    }

    fn find_kind(&self, kind: u32) -> Option<&'a [u8]> {
        self.0
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, data)| *data)
    }

    /// The image's own name of an incompatible feature: a courtesy for the error message.
    fn feature_name(&self, bit: u32) -> Option<String> {
        let mut entries = self
            .find_kind(EXTENSION_FEATURE_NAMES)?
            .chunks_exact(FEATURE_NAME_LEN);
        let name = entries.find_map(|entry| match *entry {
            [0, found, ref name @ ..] if u32::from(found) == bit => Some(name),
            _ => None,
        })?;
        let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(quote_bytes(text))
    }
}

/// Bytes from the file as text that no terminal acts upon.
fn quote_bytes(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
