//! Transfers chunks from one repository to another: opened, verified against their names, and left
//! compressed as they are where a whole frame is wanted.
//!
//! A frame that also holds unwanted chunks is packed anew without them, together with its
//! neighbours of the same kind.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::frame::FrameCodec;
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;
use vellum_store::transfer::SuppliedFrame;
use vellum_store::{Compression, codec};

use crate::catalog::{Place, WholeFrame};
use crate::error::BackupError;
use crate::format::address;
use crate::hit;
use crate::known::{Known, Origin};
use crate::push::upload::{self, Frames, Manner, Sent};
use crate::reader::Reader;

/// The compression of chunks that lose their neighbours in a frame: as a store does by default.
const COMPRESSION: Compression = Compression::Zstd(3);
/// Plain bytes of a frame that is made of parts of others: as a store's frames.
const FRAME_LEN: usize = 128 << 10;

/// Frames that another thread fetches.
struct Carried {
    /// The receiving end. One thread receives; the lock proves it to the compiler.
    receiver: Mutex<Receiver<Result<Vec<CarriedFrame>, BackupError>>>,
}

/// A frame as it goes on: its chunks, with the source's addresses, and their bytes compressed
/// together.
struct CarriedFrame {
    chunks: Vec<(ChunkId, ChunkHash)>,
    codec: FrameCodec,
    plain_len: u32,
    payload: Vec<u8>,
}

/// Chunks of one frame that are wanted: their addresses and names, where they are in it.
struct Chosen<'f> {
    frame: &'f WholeFrame,
    chunks: Vec<(ChunkId, ChunkHash, &'f [u8])>,
    is_whole: bool,
}

/// The source of one frame.
enum Unit<'f> {
    Whole(Chosen<'f>),
    Parts(Vec<(ChunkId, ChunkHash, &'f [u8])>),
}

/// Fetches the chunks of `missing` from the source and sends them to the target: the next are
/// fetched while the last are on their way up.
pub(super) fn send(
    source: &Reader<'_>,
    target: &Reader<'_>,
    missing: &IdSet,
    origin: &dyn Origin,
    known: &mut Known,
    manner: &Manner<'_>,
) -> Result<Sent, BackupError> {
    let groups = source.places_by_pack(missing)?;
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for group in groups {
                let frames = supplied(source, &group, missing)
                    .map_err(|error| hit::by_frames(source, &group, error));
                if sender.send(frames).is_err() {
                    return;
                }
            }
        });
        let mut carried = Carried {
            receiver: Mutex::new(receiver),
        };
        let sent = upload::send(target, origin, &mut carried, missing.len(), known, manner);
        // The one who fetches ends when nobody listens.
        drop(carried);
        sent
    })
}

impl Frames for Carried {
    type Frame = CarriedFrame;

    fn next_batch(&mut self) -> Result<Vec<CarriedFrame>, BackupError> {
        let receiver = self
            .receiver
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // A group of which nothing is wanted is not the end.
        let next = receiver
            .iter()
            .find(|batch| batch.as_ref().map_or(true, |frames| !frames.is_empty()));
        next.transpose().map(Option::unwrap_or_default)
    }

    fn read<T>(
        &self,
        frame: &CarriedFrame,
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, BackupError> {
        let CarriedFrame {
            codec,
            plain_len,
            payload,
            ..
        } = frame;
        Ok(take(SuppliedFrame {
            codec: *codec,
            plain_len: *plain_len,
            payload,
        }))
    }
}

impl AsRef<[(ChunkId, ChunkHash)]> for CarriedFrame {
    fn as_ref(&self) -> &[(ChunkId, ChunkHash)] {
        &self.chunks
    }
}

impl From<CarriedFrame> for Vec<(ChunkId, ChunkHash)> {
    fn from(frame: CarriedFrame) -> Self {
        frame.chunks
    }
}

/// The wanted chunks of some frames of one pack.
fn supplied(
    source: &Reader<'_>,
    group: &[Place],
    wanted: &IdSet,
) -> Result<Vec<CarriedFrame>, BackupError> {
    let frames = source.whole_frames(group)?;
    let chosen = frames
        .iter()
        .map(|(number, frame)| chosen(source, *number, frame, wanted))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(units(chosen).par_iter().map(Unit::supplied).collect())
}

fn chosen<'f>(
    source: &Reader<'_>,
    number: u32,
    frame: &'f WholeFrame,
    wanted: &IdSet,
) -> Result<Chosen<'f>, BackupError> {
    let (mut chunks, mut is_whole) = (Vec::new(), true);
    for (ordinal, bytes) in frame.plain.chunks() {
        let address = address(number, ordinal);
        if wanted.contains(address) {
            chunks.push((address, source.name_of(address)?, bytes));
        } else {
            is_whole = false;
        }
    }
    Ok(Chosen {
        frame,
        chunks,
        is_whole,
    })
}

/// Whole frames as they are, and between them parts of others together, in order.
fn units(chosen: Vec<Chosen<'_>>) -> Vec<Unit<'_>> {
    let (mut units, mut parts, mut len) = (Vec::new(), Vec::new(), 0);
    for chosen in chosen
        .into_iter()
        .filter(|chosen| !chosen.chunks.is_empty())
    {
        let chosen_len: usize = chosen.chunks.iter().map(|(_, _, bytes)| bytes.len()).sum();
        if len > 0 && (chosen.is_whole || len + chosen_len > FRAME_LEN) {
            units.push(Unit::Parts(std::mem::take(&mut parts)));
            len = 0;
        }
        if chosen.is_whole {
            units.push(Unit::Whole(chosen));
        } else {
            len += chosen_len;
            parts.extend(chosen.chunks);
        }
    }
    units.extend((len > 0).then_some(Unit::Parts(parts)));
    units
}

impl Unit<'_> {
    fn supplied(&self) -> CarriedFrame {
        let named = |chunks: &[(ChunkId, ChunkHash, &[u8])]| {
            chunks
                .iter()
                .map(|(address, name, _)| (*address, *name))
                .collect()
        };
        match self {
            Self::Whole(Chosen { frame, chunks, .. }) => {
                let plain_len: usize = chunks.iter().map(|(_, _, bytes)| bytes.len()).sum();
                let payload = frame.payload.clone();
                CarriedFrame {
                    chunks: named(chunks),
                    codec: frame.codec,
                    plain_len: plain_len as u32,
                    payload,
                }
            }
            Self::Parts(chunks) => {
                let plain: Vec<u8> = chunks
                    .iter()
                    .flat_map(|(_, _, bytes)| *bytes)
                    .copied()
                    .collect();
                let (codec, payload) = codec::compress_frame(COMPRESSION, &plain);
                CarriedFrame {
                    chunks: named(chunks),
                    codec,
                    plain_len: plain.len() as u32,
                    payload,
                }
            }
        }
    }
}
