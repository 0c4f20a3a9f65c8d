//! One step of a scrub: reads on from its position, until it has read enough.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::page::{Page, parse_page_key};
use vellum_core::solid::solid_key;
use vellum_core::units::{ChunkId, SolidNumber};
use vellum_core::wire::WireReader;

use super::record::{ScrubPosition, ScrubRecord, ScrubStage};
use super::{ScrubOptions, ScrubReport};
use crate::check::{CheckFinding, next_readable_key};
use crate::chunks::{DecodedFrame, HeaderWalk};
use crate::clock::now_s;
use crate::database::{Batch, Durability, Family, key_of_copy, original_of_copy};
use crate::error::StoreError;
use crate::parity::{HealOptions, ParityPosition};
use crate::records;
use crate::store::{Access, Store};
use crate::watch::{Progress, Watch};

/// Families that a round reads before the frames.
const RECORD_FAMILIES: [Family; 7] = [
    Family::Layers,
    Family::Names,
    Family::Meta,
    Family::Copies,
    Family::Index,
    Family::Headers,
    Family::Pages,
];
/// No key of a family that is read as records is longer, but those of `copies`, which begin with a
/// letter.
const LAST_KEY_LEN: usize = 32;
/// Stored bytes of frames that are read before they are looked at.
const FRAMES_LEN: u64 = 4 << 20;
/// Bytes of tables and parity that are read before it is looked at whether to go on.
const PARITY_LEN: u64 = 16 << 20;
/// Bytes between two looks at whether to go on.
const LOOK_LEN: u64 = 1 << 20;

pub(super) struct ScrubWalk<'a> {
    store: &'a Store,
    options: &'a ScrubOptions,
    watch: &'a dyn Watch,
    record: &'a mut ScrubRecord,
    report: &'a mut ScrubReport,
}

/// A frame that was read, or why it could not be.
type ReadFrame = (FrameHeader, Result<DecodedFrame, StoreError>);

/// Frames that are read next.
struct DueFrames {
    headers: Vec<FrameHeader>,
    /// Before this, headers could not be read.
    readable_from: ChunkId,
    /// First chunk of the next frames.
    next: ChunkId,
}

impl<'a> ScrubWalk<'a> {
    pub(super) fn new(
        store: &'a Store,
        options: &'a ScrubOptions,
        watch: &'a dyn Watch,
        record: &'a mut ScrubRecord,
        report: &'a mut ScrubReport,
    ) -> Self {
        Self {
            store,
            options,
            watch,
            record,
            report,
        }
    }

