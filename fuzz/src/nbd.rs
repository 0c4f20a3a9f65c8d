//! A fuzz body for the NBD server: the input is everything that a client says.

use std::sync::Arc;

use vellum_serve::nbd::replies_to;

use crate::memory::{Devices, GRID, Memory};

/// Longer than what a reply holds in one small piece, short enough for many reads an input.
const DISK_LEN: usize = 24 * GRID;
/// Longer inputs only repeat: each request can ask for the whole disk.
const INPUT_LEN_MAX: usize = 4096;
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// A disk with data, a hole and data.
fn answer(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x5a; DISK_LEN];
    bytes[8 * GRID..16 * GRID].fill(0);
    replies_to(
        &Devices(vec![
            ("disk", Arc::new(Memory::new(bytes))),
            ("busy", Arc::new(Memory::new(Vec::new()))),
        ]),
        data,
    )
}

/// Any client gets the greeting first, and the same answer to its first messages whatever follows
/// them.
pub fn nbd(data: &[u8]) {
    let data = &data[..data.len().min(INPUT_LEN_MAX)];
    let whole = answer(data);
    assert!(whole.starts_with(GREETING), "the server speaks first");
    let cut = data
        .last()
        .map_or(0, |last| data.len() * usize::from(*last) / 256);
    let part = answer(&data[..cut]);
    assert!(
        whole.starts_with(&part),
        "what follows changes no answer that was given"
    );
}
