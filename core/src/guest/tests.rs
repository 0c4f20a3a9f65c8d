//! Tables that were made by hand, with what hostile ones try. Real file systems are in the store's
//! tests, beside the tools that made them.

use std::collections::BTreeMap;
use std::io;

use super::*;

const SECTOR: usize = 512;

/// A long disk that is zero but for some sectors.
struct Disk {
    len: u64,
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl Disk {
    fn new(len: u64) -> Self {
        Self {
            len,
            sectors: BTreeMap::new(),
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            self.sectors
                .entry(at / SECTOR as u64)
                .or_insert([0; SECTOR])[(at % SECTOR as u64) as usize] = *byte;
        }
    }

    /// A table of (type, first sector, count) in `sector`.
    fn put_table(&mut self, sector: u64, entries: &[(u8, u32, u32)]) {
        let at = sector * SECTOR as u64;
        self.put(at + 510, &[0x55, 0xaa]);
        for (nth, (kind, first, count)) in (0..).zip(entries) {
            self.put(at + 446 + 16 * nth + 4, &[*kind]);
            self.put(
                at + 446 + 16 * nth + 8,
                &[first.to_le_bytes(), count.to_le_bytes()].concat(),
            );
        }
    }
}

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, byte) in (offset..).zip(buffer) {
            *byte = self
                .sectors
                .get(&(at / SECTOR as u64))
                .map_or(0, |sector| sector[(at % SECTOR as u64) as usize]);
        }
        Ok(())
    }
}

/// Number, first sector and count of sectors of each volume.
fn found(disk: &Disk) -> Vec<(Option<u32>, u64, u64)> {
    let sectors = |volume: Volume| (volume.partition, volume.start / 512, volume.len / 512);
    list_volumes(disk)
        .expect("a disk in memory can be read")
        .into_iter()
        .map(sectors)
        .collect()
}

#[test]
fn a_disk_without_a_table_is_one_volume() {
    let mut disk = Disk::new(1 << 30);
    assert_eq!(found(&disk), [(None, 0, 2 << 20)]);
    // A boot sector whose code stands where entries would be.
    disk.put(0, &[0x5a; 510]);
    disk.put(510, &[0x55, 0xaa]);
    assert_eq!(found(&disk), [(None, 0, 2 << 20)]);
    assert_eq!(found(&Disk::new(7)), [(None, 0, 0)]);
}

#[test]
fn logical_partitions_are_found_and_a_chain_of_them_ends() {
    let mut disk = Disk::new(1 << 30);
    disk.put_table(
        0,
        &[
            (0x83, 100, 50),
            (0x05, 1000, 9000),
            (0, 5, 5),
            (0x82, 20_000, 8),
        ],
    );
    disk.put_table(1000, &[(0x83, 8, 92), (0x05, 500, 400)]);
    disk.put_table(1500, &[(0x83, 8, 92), (0x05, 0, 400)]);
    assert_eq!(
        found(&disk),
        [
            (Some(1), 100, 50),
            (Some(5), 1008, 92),
            (Some(6), 1508, 92),
            (Some(4), 20_000, 8)
        ]
    );
    // Each link leads to the next sector: no number of partitions is worth so many.
    (0..500).for_each(|nth| {
        disk.put_table(
            1000 + nth,
            &[
                (0x83, 100_000 + nth as u32 * 10, 1),
                (0x05, nth as u32 + 1, 1),
            ],
        );
    });
    assert!(found(&disk).len() <= 62);
}

#[test]
fn what_overlaps_or_ends_elsewhere_is_left_out() {
    let mut disk = Disk::new(1 << 20);
    disk.put_table(
        0,
        &[
            (0x83, 10, 100),
            (0x83, 50, 100),
            (0x83, 110, 1),
            (0x83, 2000, 49),
        ],
    );
    assert_eq!(found(&disk), [(Some(1), 10, 100), (Some(3), 110, 1)]);
    disk.put_table(0, &[(0x83, 0, u32::MAX), (0x83, u32::MAX, u32::MAX)]);
    assert_eq!(found(&disk), [(Some(3), 110, 1)]);
}

/// A GPT with one partition; its header is at `sector`, its entries at `table`.
fn put_gpt(disk: &mut Disk, sector: u64, table: u64, first: u64, last: u64) {
    let mut entries = vec![0; 128 * 4];
    entries[128..144].fill(7);
    entries[128 + 32..128 + 48]
        .copy_from_slice(&[first.to_le_bytes(), last.to_le_bytes()].concat());
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[72..80].copy_from_slice(&table.to_le_bytes());
    header[80..84].copy_from_slice(&4_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&partitions::crc32(&entries).to_le_bytes());
    let checksum = partitions::crc32(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    disk.put(sector * 512, &header);
    disk.put(table * 512, &entries);
}

#[test]
fn a_gpt_is_read_from_its_copy_if_it_is_hurt_and_not_at_all_if_both_are() {
    let mut disk = Disk::new(1 << 20);
    disk.put_table(0, &[(0xee, 1, 2047)]);
    put_gpt(&mut disk, 1, 2, 100, 199);
    put_gpt(&mut disk, 2047, 2040, 300, 399);
    assert_eq!(found(&disk), [(Some(2), 100, 100)]);
    disk.put(2 * 512 + 128 + 32, &[99]);
    assert_eq!(found(&disk), [(Some(2), 300, 100)]);
    disk.put(2047 * 512 + 40, &[1]);
    assert_eq!(found(&disk), [(None, 0, 2048)]);
    put_gpt(&mut disk, 1, 2, 200, 100);
    assert_eq!(
        found(&disk),
        [(None, 0, 2048)],
        "a partition that ends before it begins"
    );
    put_gpt(&mut disk, 1, 2, 5, u64::MAX);
    assert_eq!(found(&disk), [(None, 0, 2048)], "a partition without end");
}

fn swap(last_page: u32, version: u32) -> Disk {
    let mut disk = Disk::new(1 << 20);
    disk.put(4086, b"SWAPSPACE2");
    disk.put(
        1024,
        &[version.to_le_bytes(), last_page.to_le_bytes()].concat(),
    );
    disk
}

#[test]
fn all_of_swap_but_its_header_is_free_and_none_beyond_the_volume() {
    let free = |disk: &Disk| {
        let mut free = Vec::new();
        let volume = Volume {
            partition: None,
            start: 0,
            len: 1 << 20,
        };
        let kind = free_space(disk, &volume, &mut |range| {
            free.push((range.start, range.end));
            Ok(())
        });
        kind.map(|found| (found.map(|found| found.kind), free))
    };
    assert_eq!(
        free(&swap(9, 1)).expect("sound"),
        (Some("swap"), vec![(4096, 40_960)])
    );
    assert_eq!(
        free(&swap(u32::MAX, 1)).expect("sound"),
        (Some("swap"), vec![(4096, 1 << 20)])
    );
    assert_eq!(
        free(&swap(0, 1)).expect("sound"),
        (Some("swap"), Vec::new())
    );
    assert!(free(&swap(9, 2)).is_err());
    assert_eq!(
        free(&Disk::new(1 << 20)).expect("nothing there"),
        (None, Vec::new())
    );
}
