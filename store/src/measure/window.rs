//! Reads inputs as windows of [`WINDOW_LEN`] bytes, and computes the names of everything in a
//! window at every chunk length.
//!
//! Only 4 KiB leaves are hashed. A longer chunk is named by the names of its halves, and zeros by
//! no name: two chunks have the same name exactly if their bytes are the same, as long as no hash
//! collides. That is all that counting needs. It is not the name that a store of longer chunks
//! would give.

use std::sync::mpsc::SyncSender;

use vellum_core::hash::{ChunkHash, HASH_LEN, hash_chunks, is_zero};
use vellum_core::units::ChunkLen;

use crate::error::StoreError;
use crate::image_input::{ImageInput, Piece};

/// Bytes of a window: the longest chunk that is measured.
pub(super) const WINDOW_LEN: u64 = 4 << 20;
/// Bytes of a leaf.
pub(super) const LEAF_LEN: u64 = 4 << 10;

/// A stretch of a disk in which something may be.
pub(super) struct MeasureWindow {
    /// Its offset on the disk, a multiple of its length.
    pub(super) start: u64,
    /// Its bytes, zeros past the disk's end.
    pub(super) bytes: Vec<u8>,
}

/// Event that the reader of the inputs reports.
pub(super) enum ReaderEvent {
    Window(MeasureWindow),
    /// An input of this length is complete.
    End(u64),
}

/// Chunks of one length in a window, in order; `None` is zeros.
pub(super) type Names = Vec<Option<ChunkHash>>;

/// Reads `inputs` one after the other, to their ends or until the receiver is gone.
pub(super) fn read_all(
    inputs: &mut [ImageInput],
    events: &SyncSender<Result<ReaderEvent, StoreError>>,
) {
    for input in inputs {
        let read = read_input(input, &mut |window| {
            events.send(Ok(ReaderEvent::Window(window))).is_ok()
        });
        let is_last = read.is_err();
        if events.send(read.map(ReaderEvent::End)).is_err() || is_last {
            return;
        }
    }
}

/// Gives the windows of `input` to `take` until it wants no more; the length of the input.
fn read_input(
    input: &mut ImageInput,
    take: &mut dyn FnMut(MeasureWindow) -> bool,
) -> Result<u64, StoreError> {
    let spare = input.spare_buffers();
    let mut open: Option<MeasureWindow> = None;
    while let Some(piece) = input.next(ChunkLen::DEFAULT)? {
        // Ranges that a file has no data for are zeros here, like those that it calls zeros.
        let Piece::Data {
            start,
            bytes,
            absent: _,
        } = piece
        else {
            continue;
        };
        let mut done = 0;
        while done < bytes.len() {
            let at = start + done as u64;
            let window_start = at - at % WINDOW_LEN;
            if let Some(complete) = open.take_if(|window| window.start != window_start)
                && !take(complete)
            {
                return Ok(0);
            }
            let window = open.get_or_insert_with(|| MeasureWindow {
                start: window_start,
                bytes: vec![0; WINDOW_LEN as usize],
            });
            let place = (at - window_start) as usize;
            let len = (WINDOW_LEN as usize - place).min(bytes.len() - done);
            window.bytes[place..place + len].copy_from_slice(&bytes[done..done + len]);
            done += len;
        }
        spare.put_back(bytes);
    }
    open.into_iter().all(take);
    input.finish_reading()
}

impl MeasureWindow {
    /// The names of its chunks, for each doubling of the chunk length from a leaf to the window.
    pub(super) fn chunk_names(&self) -> Vec<Names> {
        let mut levels = vec![self.stored_names(ChunkLen::DEFAULT)];
        while let Some(below) = levels.last().filter(|names| names.len() > 1) {
            levels.push(below.chunks_exact(2).map(join_halves).collect());
        }
        levels
    }

    /// The names that a store with chunks of `chunk_len` gives.
    pub(super) fn stored_names(&self, chunk_len: ChunkLen) -> Names {
        let chunks: Vec<&[u8]> = self
            .bytes
            .chunks_exact(chunk_len.as_usize())
            .map(|chunk| if is_zero(chunk) { &[] } else { chunk })
            .collect();
        let data: Vec<&[u8]> = chunks
            .iter()
            .copied()
            .filter(|chunk| !chunk.is_empty())
            .collect();
        let mut names = hash_chunks(&data).into_iter();
        chunks
            .iter()
            .map(|chunk| if chunk.is_empty() { None } else { names.next() })
            .collect()
    }
}

/// The name of two neighbours together.
fn join_halves(halves: &[Option<ChunkHash>]) -> Option<ChunkHash> {
    if halves.iter().all(Option::is_none) {
        return None;
    }
    // No data has the name of zeros: a hash of 32 zero bytes is out of reach.
    let joined: Vec<u8> = halves
        .iter()
        .flat_map(|half| half.map_or([0; HASH_LEN], |half| half.0))
        .collect();
    Some(ChunkHash::of_chunk(&joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(bytes: Vec<u8>) -> (Vec<MeasureWindow>, u64) {
        let mut windows = Vec::new();
        let mut input =
            ImageInput::of_stream(Box::new(std::io::Cursor::new(bytes)), "test".to_owned());
        let len = read_input(&mut input, &mut |window| {
            windows.push(window);
            true
        });
        (windows, len.expect("memory can be read"))
    }

    #[test]
    fn chunks_of_every_length_are_the_same_exactly_if_their_bytes_are() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut bytes = vec![0_u8; WINDOW_LEN as usize];
        // Pairs of leaves out of four, zeros among them: equal and different chunks at the smaller
        // lengths.
        for leaf in bytes.chunks_exact_mut(LEAF_LEN as usize) {
            leaf[0] = random.u8(..2);
            leaf[4095] = random.u8(..2);
        }
        let (windows, len) = windows(bytes.clone());
        assert_eq!((windows.len(), len), (1, WINDOW_LEN));
        let levels = windows[0].chunk_names();
        assert_eq!(levels.len(), 11);
        for (level, names) in levels.iter().enumerate() {
            let chunks: Vec<&[u8]> = bytes.chunks_exact((LEAF_LEN as usize) << level).collect();
            assert_eq!(names.len(), chunks.len());
            for a in 0..chunks.len().min(64) {
                assert_eq!(names[a].is_none(), is_zero(chunks[a]));
                for b in 0..a {
                    assert_eq!(
                        names[a] == names[b],
                        chunks[a] == chunks[b],
                        "level {level}, chunks {a} and {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_tail_is_padded_with_zeros_and_holes_make_no_windows() {
        let (windows, len) =
            windows([vec![7; 5000], vec![0; 2 * WINDOW_LEN as usize], vec![7; 1]].concat());
        assert_eq!(len, 2 * WINDOW_LEN + 5001);
        let starts: Vec<u64> = windows.iter().map(|window| window.start).collect();
        assert!(
            starts == [0, WINDOW_LEN, 2 * WINDOW_LEN],
            "a pipe has no holes: {starts:?}"
        );
        assert!(windows[1].chunk_names()[10][0].is_none());
        assert_eq!(
            windows[2].chunk_names()[0].iter().flatten().count(),
            1,
            "5001 bytes past the window's start are in its second leaf"
        );
        assert_eq!(
            windows[0].stored_names(ChunkLen::DEFAULT)[0],
            Some(ChunkHash::of_chunk(&[7; 4096]))
        );
    }
}
