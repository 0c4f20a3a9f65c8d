//! Images made by hand. That real ones read as Hyper-V meant them is shown by
//! `tests/it/foreign.rs`.

use super::*;
use vellum_core::source::{ExtentKind, ImageSource};

const MB: usize = 1 << 20;
const TABLE_AT: usize = 3 * MB;
const LOG_AT: usize = MB;
const DATA_AT: usize = 4 * MB;

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Puts the CRC-32C of `len` bytes from `at` into their bytes 4 to 8.
fn seal(bytes: &mut [u8], at: usize, len: usize) {
    put(bytes, at + 4, &[0; 4]);
    let sum = crc32c::crc32c(&bytes[at..at + len]);
    put(bytes, at + 4, &sum.to_le_bytes());
}

fn metadata(has_parent: bool) -> Vec<u8> {
    let mut bytes = vec![0; MB];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &3_u16.to_le_bytes());
    let guids: [&[u8; 16]; 3] = [
        b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b",
        b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8",
        b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f",
    ];
    for (number, guid) in guids.into_iter().enumerate() {
        let at = 32 + 32 * number;
        put(&mut bytes, at, guid);
        put(
            &mut bytes,
            at + 16,
            &(65_536 + 8 * number as u32).to_le_bytes(),
        );
        put(&mut bytes, at + 20, &8_u32.to_le_bytes());
        put(&mut bytes, at + 24, &4_u32.to_le_bytes());
    }
    put(&mut bytes, 65_536, &(MB as u32).to_le_bytes());
    put(
        &mut bytes,
        65_540,
        &(u32::from(has_parent) * 2).to_le_bytes(),
    );
    put(&mut bytes, 65_544, &(3 * MB as u64).to_le_bytes());
    put(&mut bytes, 65_552, &512_u32.to_le_bytes());
    bytes
}

/// A disk of three blocks of 1 MiB: one that is there, one with `states[1]`, one with `states[2]`.
fn image(states: [u64; 3], has_parent: bool) -> Vec<u8> {
    let mut bytes = vec![0; 7 * MB];
    put(&mut bytes, 0, b"vhdxfile");
    for (number, at) in [64 << 10, 128 << 10].into_iter().enumerate() {
        put(&mut bytes, at, b"head");
        put(&mut bytes, at + 8, &(1 + number as u64).to_le_bytes());
        put(&mut bytes, at + 32, &[3; 16]);
        put(&mut bytes, at + 66, &1_u16.to_le_bytes());
        put(&mut bytes, at + 68, &(MB as u32).to_le_bytes());
        put(&mut bytes, at + 72, &(LOG_AT as u64).to_le_bytes());
        seal(&mut bytes, at, 4096);
    }
    for at in [192 << 10, 256 << 10] {
        put(&mut bytes, at, b"regi");
        put(&mut bytes, at + 8, &2_u32.to_le_bytes());
        let guids: [&[u8; 16]; 2] = [
            b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08",
            b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e",
        ];
        for (number, (guid, offset)) in guids.into_iter().zip([TABLE_AT, 2 * MB]).enumerate() {
            put(&mut bytes, at + 16 + 32 * number, guid);
            put(
                &mut bytes,
                at + 32 + 32 * number,
                &(offset as u64).to_le_bytes(),
            );
            put(
                &mut bytes,
                at + 40 + 32 * number,
                &(MB as u32).to_le_bytes(),
            );
        }
        seal(&mut bytes, at, 64 << 10);
    }
    put(&mut bytes, 2 * MB, &metadata(has_parent));
    for (number, state) in states.into_iter().enumerate() {
        let entry = state | ((4 + number as u64) << 20);
        put(&mut bytes, TABLE_AT + 8 * number, &entry.to_le_bytes());
    }
    // The entry of the chunk's bitmap block stands behind 4,096 blocks.
    let bitmap = BLOCK_PRESENT | (6 << 20);
    put(&mut bytes, TABLE_AT + 8 * 4096, &bitmap.to_le_bytes());
    bytes[DATA_AT..DATA_AT + MB].fill(0xaa);
    bytes
}

