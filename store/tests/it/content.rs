//! Content of random disks: pieces of one small pool, so that equal chunks meet again, between
//! zeros, noise and repetitions.

use std::sync::Arc;

use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};

/// Source of a random test's decisions: a generator, or a fuzzer's bytes.
pub(crate) trait Choices {
    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64;

    /// True `part` times in `of`.
    fn chance(&mut self, part: u64, of: u64) -> bool {
        self.below(of) < part
    }

    /// One of `all`, which is not empty.
    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T
    where
        Self: Sized,
    {
        &all[self.below(all.len() as u64) as usize]
    }
}

impl Choices for fastrand::Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.u64(..limit)
    }
}

/// Bytes that content is cut from.
#[derive(Clone)]
pub(crate) struct Pool {
    bytes: Arc<Vec<u8>>,
    /// Grid on which pieces begin, in the pool and on the disk: the chunk length of the store under
    /// test.
    grid: u64,
}

/// The content of an import: bytes, and of which kind each range is.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Zero where the kind is not data.
    pub bytes: Blob,
    /// Lengths and kinds, in order, gap-free.
    pub extents: Vec<(u64, ExtentKind)>,
}

/// Bytes that show only how many they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub Vec<u8>);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

const POOL_LEN: usize = 1 << 20;

impl Pool {
    /// The pool is the same for every seed, so that a store outlives the test that filled it.
    pub(crate) fn new(grid: u64) -> Self {
        let mut bytes = vec![0; POOL_LEN];
        let mut random = fastrand::Rng::with_seed(0x7001);
        for (nth, block) in bytes.chunks_exact_mut(4096).enumerate() {
            // Every third block compresses well, every third not at all.
            match nth % 3 {
                0 => random.fill(block),
                1 => block
                    .iter_mut()
                    .for_each(|byte| *byte = b"vellum "[random.usize(..7)]),
                _ => random.fill(&mut block[..64]),
            }
        }
        Self {
            bytes: Arc::new(bytes),
            grid,
        }
    }

    /// New content of `len` bytes.
    pub(crate) fn fresh(&self, choices: &mut impl Choices, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        for _ in 0..=choices.below(6) {
            self.change(choices, &mut bytes);
        }
        bytes
    }

    /// Changes one range of `bytes` to something else, as an upgrade of a guest would.
    pub(crate) fn change(&self, choices: &mut impl Choices, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let (start, end) = range_of(choices, bytes.len() as u64, self.grid);
        let range = &mut bytes[start as usize..end as usize];
        let at = self.grid * choices.below(POOL_LEN as u64 / self.grid);
        match choices.below(8) {
            0 => range.fill(0),
            1 => fastrand::Rng::with_seed(choices.below(1 << 32))
                .fill(&mut range[..(end - start).min(20_000) as usize]),
            2 => range
                .chunks_mut(self.grid as usize)
                .for_each(|part| part.copy_from_slice(&self.bytes[at as usize..][..part.len()])),
            3 => range[0] ^= 1,
            _ => {
                let from = &self.bytes[at as usize..];
                range
                    .chunks_mut(from.len())
                    .for_each(|part| part.copy_from_slice(&from[..part.len()]));
            }
        }
    }
}

/// A range inside `len` bytes that is not empty: on the grid as often as not, at the very end now
/// and then.
pub(crate) fn range_of(choices: &mut impl Choices, len: u64, grid: u64) -> (u64, u64) {
    let longest = if choices.chance(1, 4) {
        len
    } else {
        len.min(16 * grid)
    };
    let span = 1 + choices.below(longest);
    let start = if choices.chance(1, 6) {
        len - span
    } else {
        choices.below(len - span + 1)
    };
    let end = start + span;
    if choices.chance(1, 2) {
        let start = start - start % grid;
        (start, end.next_multiple_of(grid).min(len).max(start + 1))
    } else {
        (start, end)
    }
}

impl Content {
    /// All of it data, zeros included, as a pipe or a file without holes has it.
    pub(crate) fn plain(bytes: Vec<u8>) -> Self {
        let extents = vec![(bytes.len() as u64, ExtentKind::Data)];
        Self {
            bytes: Blob(bytes),
            extents: extents.into_iter().filter(|(len, _)| *len > 0).collect(),
        }
    }

    /// Some of it declared zero or absent.
    pub(crate) fn sparse(choices: &mut impl Choices, mut bytes: Vec<u8>, grid: u64) -> Self {
        let (mut extents, mut at, len) = (Vec::new(), 0, bytes.len() as u64);
        while at < len {
            let longest = (len - at).min(if choices.chance(1, 3) { len } else { 9 * grid });
            let mut end = at + 1 + choices.below(longest);
            if choices.chance(2, 3) {
                end = end.next_multiple_of(grid).min(len);
            }
            let kind = *choices.pick(&[
                ExtentKind::Data,
                ExtentKind::Data,
                ExtentKind::Zero,
                ExtentKind::Absent,
            ]);
            if kind != ExtentKind::Data {
                bytes[at as usize..end as usize].fill(0);
            }
            extents.push((end - at, kind));
            at = end;
        }
        Self {
            bytes: Blob(bytes),
            extents,
        }
    }

    /// The content of a disk once this is imported over `below`.
    pub(crate) fn over(&self, below: &[u8]) -> Vec<u8> {
        let mut result = self.bytes.0.clone();
        let mut at = 0;
        for (len, kind) in &self.extents {
            let end = at + *len as usize;
            if *kind == ExtentKind::Absent && at < below.len() {
                let seen = end.min(below.len());
                result[at..seen].copy_from_slice(&below[at..seen]);
            }
            at = end;
        }
        result
    }
}

impl ImageSource for Content {
    fn len(&self) -> u64 {
        self.bytes.0.len() as u64
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let mut start = 0;
        for (len, kind) in &self.extents {
            if offset < start + len {
                return Ok(Extent {
                    start: offset,
                    len: start + len - offset,
                    kind: *kind,
                });
            }
            start += len;
        }
        panic!("extent_at({offset}) lies outside the image")
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        buffer.copy_from_slice(&self.bytes.0[offset as usize..][..buffer.len()]);
        Ok(())
    }
}
