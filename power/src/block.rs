//! A block device as a loss of power sees it: the flushed content, and the writes that were only
//! taken.
//!
//! The model grants what every disk promises: bytes that were written before a flush was asked for
//! are durable once the flush is answered, and a sector of 512 bytes is written as a whole.
//! Everything else may be lost, kept or reordered. The file system above is a real one, so nothing
//! has to be assumed about names and journals here: that is [`crate::disk`]'s, which knows no file
//! system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{SECTOR_LEN, Writes, sectors};

/// Bytes that are kept as one piece: a page of the kernel's.
const BLOCK_LEN: usize = 4096;
/// The bytes of one read while a file is loaded.
const LOAD_LEN: usize = 1 << 20;

/// The content of a block device. Blocks of zeros take no memory, and clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct BlockContent {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK_LEN]>>,
}

/// An event of a block device.
#[derive(Clone, Debug)]
pub enum BlockEvent {
    /// Bytes were written, and the writing was answered.
    Write {
        /// In bytes.
        offset: u64,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// Everything so far was flushed.
    Flush,
    /// The moment of this number: a test counts what was asked of a program, and answered.
    Moment(u64),
}

/// A block device's past: what it held at first, and all that happened since.
#[derive(Clone, Debug, Default)]
pub struct BlockTrace {
    /// The content at first, all of it durable.
    pub start: BlockContent,
    /// In order.
    pub events: Vec<BlockEvent>,
}

/// The choice of the writes that survive without a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unflushed {
    /// Each write as a whole or not at all: about this many in a hundred survive.
    Whole(u8),
    /// Each sector as it was at one moment since the flush.
    Torn(Writes),
}

impl Unflushed {
    /// Any of the fates.
    #[must_use]
    pub fn random(chance: &mut fastrand::Rng) -> Self {
        match chance.u8(..8) {
            0 | 1 => Self::Torn(Writes::Synced),
            2 => Self::Torn(Writes::All),
            3 => Self::Torn(Writes::Torn(50)),
            4 => Self::Torn(Writes::Random),
            _ => Self::Whole([10, 50, 90][chance.usize(..3)]),
        }
    }
}

impl BlockContent {
    /// A device of `len` zero bytes.
    #[must_use]
    pub fn zeros(len: u64) -> Self {
        Self {
            len,
            blocks: BTreeMap::new(),
        }
    }

    /// The bytes of the file at `path`.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut content = Self::zeros(file.metadata()?.len());
        let mut buffer = vec![0; LOAD_LEN];
        for offset in (0..content.len).step_by(LOAD_LEN) {
            let len = (content.len - offset).min(LOAD_LEN as u64) as usize;
            file.read_exact_at(&mut buffer[..len], offset)?;
            for (nth, block) in buffer[..len].chunks(BLOCK_LEN).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    content.write(offset + (nth * BLOCK_LEN) as u64, block);
                }
            }
        }
        Ok(content)
    }

    /// In bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `offset` on; behind the end there are none.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = len.min(self.len.saturating_sub(offset) as usize);
        let mut bytes = vec![0; len];
        for (number, inside, part) in parts(offset, len) {
            if let Some(block) = self.blocks.get(&number) {
                bytes[part].copy_from_slice(&block[inside]);
            }
        }
        bytes
    }

    /// Puts `bytes` at `offset`. What would lie behind the end is dropped.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let len = bytes.len().min(self.len.saturating_sub(offset) as usize);
        for (number, inside, part) in parts(offset, len) {
            let block = self
                .blocks
                .entry(number)
                .or_insert_with(|| Arc::new([0; BLOCK_LEN]));
            Arc::make_mut(block)[inside].copy_from_slice(&bytes[part]);
        }
    }
}

/// The blocks of a range: a block's number, the range inside it, and that of the caller's bytes.
fn parts(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = (at % BLOCK_LEN as u64) as usize;
        let count = (BLOCK_LEN - inside).min(len - done);
        let part = done..done + count;
        done += count;
        (count > 0).then_some((at / BLOCK_LEN as u64, inside..inside + count, part))
    })
}

impl BlockTrace {
    /// The last moment before event `at`; 0 if there is none.
    #[must_use]
    pub fn moment(&self, at: usize) -> u64 {
        let mut before = self.events[..at].iter().rev();
        let moment = before.find_map(|event| match event {
            BlockEvent::Moment(moment) => Some(*moment),
            BlockEvent::Write { .. } | BlockEvent::Flush => None,
        });
        moment.unwrap_or(0)
    }

    /// The content of the device after everything that happened.
    #[must_use]
    pub fn end(&self) -> BlockContent {
        self.cut(
            self.events.len(),
            Unflushed::Torn(Writes::All),
            &mut fastrand::Rng::with_seed(0),
        )
    }

    /// The content of the device if power is lost before event `at`; `chance` chooses the surviving
    /// writes.
    #[must_use]
    pub fn cut(&self, at: usize, loss: Unflushed, chance: &mut fastrand::Rng) -> BlockContent {
        let flushed = self.events[..at]
            .iter()
            .rposition(|event| matches!(event, BlockEvent::Flush))
            .map_or(0, |flush| flush + 1);
        let mut content = self.start.clone();
        for (offset, bytes) in writes(&self.events[..flushed]) {
            content.write(offset, bytes);
        }
        let pending: Vec<(u64, &[u8])> = writes(&self.events[flushed..at]).collect();
        match loss {
            Unflushed::Whole(of_hundred) => {
                for (offset, bytes) in pending {
                    if chance.u8(..100) < of_hundred {
                        content.write(offset, bytes);
                    }
                }
            }
            Unflushed::Torn(fate) => {
                let mut moments = fate.moments(pending.len(), chance);
                for (nth, (offset, bytes)) in pending.iter().enumerate() {
                    let start = *offset as usize;
                    for (sector, part) in sectors(start, start + bytes.len()) {
                        if nth < moments(sector) {
                            content.write(
                                part.start as u64,
                                &bytes[part.start - start..part.end - start],
                            );
                        }
                    }
                }
            }
        }
        content
    }

