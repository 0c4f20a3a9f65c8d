//! Checks frames: reads every header and its payload side by side, in id order.

use std::sync::Arc;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::{FrameHeader, FramePayload, frame_key, parse_frame_key};
use vellum_core::units::ChunkId;

use super::index::NameSums;
use super::{Check, Loss};
use crate::chunks::HeaderWalk;
use crate::database::{Family, Scan};
use crate::error::StoreError;
use crate::watch::Progress;

/// Frames that are read before they are looked at by all cores: 16 MiB at the default length.
const FRAMES_PER_BATCH: usize = 256;

/// A header, and the payload that has its key.
pub(super) struct Pair {
    header: FrameHeader,
    payload: Result<Option<Vec<u8>>, StoreError>,
    is_chosen: bool,
}

/// Fault of a frame, and the chunks that it takes away.
type Fault = (String, Vec<ChunkId>);

/// Payloads in key order; after one that cannot be read, each is asked for by its key.
struct Payloads<'s> {
    scan: Option<Scan<'s>>,
    next: Option<(ChunkId, Vec<u8>)>,
    /// Keys that no header has.
    strays: Vec<ChunkId>,
}

impl Check<'_> {
    /// Checks headers and payloads; what the headers say of names.
    pub(super) fn frames(&mut self) -> Result<NameSums, StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        let mut payloads = Payloads {
            scan: Some(database.scan(Family::Frames, &[])),
            next: None,
            strays: Vec::new(),
        };
        let mut headers = HeaderWalk::new(&database, ChunkId(0));
        let (mut names, mut pairs) = (NameSums::default(), Vec::new());
        let mut end = ChunkId(0);
        loop {
            let (first, header) = match headers.next() {
                Ok(Some((first, value))) => (first, FrameHeader::decode(first, &value)),
                Ok(None) => break,
                Err(error) => {
                    self.note(error, Loss::Nothing)?;
                    continue;
                }
            };
            if first >= self.horizon {
                break;
            }
            let payload = payloads.take(self, first);
            match header {
                Ok(header) => {
                    if header.first() < end {
                        self.damage(
                            format!("header of frame {first}"),
                            "it overlaps the frame before it",
                            Loss::Nothing,
                        );
                    }
                    end = end.max(header.end());
                    pairs.push(self.admit(header, payload, &mut names));
                }
                Err(error) => self.damage(format!("header of frame {first}"), error, Loss::Nothing),
            }
            if pairs.len() >= FRAMES_PER_BATCH {
                self.look_at(std::mem::take(&mut pairs))?;
            }
        }
        self.look_at(pairs)?;
        let _ = payloads.take(self, self.horizon);
        for stray in payloads.strays {
            self.leak(format!("frame {stray}"), "no header names it");
        }
        Ok(names)
    }

    pub(super) fn admit(
        &mut self,
        header: FrameHeader,
        payload: Result<Option<Vec<u8>>, StoreError>,
        names: &mut NameSums,
    ) -> Pair {
        for (id, hash) in header.chunks() {
            self.present.insert(id);
            names.add(id, hash.prefix());
        }
        let is_chosen = self.options.read_data
            && self
                .options
                .subset
                .is_none_or(|(part, of)| self.report.frames % of == part - 1);
        self.report.frames += 1;
        self.report.chunks += header.chunk_count() as u64;
        Pair {
            header,
            payload,
            is_chosen,
        }
    }

    pub(super) fn look_at(&mut self, pairs: Vec<Pair>) -> Result<(), StoreError> {
        self.go_on()?;
        let store = self.store;
        let looked: Vec<(FrameHeader, bool, Result<Option<Fault>, StoreError>)> = pairs
            .into_par_iter()
            .map(|pair| {
                let fault = match pair.payload {
                    Ok(payload) => Ok(payload.map_or_else(
                        || Some(("its payload is gone".to_owned(), ids(&pair.header))),
                        |payload| fault(store, &pair.header, &payload, pair.is_chosen),
                    )),
                    Err(error) => Err(error),
                };
                (pair.header, pair.is_chosen, fault)
            })
            .collect();
        for (header, is_chosen, fault) in looked {
            match fault {
                // A frame that was read whole is not doubted any more.
                Ok(None) if is_chosen => self.store.inner.chunks.ledger.clear(ids(&header)),
                Ok(None) => {}
                Ok(Some((reason, lost))) => self.damage(
                    format!("frame {}", header.first()),
                    reason,
                    Loss::Chunks(lost),
                ),
                Err(error) => self.note(error, Loss::Chunks(ids(&header)))?,
            }
            self.report.chunks_read += if is_chosen {
                header.chunk_count() as u64
            } else {
                0
            };
        }
        self.watch.progress(Progress {
            done: self.report.chunks,
            total: None,
        });
        Ok(())
    }
}

fn ids(header: &FrameHeader) -> Vec<ChunkId> {
    header.chunks().map(|(id, _)| id).collect()
}

/// Finds the fault of a payload; its chunks are held against their names only if asked for.
fn fault(
    store: &crate::Store,
    header: &FrameHeader,
    payload: &[u8],
    with_data: bool,
) -> Option<Fault> {
    let all = |reason: String| Some((reason, ids(header)));
    if payload.len() as u64 != u64::from(header.payload_len) {
        return all(format!(
            "{} bytes where its header says {}",
            payload.len(),
            header.payload_len
        ));
    }
    let decoded = match FramePayload::decode(header.first(), payload) {
        Ok(decoded) => decoded,
        Err(error) => return all(error.to_string()),
    };
    let plain_len = header.chunk_count() as u64 * store.parameters().chunk_len.bytes();
    if u64::from(decoded.plain_len) != plain_len {
        return all(format!(
            "{} plain bytes where its header says {plain_len}",
            decoded.plain_len
        ));
    }
    if !with_data {
        return None;
    }
    let frame = match store.inner.chunks.decode(header.clone(), payload) {
        Ok(frame) => frame,
        Err(error) => return all(error.to_string()),
    };
    let lost: Vec<ChunkId> = header
        .chunks()
        .map(|(id, _)| id)
        .filter(|id| frame.chunk(*id).is_err())
        .collect();
    let reason = || {
        format!(
            "{} of its chunks do not have their names, the first is {}",
            lost.len(),
            lost[0]
        )
    };
    (!lost.is_empty()).then(|| (reason(), lost.clone()))
}

impl Payloads<'_> {
    /// The payload at `first`; those before it that were not taken are strays.
    fn take(&mut self, check: &Check<'_>, first: ChunkId) -> Result<Option<Vec<u8>>, StoreError> {
        while let Some(scan) = &mut self.scan {
            if self.next.is_none() {
                match scan.next() {
                    Ok(Some((key, value))) => {
                        let key = parse_frame_key(key)
                            .map_err(|error| StoreError::damaged("a frame's key", error))?;
                        self.next = Some((key, value.to_vec()));
                    }
                    Ok(None) => return Ok(None),
                    Err(_) => self.scan = None,
                }
                continue;
            }
            let key = self.next.as_ref().map_or(first, |(key, _)| *key);
            if key > first {
                return Ok(None);
            }
            let taken = self.next.take();
            if key == first {
                return Ok(taken.map(|(_, payload)| payload));
            }
            self.strays.push(key);
        }
        Ok(check
            .store
            .inner
            .database
            .get(Family::Frames, &frame_key(first))?
            .map(|payload| payload.to_vec()))
    }
}