    pub(super) fn run_steps(mut self) -> Result<(), StoreError> {
        while !self.is_enough() && self.record.position.stage != ScrubStage::Done {
            self.go_on()?;
            match self.record.position.stage {
                ScrubStage::Records => self.scrub_records()?,
                ScrubStage::Frames => self.scrub_frames()?,
                ScrubStage::Beside => self.scrub_parity()?,
                ScrubStage::Done => {}
            }
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.report.bytes >= self.options.bytes_max
    }

    fn go_on(&self) -> Result<(), StoreError> {
        self.watch.report_progress(Progress {
            done: self.record.bytes + self.report.bytes,
            total: None,
        });
        if self.watch.is_cancelled() {
            return Err(StoreError::Interrupted);
        }
        Ok(())
    }

    /// All of the stage was read.
    fn next_stage(&mut self) {
        let stage = self.record.position.stage;
        self.record.read_s[stage as usize] = now_s();
        self.record.position = ScrubPosition {
            stage: stage.next(),
            ..ScrubPosition::default()
        };
    }

    /// Reads records of the family that is due.
    fn scrub_records(&mut self) -> Result<(), StoreError> {
        let Some(family) = RECORD_FAMILIES.get(self.record.position.family as usize) else {
            self.next_stage();
            return Ok(());
        };
        let database = Arc::clone(&self.store.inner.database);
        let from = self.record.position.key.clone();
        if from.is_empty() {
            database.drop_cached(*family, &[], &[0xff; LAST_KEY_LEN]);
        }
        let mut scan = database.scan_from(*family, &from);
        let mut looked = self.report.bytes;
        while !self.is_enough() {
            match scan.next() {
                Ok(Some((key, value))) => {
                    self.report.bytes += (key.len() + value.len()) as u64;
                    if let Err((record, reason)) = check_record(*family, key, value) {
                        self.hurt_record(*family, key, record, reason)?;
                    }
                    self.record.position.key = [key, &[0]].concat();
                }
                Ok(None) => {
                    self.record.position.family += 1;
                    self.record.position.key.clear();
                    return Ok(());
                }
                Err(error @ StoreError::Damaged(_)) => {
                    let last = self.record.position.key.clone();
                    self.add_finding(&error, Vec::new());
                    if let Some(from) = next_readable_key(&database, *family, &last) {
                        scan = database.scan_from(*family, &from);
                        self.record.position.key = from;
                    } else {
                        self.record.position.family += 1;
                        self.record.position.key.clear();
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
            if self.report.bytes - looked > LOOK_LEN {
                looked = self.report.bytes;
                self.go_on()?;
            }
        }
        Ok(())
    }

    /// A record is not what was written. If it is kept twice and its twin is, it is written again.
    fn hurt_record(
        &mut self,
        family: Family,
        key: &[u8],
        record: String,
        reason: String,
    ) -> Result<(), StoreError> {
        let original = match family {
            Family::Copies => original_of_copy(key).map(|(family, key)| (family, key.to_vec())),
            Family::Layers | Family::Names | Family::Meta => Some((family, key.to_vec())),
            _ => None,
        };
        if let Some((family, key)) = original
            && self.is_mended(family, &key)?
        {
            self.report.healed += 1;
            return Ok(());
        }
        self.add_finding(&StoreError::damaged_record(record, reason), Vec::new());
        Ok(())
    }

    /// Writes the record at `key` again, if one of its two places has it whole.
    fn is_mended(&self, family: Family, key: &[u8]) -> Result<bool, StoreError> {
        if self.store.access_mode() == Access::ReadOnly || self.store.check_writable().is_err() {
            return Ok(false);
        }
        // No commit falls between the reads and the write.
        let _tree = self.store.tree_mut();
        let database = &self.store.inner.database;
        let places = [
            (family, key.to_vec()),
            (Family::Copies, key_of_copy(family, key)),
        ];
        let whole = places.iter().find_map(|(place, at)| {
            let value = database.get(*place, at).ok()??;
            records::verify_record(family.family_name(), key, &value).ok()?;
            Some(value.to_vec())
        });
        let Some(value) = whole else { return Ok(false) };
        let mut batch = Batch::default();
        batch.put_record(family, key, value);
        database.write_batch(batch, Durability::Logged)?;
        Ok(true)
    }

    /// Reads some frames.
    fn scrub_frames(&mut self) -> Result<(), StoreError> {
        let from = parse_frame_key(&self.record.position.key).unwrap_or(ChunkId(0));
        let Some(due) = self.due_frames(from)? else {
            self.next_stage();
            return Ok(());
        };
        let store = self.store;
        let read = |header: FrameHeader| {
            let frame = store.inner.chunks.load_frame(header.clone());
            (header, frame)
        };
        let frames: Vec<ReadFrame> = if self.options.all_cores {
            due.headers.into_par_iter().map(read).collect()
        } else {
            due.headers.into_iter().map(read).collect()
        };
        let mut whole_from = due.readable_from;
        for (header, frame) in frames {
            self.report.bytes += u64::from(header.payload_len);
            self.report.chunks += header.chunk_count() as u64;
            let damaged = match frame {
                Ok(frame) => {
                    self.store.inner.chunks.note_frame_state(&frame);
                    frame.unsound_chunks().map(|(id, _)| id).collect()
                }
                Err(_) => header.chunk_hashes().map(|(id, _)| id).collect::<Vec<_>>(),
            };
            if !damaged.is_empty() && !self.are_healed(damaged)? {
                self.mark_verified(whole_from.0..header.first_id().0);
                whole_from = header.end_id();
            }
        }
        self.mark_verified(whole_from.0..due.next.0);
        self.record.position.key = frame_key(due.next).to_vec();
        Ok(())
    }

    fn mark_verified(&mut self, ids: Range<u64>) {
        self.record.verified.note_read(ids, now_s());
    }

    /// Some frames from `from` on; none if there are no more.
    fn due_frames(&mut self, from: ChunkId) -> Result<Option<DueFrames>, StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        let mut due = DueFrames {
            headers: Vec::new(),
            readable_from: from,
            next: from,
        };
        let mut len = 0;
        let len_max = FRAMES_LEN.min(self.options.bytes_max - self.report.bytes);
        let mut headers = HeaderWalk::new(&database, from);
        while len < len_max {
            // A damaged header was reported among the records. Its chunks are not known.
            let header = match headers.next() {
                Ok(Some((first, value))) => FrameHeader::decode(first, &value).ok(),
                Ok(None) => break,
                Err(StoreError::Damaged(_)) => None,
                Err(error) => return Err(error),
            };
            match header {
                Some(header) => {
                    if due.headers.is_empty() && due.next != from {
                        due.readable_from = header.first_id();
                    }
                    due.next = header.end_id();
                    len += u64::from(header.payload_len);
                    due.headers.push(header);
                }
                None if due.headers.is_empty() => due.next = due.next.advance_by(1),
                None => break,
            }
        }
        if due.headers.is_empty() {
            return Ok(None);
        }
        database.drop_cached(Family::Frames, &frame_key(from), &frame_key(due.next));
        if from == ChunkId(0) {
            // Their members lie anywhere: for the whole round.
            let all = solid_key(SolidNumber(0));
            database.drop_cached(Family::Frames, &all, &[0xff; 8]);
        }
        Ok(Some(due))
    }

    /// True if every one of the `damaged` chunks can be read after all: it was mended by the
    /// reading, moved by a collection, or is gone because nothing refers to it. The others are
    /// reported.
    fn are_healed(&mut self, damaged: Vec<ChunkId>) -> Result<bool, StoreError> {
        let chunks = &self.store.inner.chunks;
        let (mut lost, mut why, count) = (Vec::new(), None, damaged.len());
        for id in damaged {
            let read = match chunks.frame_header(id) {
                Ok(None) => continue,
                Ok(Some(_)) => chunks.verified_frame(id),
                Err(error) => Err(error),
            };
            match read.and_then(|frame| frame.chunk_bytes(id).map(drop)) {
                Ok(()) => {}
                Err(error @ StoreError::Damaged(_)) => {
                    lost.push(id);
                    why.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.report.healed += (count - lost.len()) as u64;
        let Some(why) = why else { return Ok(true) };
        self.add_finding(&why, lost);
        Ok(false)
    }

    /// Reads a part of the parity, with the tables that it protects: blocks that no read came by
    /// are healed, and the parity itself is.
    fn scrub_parity(&mut self) -> Result<(), StoreError> {
        if self.store.parity_share().is_none() {
            // There is nothing to read, and no time at which it was read.
            self.record.position.stage = ScrubStage::Done;
            return Ok(());
        }
        let from = ParityPosition::of_key(&self.record.position.key);
        let tables = self.store.inner.database.table_files()?;
        let needed: BTreeSet<u64> = tables.iter().map(|table| table.number).collect();
        let manner = HealOptions {
            needed: Some(&needed),
            is_dry: self.store.access_mode() == Access::ReadOnly,
            watch: self.watch,
        };
        let len_max = PARITY_LEN.min(self.options.bytes_max - self.report.bytes);
        let (healed, next) = self.store.inner.parity.heal_part(from, len_max, manner)?;
        self.report.bytes += healed.bytes_read;
        self.report.healed +=
            healed.blocks_healed + healed.parity_blocks_healed + healed.files_restored.len() as u64;
        match next {
            Some(next) => self.record.position.key = next.to_key(),
            None => self.next_stage(),
        }
        Ok(())
    }

    fn add_finding(&mut self, error: &StoreError, lost: Vec<ChunkId>) {
        let (record, reason) = match error {
            StoreError::Damaged(damage) => (damage.record.clone(), damage.reason.clone()),
            other => ("the store".to_owned(), other.to_string()),
        };
        self.report.findings.push(CheckFinding {
            record,
            reason,
            is_damage: true,
            images: Vec::new(),
        });
        self.report.lost.push(lost);
    }
}

/// Checks a record; if it is damaged, returns its name and the fault.
fn check_record(family: Family, key: &[u8], value: &[u8]) -> Result<(), (String, String)> {
    let named = |name: String| move |error: &dyn std::fmt::Display| (name, error.to_string());
    let plain = || format!("{} record {}", family.family_name(), key.escape_ascii());
    match family {
        Family::Layers | Family::Names | Family::Meta => {
            records::verify_record(family.family_name(), key, value)
                .map_err(|error| named(plain())(&error))
        }
        Family::Copies => {
            let Some((family, key)) = original_of_copy(key) else {
                return Err((plain(), "it is the copy of nothing".to_owned()));
            };
            records::verify_record(family.family_name(), key, value)
                .map_err(|error| named(format!("copy of {}", plain()))(&error))
        }
        Family::Headers => {
            let decoded = parse_frame_key(key).map(|first| FrameHeader::decode(first, value));
            match decoded {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) | Err(error) => Err(named(format!("header {}", plain()))(&error)),
            }
        }
        Family::Pages => {
            let decoded = parse_page_key(key).map(|(layer, at)| Page::decode(layer, at, value));
            match decoded {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) | Err(error) => Err(named(plain())(&error)),
            }
        }
        Family::Index => WireReader::new(value)
            .read_varint()
            .map(drop)
            .map_err(|error| named(plain())(&error)),
        Family::Frames => Ok(()),
    }
}
