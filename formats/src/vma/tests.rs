//! Archives made by hand.

use super::*;
use vellum_core::source::ExtentKind;

/// Two disks of 100,000 and 65,536 bytes, three clusters in one extent, the first disk's out of
/// order.
fn archive() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN + 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, MAGIC);
    put(4, &1_u32.to_be_bytes());
    put(8, &[7; 16]);
    put(48, &(HEADER_LEN as u32).to_be_bytes());
    put(52, &512_u32.to_be_bytes());
    put(56, &(HEADER_LEN as u32 + 512).to_be_bytes());
    put(2044, &40_u32.to_be_bytes());
    put(3068, &60_u32.to_be_bytes());
    for (number, place, len) in [(1, 1_u32, 100_000_u64), (2, 20, 65_536)] {
        put(4096 + 32 * number, &place.to_be_bytes());
        put(4096 + 32 * number + 8, &len.to_be_bytes());
    }
    for (place, text) in [
        (1, "drive-a\0"),
        (20, "drive-b\0"),
        (40, "qemu-server.conf\0"),
        (60, "cores: 2\n"),
    ] {
        put(HEADER_LEN + place, &(text.len() as u16).to_le_bytes());
        put(HEADER_LEN + place + 2, text.as_bytes());
    }
    let mut head = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| head[at..at + field.len()].copy_from_slice(field);
    put(0, EXTENT_MAGIC);
    put(6, &4_u16.to_be_bytes());
    put(8, &[7; 16]);
    let entry =
        |mask: u64, disk: u64, cluster: u64| (mask << 48 | disk << 32 | cluster).to_be_bytes();
    put(40, &entry(0b101, 1, 1));
    put(48, &entry(1 << 15, 2, 0));
    put(56, &entry(1, 1, 0));
    bytes.extend(head);
    for byte in [1, 2, 3, 4] {
        bytes.extend([byte; 4096]);
    }
    bytes
}

#[test]
fn interleaved_disks_are_told_apart_and_put_in_order() {
    let archive = VmaArchive::open_archive(Arc::new(archive())).expect("opens");
    let names: Vec<_> = archive
        .disks()
        .iter()
        .map(|disk| (disk.name.as_str(), disk.len))
        .collect();
    assert_eq!(names, [("drive-a", 100_000), ("drive-b", 65_536)]);
    let configuration = ("qemu-server.conf".to_owned(), b"cores: 2\n".to_vec());
    assert_eq!(archive.configurations(), [configuration]);
    let first = archive.open_disk(1).expect("whole");
    let byte = |disk: &dyn ImageSource, at: u64| {
        let mut byte = [9];
        disk.read_at(&mut byte, at).expect("read");
        byte[0]
    };
    let places = [0, 4096, 65_536, 65_536 + 4096, 65_536 + 8192, 99_999];
    assert_eq!(places.map(|at| byte(&*first, at)), [4, 0, 1, 0, 2, 0]);
    assert_eq!(first.extent_at(4096).expect("told").kind, ExtentKind::Zero);
    let second = archive.open_disk(2).expect("whole");
    assert_eq!([0, 61_440].map(|at| byte(&*second, at)), [0, 3]);
    assert!(archive.open_disk(3).is_err());
}

#[test]
fn what_is_missing_double_or_foreign_is_an_error() {
    let whole = archive();
    let extent = HEADER_LEN + 512;
    let opens = |bytes: Vec<u8>| {
        VmaArchive::open_archive(Arc::new(bytes))
            .and_then(|archive| archive.open_disk(1))
            .is_ok()
    };
    assert!(opens(whole.clone()));
    for (at, byte, what) in [
        (extent + 8, 8, "another archive's extent"),
        (extent + 7, 5, "more blocks than there are"),
        (extent + 7, 3, "fewer blocks than are named"),
        (extent + 47, 0, "a cluster twice"),
        (extent + 63, 5, "a cluster behind the disk"),
        (extent + 60, 2, "a cluster that is missing"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        assert!(!opens(bytes), "{what}");
    }
    for len in (0..whole.len()).step_by(509) {
        assert!(!opens(whole[..len].to_vec()), "cut off at {len}");
    }
}

#[test]
fn no_number_in_a_header_leads_out_of_the_file_or_panics() {
    let whole = archive();
    for at in (0..whole.len() - 16_384).step_by(4) {
        for value in [1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
            if let Ok(archive) = VmaArchive::open_archive(Arc::new(bytes)) {
                for number in [1, 2] {
                    let disk = archive.open_disk(number);
                    let _ = disk
                        .map(|disk| disk.read_at(&mut vec![0; disk.len().min(512) as usize], 0));
                }
            }
        }
    }
}
