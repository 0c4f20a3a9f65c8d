//! Reads ahead and hashes: pieces come off the source in order, and every core hashes them while
//! others are still being read. What has to be decoded is read on every core as well.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use vellum_core::hash::{ChunkHash, hash_chunks, is_zero};
use vellum_core::units::ChunkLen;

use crate::error::StoreError;
use crate::image_input::{ImageInput, Piece};

/// Pieces that may wait between the reader and the builder: enough to keep two cores hashing while
/// the builder decides.
pub(super) const PIECES_AHEAD: usize = 8;

/// A piece of which the names are known, or on their way.
pub(super) enum PreparedPiece {
    /// Whole chunks, the last padded with zeros past the disk's end; to be received with their
    /// names.
    Data {
        start: u64,
        hashed: Receiver<Result<HashedChunks, StoreError>>,
    },
    /// Anything else, and data of which the parent has a part.
    Plain(Piece),
}

/// Whole chunks and the name of each; `None` is a chunk of zeros.
pub(super) struct HashedChunks {
    pub(super) bytes: Vec<u8>,
    pub(super) names: Vec<Option<ChunkHash>>,
}

/// Reads `input` to its end, or until the receiver is gone.
pub(super) fn read_all(
    input: &mut ImageInput,
    chunk_len: ChunkLen,
    pieces: &SyncSender<Result<PreparedPiece, StoreError>>,
) {
    loop {
        let piece = match input.next_unread(chunk_len) {
            Ok(Some(piece)) => Ok(prepare_piece(piece, chunk_len)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        if pieces.send(piece).is_err() || is_last {
            return;
        }
    }
}

fn prepare_piece(piece: Piece, chunk_len: ChunkLen) -> PreparedPiece {
    match piece {
        Piece::Data {
            start,
            bytes,
            absent,
        } if absent.is_empty() => {
            let (sender, hashed) = sync_channel(1);
            // The builder may have given up; then the hashes are not needed.
            rayon::spawn(move || drop(sender.send(Ok(hash_piece(bytes, chunk_len)))));
            PreparedPiece::Data { start, hashed }
        }
        Piece::Unread(unread) => {
            let (start, (sender, hashed)) = (unread.start(), sync_channel(1));
            rayon::spawn(move || {
                let read = unread
                    .read_bytes()
                    .map(|bytes| hash_piece(bytes, chunk_len));
                drop(sender.send(read));
            });
            PreparedPiece::Data { start, hashed }
        }
        other => PreparedPiece::Plain(other),
    }
}

/// Pads `bytes` to whole chunks and hashes them. Chunks of zeros are found first: they need no
/// hash.
pub(super) fn hash_piece(mut bytes: Vec<u8>, chunk_len: ChunkLen) -> HashedChunks {
    let chunk_len = chunk_len.as_usize();
    bytes.resize(bytes.len().next_multiple_of(chunk_len), 0);
    let chunks: Vec<&[u8]> = bytes.chunks_exact(chunk_len).collect();
    let data: Vec<&[u8]> = chunks
        .iter()
        .copied()
        .filter(|chunk| !is_zero(chunk))
        .collect();
    let mut data_names = hash_chunks(&data).into_iter();
    let mut data = data.into_iter().peekable();
    // The chunks with data are the same slices, in the same order.
    let names = chunks
        .into_iter()
        .map(|chunk| {
            data.next_if(|next| std::ptr::eq(*next, chunk))
                .and_then(|_| data_names.next())
        })
        .collect();
    HashedChunks { bytes, names }
}
