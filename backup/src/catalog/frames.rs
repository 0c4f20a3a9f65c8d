//! Frames of a repository: fetched in few requests, opened, and verified against the names of their
//! chunks.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::frame::FrameCodec;
use vellum_core::wire::DecodeError;

use super::parts::Parts;
use super::{Catalog, CatalogError, GAP_LEN_MAX, Place};
use crate::format::{FrameError, Presence, decode_frame};
use crate::objects::twice::first_opened;
use crate::objects::{ObjectError, ObjectName};
use crate::seal::SealedKind;

/// The longest fetch of one request, in bytes.
const FETCH_LEN_MAX: u64 = 16 << 20;

/// The chunks of a frame, decoded, each checked against its name.
#[derive(Debug)]
pub struct PlainFrame {
    first: u32,
    presence: Presence,
    pub(super) plain: Vec<u8>,
    chunk_len: usize,
}

/// A frame whose chunks were checked against their names, and its stored form, for moving it as it
/// is.
#[derive(Debug)]
pub struct WholeFrame {
    /// Its chunks.
    pub plain: PlainFrame,
    /// The codec of the payload.
    pub codec: FrameCodec,
    /// The chunks, compressed as one.
    pub payload: Vec<u8>,
}

impl PlainFrame {
    /// The bytes of one chunk of it.
    #[must_use]
    pub fn chunk(&self, ordinal: u32) -> Option<&[u8]> {
        let at = ordinal
            .checked_sub(self.first)
            .filter(|at| self.presence.has(*at))?;
        self.plain
            .chunks_exact(self.chunk_len)
            .nth(self.presence.rank(at) as usize)
    }

    /// Its chunks and their ordinals, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.presence
            .offsets()
            .map(|at| self.first + at)
            .zip(self.plain.chunks_exact(self.chunk_len))
    }
}

impl Catalog {
    /// The chunks of a frame.
    pub fn read_frame(&self, place: &Place) -> Result<Arc<PlainFrame>, CatalogError> {
        let key = (place.pack, place.offset);
        if let Some(frame) = self.frames.get(&key) {
            return Ok(frame);
        }
        let frame = match &self.parts {
            Some(parts) => self.frame_of(parts, place)?,
            None => self.fetched_alone(place)?,
        };
        let frame = Arc::new(frame);
        self.frames.insert(key, frame.clone());
        Ok(frame)
    }

    /// A frame out of `parts`, fetched if what is there is not it.
    fn frame_of(&self, parts: &Parts, place: &Place) -> Result<PlainFrame, CatalogError> {
        let decoded = |part: Vec<u8>| self.decode_part(place, &part);
        loop {
            let kept = parts.fetched(place).and_then(|part| decoded(part).ok());
            if let Some(frame) =
                kept.or_else(|| parts.copied(place).and_then(|part| decoded(part).ok()))
            {
                return Ok(frame);
            }
            let around = |window_len| self.read().around(place, window_len, GAP_LEN_MAX);
            if let Some(claim) = parts.claim(place, around) {
                let fetched = claim.fetch(&*self.objects)?;
                return decoded(fetched).or_else(|_| self.fetched_alone(place));
            }
        }
    }

    fn fetched_alone(&self, place: &Place) -> Result<PlainFrame, CatalogError> {
        self.decode(place, &self.frame_body(place)?)
    }

    /// The chunks of many frames of one pack, in the order of `places`: fetched in few requests,
    /// decoded on all cores, kept nowhere. The caller bounds how many it asks for at once.
    pub fn read_frames(&self, places: &[Place]) -> Result<Vec<PlainFrame>, CatalogError> {
        self.fetch_bodies(places, &|place, body| self.decode(place, &body))
    }

