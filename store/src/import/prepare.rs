//! Reading ahead: pieces come off the source in order, and every core hashes them while others are still being read.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use vellum_core::hash::{ChunkHash, hash_chunks, is_zero};
use vellum_core::units::ChunkLen;

use crate::error::StoreError;
use crate::pieces::{Input, Piece};

/// Pieces that may wait between the reader and the builder: enough to keep two cores hashing while the builder decides.
pub(super) const PIECES_AHEAD: usize = 8;

/// A piece of which the names are known, or on their way.
pub(super) enum Prepared {
    /// Whole chunks, the last padded with zeros past the disk's end; to be received with their names.
    Data { start: u64, hashed: Receiver<Hashed> },
    /// Anything else, and data of which the parent has a part.
    Plain(Piece),
}

/// Whole chunks and the name of each; `None` is a chunk of zeros.
pub(super) struct Hashed {
    pub(super) bytes: Vec<u8>,
    pub(super) names: Vec<Option<ChunkHash>>,
}

/// Reads `input` to its end, or until nobody listens any more.
pub(super) fn read_all(input: &mut Input, chunk_len: ChunkLen, pieces: &SyncSender<Result<Prepared, StoreError>>) {
    loop {
        let piece = match input.next(chunk_len) {
            Ok(Some(piece)) => Ok(prepare(piece, chunk_len)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        if pieces.send(piece).is_err() || is_last {
            return;
        }
    }
}

fn prepare(piece: Piece, chunk_len: ChunkLen) -> Prepared {
    match piece {
        Piece::Data { start, bytes, absent } if absent.is_empty() => {
            let (sender, hashed) = sync_channel(1);
            // The builder may have given up; then nobody wants the names.
            rayon::spawn(move || drop(sender.send(hash(bytes, chunk_len))));
            Prepared::Data { start, hashed }
        }
        other => Prepared::Plain(other),
    }
}

/// Pads `bytes` to whole chunks and names them. Zeros are told first: they need no name.
pub(super) fn hash(mut bytes: Vec<u8>, chunk_len: ChunkLen) -> Hashed {
    let chunk_len = chunk_len.as_usize();
    bytes.resize(bytes.len().next_multiple_of(chunk_len), 0);
    let zeros: Vec<bool> = bytes.chunks_exact(chunk_len).map(is_zero).collect();
    let mut names = Vec::with_capacity(zeros.len());
    for run in zeros.chunk_by(|a, b| a == b) {
        let start = names.len() * chunk_len;
        if run[0] {
            names.resize(names.len() + run.len(), None);
        } else {
            names.extend(hash_chunks(&bytes[start..start + run.len() * chunk_len], chunk_len).into_iter().map(Some));
        }
    }
    Hashed { bytes, names }
}