#[test]
fn each_state_of_a_block_is_told() {
    let zeros = [BLOCK_UNDEFINED, BLOCK_ZERO, BLOCK_UNMAPPED];
    for state in zeros {
        let image = open_image(Arc::new(image([6, state, 0], false))).expect("opens");
        let kind = |block| image.extent_at(block * MIB).expect("told").kind;
        assert_eq!(
            [kind(0), kind(1), kind(2)],
            [ExtentKind::Data, ExtentKind::Zero, ExtentKind::Absent]
        );
        let mut content = vec![1; 3 * MB];
        image.read_at(&mut content, 0).expect("read");
        assert!(content[..MB].iter().all(|byte| *byte == 0xaa));
        assert!(content[MB..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_block_that_is_partly_there_asks_the_parent_for_the_rest() {
    let mut bytes = image([BLOCK_PARTLY_PRESENT, 0, 0], true);
    // Sectors 8 to 15 of the first block; bits of a byte rise.
    bytes[6 * MB + 1] = 0xff;
    let child = open_image(Arc::new(bytes)).expect("opens");
    let extent = |at| child.extent_at(at).map(|extent| (extent.len, extent.kind));
    assert_eq!(extent(0).expect("told"), (4096, ExtentKind::Absent));
    assert_eq!(extent(4096).expect("told"), (4096, ExtentKind::Data));
    assert_eq!(
        extent(8192).expect("told"),
        (3 * MIB - 8192, ExtentKind::Absent)
    );
    assert!(
        open_image(Arc::new(image([BLOCK_PARTLY_PRESENT, 0, 0], false)))
            .is_ok_and(|image| image.extent_at(0).is_err())
    );
}

/// One entry with two descriptors: block 1 becomes present by a change of the table, and its first
/// sector is zeroed where it lies.
fn log_entry(sequence: u64, tail: u32) -> Vec<u8> {
    let mut entry = vec![0; 8192];
    put(&mut entry, 0, b"loge");
    put(&mut entry, 8, &8192_u32.to_le_bytes());
    put(&mut entry, 12, &tail.to_le_bytes());
    put(&mut entry, 16, &sequence.to_le_bytes());
    put(&mut entry, 24, &2_u32.to_le_bytes());
    put(&mut entry, 32, &[8; 16]);
    put(&mut entry, 48, &(7 * MB as u64).to_le_bytes());
    put(&mut entry, 56, &(7 * MB as u64).to_le_bytes());
    let first = (BLOCK_PRESENT | (4 << 20)).to_le_bytes();
    put(&mut entry, 64, b"desc");
    put(&mut entry, 72, &first);
    put(&mut entry, 80, &(TABLE_AT as u64).to_le_bytes());
    put(&mut entry, 88, &sequence.to_le_bytes());
    put(&mut entry, 96, b"zero");
    put(&mut entry, 104, &4096_u64.to_le_bytes());
    put(&mut entry, 112, &(DATA_AT as u64).to_le_bytes());
    put(&mut entry, 120, &sequence.to_le_bytes());
    put(&mut entry, 4096, b"data");
    put(
        &mut entry,
        4096 + 4,
        &((sequence >> 32) as u32).to_le_bytes(),
    );
    // Entry 1 of the table, behind the first 8 bytes: the same place as block 0.
    put(&mut entry, 4096 + 8, &first);
    put(&mut entry, 8188, &(sequence as u32).to_le_bytes());
    seal(&mut entry, 0, 8192);
    entry
}

fn with_log(entries: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = image([6, 0, 0], false);
    for (at, entry) in entries {
        for (number, byte) in entry.iter().enumerate() {
            bytes[LOG_AT + (at + number) % MB] = *byte;
        }
    }
    for at in [64 << 10, 128 << 10] {
        put(&mut bytes, at + 48, &[8; 16]);
        seal(&mut bytes, at, 4096);
    }
    bytes
}

#[test]
fn a_log_is_replayed_in_memory_also_over_the_end_of_its_ring() {
    for at in [0, 4096, MB - 4096] {
        let tail = at as u32;
        let image = open_image(Arc::new(with_log(&[(at, log_entry(9, tail))]))).expect("opens");
        let mut content = vec![1; 2 * MB];
        image.read_at(&mut content, 0).expect("read");
        assert!(content[..4096].iter().all(|byte| *byte == 0), "{at}");
        assert!(content[4096..MB].iter().all(|byte| *byte == 0xaa), "{at}");
        // Block 1 became the same place by the log.
        assert!(content[MB..] == content[..MB], "{at}");
    }
}

#[test]
fn only_a_whole_run_of_the_logs_own_entries_counts() {
    // The newer run counts; an older one lies elsewhere in the ring.
    let both = with_log(&[(0, log_entry(3, 0)), (65_536, log_entry(9, 65_536))]);
    assert!(open_image(Arc::new(both)).is_ok());
    // Torn, of another log, or the end of a longer run: nothing can be replayed.
    let mut torn = log_entry(9, 0);
    torn[5000] ^= 1;
    let mut foreign = log_entry(9, 0);
    foreign[32] ^= 1;
    seal(&mut foreign, 0, 8192);
    for entry in [torn, foreign, log_entry(9, 8192)] {
        assert!(open_image(Arc::new(with_log(&[(0, entry)]))).is_err());
    }
    // A file that was cut after its log was written.
    let mut cut = with_log(&[(0, log_entry(9, 0))]);
    cut.truncate(6 * MB);
    assert!(open_image(Arc::new(cut)).is_err());
}

#[test]
fn either_header_and_either_region_table_is_enough() {
    for (broken, works) in [
        (&[64 << 10, 192 << 10][..], true),
        (&[128 << 10, 256 << 10], true),
        (&[64 << 10, 128 << 10], false),
        (&[192 << 10, 256 << 10], false),
    ] {
        let mut bytes = image([6, 0, 0], false);
        broken.iter().for_each(|at| bytes[*at + 100] ^= 1);
        assert_eq!(open_image(Arc::new(bytes)).is_ok(), works, "{broken:?}");
    }
}

#[test]
fn no_number_in_a_header_leads_out_of_the_file_or_panics() {
    let whole = image([6, 7, 2], true);
    let fields = (2 * MB..2 * MB + 160).chain(2 * MB + 65_536..2 * MB + 65_560);
    let fields = fields.chain(TABLE_AT..TABLE_AT + 24).step_by(4);
    for at in fields {
        for value in [0, 1, 0x7fff_ffff, 0x8000_0000_u32, u32::MAX] {
            let mut bytes = whole.clone();
            put(&mut bytes, at, &value.to_le_bytes());
            let Ok(image) = open_image(Arc::new(bytes)) else {
                continue;
            };
            for offset in [0, MIB, 2 * MIB] {
                if offset + 512 <= image.len() {
                    let _ = image.read_at(&mut [0; 512], offset);
                    let _ = image.extent_at(offset);
                }
            }
        }
    }
}
