//! The encodings of a repository: frames in packs, index objects, blobs of maps, and the file that
//! says what the repository is.
//!
//! It knows the insides; `seal` knows the outside. Decoders are total: any bytes give a value or an
//! error, in memory proportional to their length.

mod frame;
mod index;
mod map_blob;
mod pack;
mod part_table;
mod presence;
mod repository_file;

pub use frame::{Frame, FrameError, decode_frame, encode_frame};
pub use index::{
    FrameEntry, INDEX_CHUNK_COUNT_MAX, IndexObject, PackEntry, SAMPLE_COUNT, SealedIndex,
    SegmentEntry,
};
pub use map_blob::{MAP_BLOB_LEN_TARGET, MapBlob, MapsWriter, SealedMaps, address, split_address};
pub use pack::{
    FilledPack, PACK_LEN_MAX, PACK_LEN_TARGET, PackWriter, SealedFrame, SealedPack, read_pack,
};
pub use part_table::{IndexPart, PartTable};
pub use presence::Presence;
pub use repository_file::{FORMAT, REPOSITORY_FILE_LEN_MAX, RepositoryFile, RepositoryFileError};
pub use vellum_core::identity::{RepositoryId, SegmentId};

/// Chunks that a segment has at most: its names fill 2 MiB, which a reader holds in memory.
pub const SEGMENT_LEN_MAX: u32 = 65_536;

/// A new segment's identity.
pub fn new_segment() -> Result<SegmentId, crate::seal::SealError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| crate::seal::SealError::Random(error.to_string()))?;
    Ok(SegmentId(id))
}