    /// The same, each with its payload.
    pub fn read_whole_frames(&self, places: &[Place]) -> Result<Vec<WholeFrame>, CatalogError> {
        self.fetch_bodies(places, &|place, body| {
            let plain = self.decode(place, &body)?;
            let fail = |source: DecodeError| bad_frame(place, source.into());
            let frame = decode_frame(&body).map_err(fail)?;
            Ok(WholeFrame {
                plain,
                codec: frame.codec,
                payload: frame.payload.to_vec(),
            })
        })
    }

    /// The bodies of many frames of one pack, opened and no more, in the order of `places`: for
    /// moving them. Fetched in few requests; the pack's length bounds the memory.
    pub fn frame_bodies(&self, places: &[Place]) -> Result<Vec<Vec<u8>>, CatalogError> {
        self.fetch_bodies(places, &|_, body| Ok(body))
    }

    /// The parts of many frames of one pack as they are stored, in the order of `places`; each has
    /// a whole seal. Fetched in few requests.
    pub(crate) fn sealed_parts(&self, places: &[Place]) -> Result<Vec<Vec<u8>>, CatalogError> {
        self.fetch_parts(places, &|place, part| {
            if self.open_part(place, part).is_ok() {
                return Ok(part.to_vec());
            }
            let whole = |part: Vec<u8>| self.open_part(place, &part).map(|_| part);
            first_opened(|| self.ask_part(place), whole)?
        })
    }

    fn fetch_bodies<T: Send>(
        &self,
        places: &[Place],
        decode: &(dyn Fn(&Place, Vec<u8>) -> Result<T, CatalogError> + Sync),
    ) -> Result<Vec<T>, CatalogError> {
        self.fetch_parts(places, &|place, part| {
            let body = self.open_part(place, part);
            // Bits flip on the way, too: a part whose seal is broken is asked for alone.
            decode(place, body.or_else(|_| self.frame_body(place))?)
        })
    }

    /// What `take` makes of each part, as it came.
    fn fetch_parts<T: Send>(
        &self,
        places: &[Place],
        take: &(dyn Fn(&Place, &[u8]) -> Result<T, CatalogError> + Sync),
    ) -> Result<Vec<T>, CatalogError> {
        let Some(pack) = places.first().map(|place| place.pack) else {
            return Ok(Vec::new());
        };
        assert!(
            places.iter().all(|place| place.pack == pack),
            "frames that are read together are in one pack"
        );
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|nth| places[*nth].offset);
        let mut frames: Vec<Option<T>> = places.iter().map(|_| None).collect();
        let name = ObjectName::Pack(pack).to_string();
        for some in fetches(places, &order).chunks(self.objects.requests_together().max(1)) {
            let fetched = together(some, |fetch| {
                self.objects
                    .get_range(&name, places[fetch[0]].offset..end_of(places, fetch))
            })?;
            for (fetch, bytes) in some.iter().zip(fetched) {
                let take = |nth: &usize| {
                    let place = &places[*nth];
                    take(place, part_in(place, &bytes, places[fetch[0]].offset))
                };
                let decoded: Vec<T> = fetch.par_iter().map(take).collect::<Result<_, _>>()?;
                fetch
                    .iter()
                    .zip(decoded)
                    .for_each(|(nth, frame)| frames[*nth] = Some(frame));
            }
        }
        Ok(frames
            .into_iter()
            .map(|frame| frame.expect("every place is in a fetch"))
            .collect())
    }

    /// The same, out of the whole pack as it is `stored`.
    pub fn frames_in(
        &self,
        places: &[Place],
        stored: &[u8],
    ) -> Result<Vec<PlainFrame>, CatalogError> {
        places
            .par_iter()
            .map(|place| self.decode_part(place, part_in(place, stored, 0)))
            .collect()
    }

    /// The body of a frame's part, opened and no more: `format::decode_frame` reads it. This is for
    /// moving frames as they are. What does not open is asked for again before it is called
    /// damage.
    pub fn frame_body(&self, place: &Place) -> Result<Vec<u8>, CatalogError> {
        first_opened(|| self.ask_part(place), |part| self.open_part(place, &part))?
    }

    fn ask_part(&self, place: &Place) -> Result<Vec<u8>, ObjectError> {
        let object = ObjectName::Pack(place.pack).to_string();
        self.objects.get_range(&object, place.offset..place.end())
    }

    fn open_part(&self, place: &Place, part: &[u8]) -> Result<Vec<u8>, CatalogError> {
        let opened = self.sealer.open_part(SealedKind::Pack, part);
        opened.map_err(|source| CatalogError::Seal {
            object: format!(
                "{}, frame at {}",
                ObjectName::Pack(place.pack),
                place.offset
            ),
            source,
        })
    }

    /// The chunks of a frame, out of its part as it is stored.
    pub(crate) fn decode_part(
        &self,
        place: &Place,
        part: &[u8],
    ) -> Result<PlainFrame, CatalogError> {
        self.decode(place, &self.open_part(place, part)?)
    }

    fn decode(&self, place: &Place, body: &[u8]) -> Result<PlainFrame, CatalogError> {
        let names = self.names(place.segment)?;
        let fail = |source| bad_frame(place, source);
        let frame = decode_frame(body).map_err(|error| fail(error.into()))?;
        let is_expected = Some(frame.segment) == self.segment_of(place.segment)
            && frame.first == place.first
            && frame.presence == place.presence;
        if !is_expected {
            return Err(fail(FrameError::Misplaced));
        }
        let plain = frame
            .chunks(self.chunk_len, |ordinal| names.hash(ordinal).copied())
            .map_err(fail)?;
        Ok(PlainFrame {
            first: frame.first,
            presence: frame.presence,
            plain,
            chunk_len: self.chunk_len as usize,
        })
    }
}

