//! Checks frames: reads every header and its payload side by side, in id order.

use std::sync::Arc;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::solid::{parse_solid_key, solid_key};
use vellum_core::units::{ChunkId, SolidNumber};

use super::index::NameSums;
use super::{CheckRun, ContentLoss};
use crate::chunks::{HeaderWalk, payload_mismatch};
use crate::database::{Family, Scan};
use crate::error::StoreError;
use crate::watch::Progress;

/// Frames that are read before they are looked at by all cores: 16 MiB at the default length.
const FRAMES_PER_BATCH: usize = 256;

/// A header, and the payload that has its key.
pub(super) struct HeaderWithPayload {
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

impl CheckRun<'_> {
    /// Checks headers and payloads; what the headers say of names.
    pub(super) fn check_frames(&mut self) -> Result<NameSums, StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        let mut payloads = Payloads {
            scan: Some(database.scan_from(Family::Frames, &[])),
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
                    self.report_read_error(error, ContentLoss::Nothing)?;
                    continue;
                }
            };
            if first >= self.horizon {
                break;
            }
            let payload = payloads.take_payload(self, first);
            match header {
                Ok(header) => {
                    if header.first_id() < end {
                        self.report_damage(
                            format!("header of frame {first}"),
                            "it overlaps the frame before it",
                            ContentLoss::Nothing,
                        );
                    }
                    end = end.max(header.end_id());
                    pairs.push(self.admit_frame(header, payload, &mut names));
                }
                Err(error) => self.report_damage(
                    format!("header of frame {first}"),
                    error,
                    ContentLoss::Nothing,
                ),
            }
            if pairs.len() >= FRAMES_PER_BATCH {
                self.look_at(std::mem::take(&mut pairs))?;
            }
        }
        self.look_at(pairs)?;
        let _ = payloads.take_payload(self, self.horizon);
        for stray in payloads.strays {
            self.report_leak(format!("frame {stray}"), "no header names it");
        }
        self.find_nameless_blocks()?;
        Ok(names)
    }

    /// Reports solid blocks that no header names. What is in the others was read with their frames.
    fn find_nameless_blocks(&mut self) -> Result<(), StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        let mut scan = database.scan_from(Family::Frames, &solid_key(SolidNumber(0)));
        loop {
            self.go_on()?;
            let block = match scan.next() {
                Ok(Some((key, _))) => parse_solid_key(key),
                Ok(None) => return Ok(()),
                Err(error) => return self.report_read_error(error, ContentLoss::Nothing),
            };
            if let Some(block) = block.filter(|block| !self.named_blocks.contains(block)) {
                self.report_leak(format!("solid block {block}"), "no header names it");
            }
        }
    }

    pub(super) fn admit_frame(
        &mut self,
        header: FrameHeader,
        payload: Result<Option<Vec<u8>>, StoreError>,
        names: &mut NameSums,
    ) -> HeaderWithPayload {
        self.named_blocks
            .extend(header.solid.map(|solid| solid.block));
        for (id, hash) in header.chunk_hashes() {
            self.present.insert(id);
            names.add_name(id, hash.index_prefix());
        }
        let is_chosen = self.options.read_data
            && self
                .options
                .subset
                .is_none_or(|(part, of)| self.report.frames % of == part - 1);
        self.report.frames += 1;
        self.report.chunks += header.chunk_count() as u64;
        HeaderWithPayload {
            header,
            payload,
            is_chosen,
        }
    }

    pub(super) fn look_at(&mut self, pairs: Vec<HeaderWithPayload>) -> Result<(), StoreError> {
        self.go_on()?;
        let store = self.store;
        let looked: Vec<(FrameHeader, bool, Result<Option<Fault>, StoreError>)> = pairs
            .into_par_iter()
            .map(|pair| {
                let fault = match pair.payload {
                    Ok(payload) => Ok(payload.map_or_else(
                        || {
                            Some((
                                "its payload is gone".to_owned(),
                                frame_chunk_ids(&pair.header),
                            ))
                        },
                        |payload| find_payload_fault(store, &pair.header, &payload, pair.is_chosen),
                    )),
                    Err(error) => Err(error),
                };
                (pair.header, pair.is_chosen, fault)
            })
            .collect();
        for (header, is_chosen, fault) in looked {
            match fault {
                // A frame that was read whole is not doubted any more.
                Ok(None) if is_chosen => self
                    .store
                    .inner
                    .chunks
                    .ledger
                    .clear_entries(frame_chunk_ids(&header)),
                Ok(None) => {}
                Ok(Some((reason, lost))) => self.report_damage(
                    format!("frame {}", header.first_id()),
                    reason,
                    ContentLoss::Chunks(lost),
                ),
                Err(error) => {
                    self.report_read_error(error, ContentLoss::Chunks(frame_chunk_ids(&header)))?;
                }
            }
            self.report.chunks_read += if is_chosen {
                header.chunk_count() as u64
            } else {
                0
            };
        }
        self.watch.report_progress(Progress {
            done: self.report.chunks,
            total: None,
        });
        Ok(())
    }
}

fn frame_chunk_ids(header: &FrameHeader) -> Vec<ChunkId> {
    header.chunk_hashes().map(|(id, _)| id).collect()
}

/// Finds the fault of a payload; its chunks are held against their names only if asked for.
fn find_payload_fault(
    store: &crate::Store,
    header: &FrameHeader,
    payload: &[u8],
    with_data: bool,
) -> Option<Fault> {
    let all = |reason: String| Some((reason, frame_chunk_ids(header)));
    if let Some(reason) = payload_mismatch(header, payload, store.parameters().chunk_len) {
        return all(reason);
    }
    // A block's checksum covers what a payload's does, so it is read in any case.
    if !with_data && header.solid.is_none() {
        return None;
    }
    let frame = match store.inner.chunks.decode_frame(header.clone(), payload) {
        Ok(frame) => frame,
        Err(error) => return all(error.to_string()),
    };
    let lost: Vec<ChunkId> = header
        .chunk_hashes()
        .map(|(id, _)| id)
        .filter(|id| frame.chunk_bytes(*id).is_err())
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
    fn take_payload(
        &mut self,
        check: &CheckRun<'_>,
        first: ChunkId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        while let Some(scan) = &mut self.scan {
            if self.next.is_none() {
                match scan.next() {
                    Ok(Some((key, _))) if parse_solid_key(key).is_some() => return Ok(None),
                    Ok(Some((key, value))) => {
                        let key = parse_frame_key(key)
                            .map_err(|error| StoreError::damaged_record("a frame's key", error))?;
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
