//! Marks by which content is known, as blkid has them: what a volume claims to be, with every
//! doubt. Formatting anew often leaves the mark of what was there before.
//!
//! A volume with two marks is none that this module lets anybody read: bytes that one content calls
//! free may be the other's.

use std::io;

use super::Volume;
use super::bytes::ByteFields;
use crate::source::ReadAt;

/// The bytes from a volume's start that hold all marks but those at its end.
const HEAD_LEN: usize = 68 << 10;
/// Name, place and bytes of each mark near the start of a volume. Marks of two bytes that others
/// write by chance are left out: what is not known is kept anyway.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("ext4", 0x438, &[0x53, 0xef]),
    ("xfs", 0, b"XFSB"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("fat", 0x36, b"FAT12   "),
    ("fat", 0x36, b"FAT16   "),
    ("fat", 0x36, b"FAT     "),
    ("fat", 0x52, b"FAT32   "),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ("LVM2", 0, b"LABELONE"),
    ("LVM2", 512, b"LABELONE"),
    ("LVM2", 1024, b"LABELONE"),
    ("LVM2", 1536, b"LABELONE"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LUKS", 0x4000, b"SKUL\xba\xbe"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("ReFS", 3, b"ReFS\0"),
    ("RAID (md)", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("RAID (md)", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    (
        "bcache",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca],
    ),
    (
        "bcachefs",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9],
    ),
    ("ISO 9660", 32_769, b"CD001"),
    ("UDF", 32_769, b"BEA01"),
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("hfsplus", 1024, b"H+\0\x04"),
    ("hfsplus", 1024, b"HX\0\x05"),
    ("apfs", 32, b"NXSB"),
    ("jfs", 32_768, b"JFS1"),
    ("reiserfs", 65_536 + 52, b"ReIsEr"),
    ("dynamic disk", 0xc00, b"PRIVHEAD"),
    ("ufs", 8192 + 1372, &[0x54, 0x19, 0x01, 0x00]),
    ("ufs", 65_536 + 1372, &[0x19, 0x01, 0x54, 0x19]),
];
/// The lengths of pages, at whose end swap has its mark.
const PAGE_LENS: [usize; 4] = [4 << 10, 8 << 10, 16 << 10, 64 << 10];
/// Marks of swap space, and of a machine's memory that was put there for its sleep.
const PAGE_MARKS: &[(&str, &[u8])] = &[
    ("swap", b"SWAPSPACE2"),
    ("swap", b"SWAP-SPACE"),
    ("hibernation", b"S1SUSPEND"),
    ("hibernation", b"S2SUSPEND"),
    ("hibernation", b"ULSUSPEND"),
    ("hibernation", b"LINHIB0001"),
    (
        "hibernation",
        &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c],
    ),
];
/// The marks of an md RAID whose description is at the end: 0.90 and 1.0.
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
/// The pools of ZFS: a ring of uberblocks in each label.
const ZFS_MAGIC: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();
const ZFS_UBERBLOCKS_AT: u64 = 128 << 10;
const ZFS_UBERBLOCKS_LEN: usize = 128 << 10;
/// The shortest uberblocks.
const ZFS_UBERBLOCK_LEN: usize = 1024;

/// The names of all marks in `volume`, each once.
pub(super) fn find_marks(disk: &dyn ReadAt, volume: &Volume) -> io::Result<Vec<&'static str>> {
    let mut head = vec![0; HEAD_LEN.min(usize::try_from(volume.len).unwrap_or(HEAD_LEN))];
    volume.try_read_at(disk, 0, &mut head)?;
    let head = ByteFields(&head);
    let mut found: Vec<&'static str> = MARKS
        .iter()
        .filter(|(_, at, magic)| head.starts_with(*at, magic))
        .map(|(name, ..)| *name)
        .collect();
    for (page_len, (name, magic)) in PAGE_LENS
        .into_iter()
        .flat_map(|page_len| PAGE_MARKS.iter().map(move |mark| (page_len, *mark)))
    {
        if head.starts_with(page_len - 10, magic) {
            found.push(name);
        }
    }
    if has_md_at_end(disk, volume)? {
        found.push("RAID (md)");
    }
    if has_zfs(disk, volume)? {
        found.push("zfs");
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn has_md_at_end(disk: &dyn ReadAt, volume: &Volume) -> io::Result<bool> {
    let old = (volume.len & !0xffff).checked_sub(0x1_0000);
    let new = (volume.len / 512).checked_sub(16).map(|at| (at & !7) * 512);
    for at in [old, new].into_iter().flatten() {
        let mut magic = [0; 4];
        if volume.try_read_at(disk, at, &mut magic)?
            && (magic == MD_MAGIC || magic == u32::from_le_bytes(MD_MAGIC).to_be_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_zfs(disk: &dyn ReadAt, volume: &Volume) -> io::Result<bool> {
    let mut ring = vec![0; ZFS_UBERBLOCKS_LEN];
    if !volume.try_read_at(disk, ZFS_UBERBLOCKS_AT, &mut ring)? {
        return Ok(false);
    }
    let swapped = 0x00ba_b10c_u64.to_be_bytes();
    Ok(ring
        .chunks(ZFS_UBERBLOCK_LEN)
        .any(|block| block.starts_with(&ZFS_MAGIC) || block.starts_with(&swapped)))
}