    /// A place for a cut: any, one right before a flush, where most is at risk, or one right behind
    /// a moment, where most was promised.
    #[must_use]
    pub fn place(&self, chance: &mut fastrand::Rng) -> usize {
        let at = chance.usize(..=self.events.len());
        let next = self.events[at..].iter().position(|event| match event {
            BlockEvent::Flush => true,
            BlockEvent::Write { .. } | BlockEvent::Moment(_) => false,
        });
        match chance.u8(..3) {
            0 => at,
            1 => at + next.unwrap_or(0),
            _ => self.behind_moment(at),
        }
    }

    /// The place right behind `moment`, if it was noted.
    #[must_use]
    pub fn place_of(&self, moment: u64) -> Option<usize> {
        let is_it = |event: &BlockEvent| matches!(event, BlockEvent::Moment(at) if *at == moment);
        self.events.iter().position(is_it).map(|at| at + 1)
    }

    /// The place right behind the next moment from event `at` on, or the end.
    #[must_use]
    pub fn behind_moment(&self, at: usize) -> usize {
        self.events[at..]
            .iter()
            .position(|event| matches!(event, BlockEvent::Moment(_)))
            .map_or(self.events.len(), |next| at + next + 1)
    }

    /// Flushes, and bytes that were written.
    #[must_use]
    pub fn volume(&self) -> (u64, u64) {
        let flushes = self
            .events
            .iter()
            .filter(|event| matches!(event, BlockEvent::Flush));
        let written = writes(&self.events).map(|(_, bytes)| bytes.len() as u64);
        (flushes.count() as u64, written.sum())
    }
}

fn writes(events: &[BlockEvent]) -> impl Iterator<Item = (u64, &[u8])> {
    events.iter().filter_map(|event| match event {
        BlockEvent::Write { offset, bytes } => Some((*offset, &**bytes)),
        BlockEvent::Flush | BlockEvent::Moment(_) => None,
    })
}

const _: () = assert!((BLOCK_LEN as u64).is_multiple_of(SECTOR_LEN));

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, byte: u8, len: usize) -> BlockEvent {
        BlockEvent::Write {
            offset,
            bytes: vec![byte; len].into(),
        }
    }

    fn trace(events: &[BlockEvent]) -> BlockTrace {
        BlockTrace {
            start: BlockContent::zeros(1 << 20),
            events: events.to_vec(),
        }
    }

    fn first_bytes(content: &BlockContent) -> Vec<u8> {
        content
            .read(0, 4 * 512)
            .chunks(512)
            .map(|sector| sector[0])
            .collect()
    }

    #[test]
    fn what_was_flushed_survives_every_loss_and_nothing_from_behind_the_cut() {
        let trace = trace(&[
            write(0, 1, 2048),
            BlockEvent::Flush,
            write(512, 2, 512),
            BlockEvent::Moment(7),
            write(1024, 3, 512),
        ]);
        for seed in 0..200 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let loss = Unflushed::random(&mut chance);
            let seen = first_bytes(&trace.cut(3, loss, &mut chance));
            assert!(
                [[1, 1, 1, 1], [1, 2, 1, 1]].contains(&[seen[0], seen[1], seen[2], seen[3]]),
                "seed {seed}: {seen:?}"
            );
        }
        assert_eq!((trace.moment(3), trace.moment(4)), (0, 7));
        assert_eq!(first_bytes(&trace.end()), [1, 2, 3, 1]);
    }

    /// Writes of two sectors between two flushes: every set of them, and every torn half, is met.
    #[test]
    fn unflushed_writes_are_lost_kept_torn_and_reordered() {
        let trace = trace(&[BlockEvent::Flush, write(0, 1, 1024), write(512, 2, 1024)]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let loss = Unflushed::random(&mut chance);
            seen.insert(first_bytes(&trace.cut(3, loss, &mut chance)));
        }
        for expected in [
            [0, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 2, 2, 0],
            [1, 2, 2, 0],
            [0, 0, 2, 0],
        ] {
            assert!(seen.contains(&expected[..]), "{expected:?} of {seen:?}");
        }
        let allowed = |sectors: &Vec<u8>| {
            sectors[0] <= 1 && sectors[1] <= 2 && [0, 2].contains(&sectors[2]) && sectors[3] == 0
        };
        assert!(seen.iter().all(allowed), "{seen:?}");
    }

    #[test]
    fn a_file_is_loaded_as_it_is_and_ends_where_it_ends() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut bytes = vec![0; 3 * BLOCK_LEN + 100];
        bytes[BLOCK_LEN + 5] = 9;
        bytes[3 * BLOCK_LEN + 99] = 8;
        std::fs::write(file.path(), &bytes).expect("room");
        let content = BlockContent::load(file.path()).expect("it is there");
        assert_eq!(content.read(0, 1 << 20), bytes);
        assert_eq!(content.blocks.len(), 2);
        assert_eq!(content.read(3 * BLOCK_LEN as u64 + 98, 9), [0, 8]);
        assert!(content.read(1 << 40, 9).is_empty());
    }
}