/// The part of a frame in `bytes`, which begin at `start` of its pack. If they end too early, it is
/// empty: too short for any part.
fn part_in<'b>(place: &Place, bytes: &'b [u8], start: u64) -> &'b [u8] {
    let at = (place.offset - start) as usize;
    bytes.get(at..at + place.len as usize).unwrap_or_default()
}

fn bad_frame(place: &Place, source: FrameError) -> CatalogError {
    CatalogError::Frame {
        object: ObjectName::Pack(place.pack).to_string(),
        offset: place.offset,
        source,
    }
}

/// The answers to requests that are under way at the same time, on threads of their own: they wait
/// for the place, not for a core.
pub(super) fn together<W: Sync, T: Send, E: Send>(
    wanted: &[W],
    ask: impl Fn(&W) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if wanted.len() < 2 {
        return wanted.iter().map(ask).collect();
    }
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = wanted
            .iter()
            .map(|wanted| scope.spawn(move || ask(wanted)))
            .collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// Does `work` for each number below `count`, so many at once, on threads of their own: they wait
/// for the place as well. The first failure ends it.
pub(crate) fn share_out<E: Send>(
    count: usize,
    at_once: usize,
    work: &(dyn Fn(usize) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count)
                {
                    if let Err(error) = work(number) {
                        next.store(count, Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                        break;
                    }
                }
            });
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

/// Neighbours in `order` that one request fetches.
fn fetches<'a>(places: &[Place], order: &'a [usize]) -> Vec<&'a [usize]> {
    let (mut fetches, mut start) = (Vec::new(), 0);
    for nth in 1..=order.len() {
        let is_apart = order.get(nth).is_none_or(|next| {
            let next = &places[*next];
            let end = end_of(places, &order[start..nth]);
            next.offset > end + GAP_LEN_MAX
                || next.end() > places[order[start]].offset + FETCH_LEN_MAX
        });
        if is_apart {
            fetches.push(&order[start..nth]);
            start = nth;
        }
    }
    fetches
}

/// The end of the last of these frames, as an offset in the pack. Frames do not overlap, in an
/// index that a writer made; in another one the longest counts.
fn end_of(places: &[Place], order: &[usize]) -> u64 {
    order
        .iter()
        .map(|nth| places[*nth].end())
        .max()
        .unwrap_or(0)
}
