//! Fuzz bodies for what core reads of other people's files: image formats and change maps.
//! Each panics only when a promise of `vellum_core` is broken.

use std::sync::Arc;

use vellum_core::change_map::ChangeMap;
use vellum_core::source::{ClusterCodec, ClusterDecoder, ExtentKind, ImageSource};
use vellum_formats::machine::{MachineDescription, MachineLanguage};
use vellum_formats::{self as formats, Format, NoCompanions, probe as probing};

/// Enough to meet every kind of extent of a small file, few enough to keep a run below
/// milliseconds.
const EXTENT_COUNT_MAX: usize = 256;
const READ_LEN_MAX: usize = 8192;

/// A codec that any byte is valid for, except one that shows the way of an error.
struct RepeatFirst;

impl ClusterDecoder for RepeatFirst {
    fn decode_cluster(
        &self,
        _: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        let byte = input
            .first()
            .filter(|byte| **byte != 0xff)
            .ok_or("a bad stream")?;
        output.fill(*byte);
        Ok(())
    }
}

/// A qcow2 image: extents cover it without gap and make progress, what is not data reads as zeros,
/// and no read panics.
pub fn qcow2(data: &[u8]) {
    image(Format::Qcow2, data);
}

/// The same of a VDI.
pub fn vdi(data: &[u8]) {
    image(Format::Vdi, data);
}

/// The same of a VMDK in one file.
pub fn vmdk(data: &[u8]) {
    image(Format::Vmdk, data);
}

/// The same of a VHD.
pub fn vhd(data: &[u8]) {
    image(Format::Vhd, data);
}

/// The same of a VHDX. Its structures lie mebibytes apart, so the input says only what differs from
/// zeros: pieces of 4 KiB, each behind its number in two bytes.
pub fn vhdx(data: &[u8]) {
    let mut file = vec![0; 5 << 20];
    for piece in data.chunks(4098) {
        let Some((number, bytes)) = piece.split_first_chunk::<2>() else {
            continue;
        };
        let start = usize::from(u16::from_le_bytes(*number)) % 1280 * 4096;
        file[start..start + bytes.len()].copy_from_slice(bytes);
    }
    image(Format::Vhdx, &file);
}

/// What a qcow2 keeps beside its present state: each snapshot is an image, each bitmap a map of the
/// whole disk.
pub fn qcow2_states(data: &[u8]) {
    let file = Arc::new(data.to_vec());
    for snapshot in formats::internal_snapshots(&*file).unwrap_or_default() {
        let codecs = Arc::new(RepeatFirst);
        if let Ok(image) = formats::open_internal_snapshot(file.clone(), codecs, &snapshot) {
            explore(&*image);
        }
    }
    for bitmap in formats::dirty_bitmaps(&*file).unwrap_or_default() {
        if let Ok(map) = formats::bitmap_changes(&*file, &bitmap) {
            let mut end = 0;
            for range in map.ranges() {
                assert!(range.start == end && range.len > 0, "{range:?} after {end}");
                end = range.end_offset();
            }
        }
    }
}

/// A Parallels image, as the other images.
pub fn parallels(data: &[u8]) {
    let file = Arc::new(data.to_vec());
    let _ = formats::parallels::read_facts(&*file);
    if let Ok(source) = formats::parallels::open_image(file) {
        explore(&*source);
    }
}

/// A VMA archive: each disk that opens is there whole. Its header is long, so the input says only
/// what differs from zeros: pieces of 512 bytes, each behind its number in two bytes.
pub fn vma(data: &[u8]) {
    let mut file = vec![0; 64 << 10];
    for piece in data.chunks(514) {
        let Some((number, bytes)) = piece.split_first_chunk::<2>() else {
            continue;
        };
        let start = usize::from(u16::from_le_bytes(*number)) % 128 * 512;
        file[start..start + bytes.len()].copy_from_slice(bytes);
    }
    let used = file
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    file.truncate(used.next_multiple_of(512));
    let Ok(archive) = formats::vma::VmaArchive::open_archive(Arc::new(file)) else {
        return;
    };
    let _ = archive.configurations();
    for disk in archive.disks() {
        if let Ok(source) = archive.open_disk(disk.number) {
            assert_eq!(source.len(), disk.len);
            explore(&*source);
        }
    }
}

/// A tar archive: every member lies inside it.
pub fn ova(data: &[u8]) {
    let file = data.to_vec();
    for member in formats::ova::list_members(&file).unwrap_or_default() {
        assert!(
            member.offset + member.len <= data.len() as u64,
            "{member:?}"
        );
    }
}

/// A stream of virtnbdbackup, as the other images.
pub fn sparse_stream(data: &[u8]) {
    let file = Arc::new(data.to_vec());
    let _ = formats::sparse_stream::read_facts(&*file);
    if let Ok(source) = formats::sparse_stream::open_image(file) {
        explore(&*source);
    }
}

/// A description of a machine that is read is written and read again as the same disks.
pub fn machine(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(machine) = MachineDescription::parse(text) else {
        return;
    };
    for language in [
        MachineLanguage::Vbox,
        MachineLanguage::Libvirt,
        MachineLanguage::Ovf,
    ] {
        let Ok(describe_write) = machine.write_as(language) else {
            continue;
        };
        let read = MachineDescription::parse(&describe_write).expect("what was written is read");
        assert_eq!(
            read.attachments.len(),
            machine.attachments.len(),
            "{describe_write}"
        );
    }
}

fn image(format: Format, data: &[u8]) {
    let file = Arc::new(data.to_vec());
    let _ = formats::image_facts(format, file.clone());
    let opened = formats::open_over_parent(format, file, Arc::new(RepeatFirst), &NoCompanions);
    if let Ok(source) = opened {
        explore(&*source);
    }
}

fn explore(source: &dyn ImageSource) {
    let mut offset = 0;
    for _ in 0..EXTENT_COUNT_MAX {
        if offset >= source.len() {
            return;
        }
        let Ok(extent) = source.extent_at(offset) else {
            // Behind a damaged entry the next one may be whole; 512 bytes are the smallest unit of
            // any format.
            offset += 512;
            continue;
        };
        assert_eq!(
            extent.start, offset,
            "an extent starts where it was asked for"
        );
        assert!(
            extent.len > 0 && extent.end_offset() <= source.len(),
            "an extent makes progress inside the image: {extent:?}"
        );
        let middle = extent.start + extent.len / 2;
        for start in [
            extent.start,
            middle,
            extent
                .end_offset()
                .saturating_sub(READ_LEN_MAX as u64)
                .max(extent.start),
        ] {
            read_inside(source, start, extent.end_offset(), extent.kind);
        }
        let inner = source.extent_at(middle).map(|inner| inner.kind);
        assert_eq!(
            inner.ok(),
            Some(extent.kind),
            "the middle of an extent is of its kind"
        );
        offset = extent.end_offset();
    }
}

fn read_inside(source: &dyn ImageSource, start: u64, end: u64, kind: ExtentKind) {
    let len = usize::try_from(end - start).map_or(READ_LEN_MAX, |len| len.min(READ_LEN_MAX));
    let mut buffer = vec![0xaa; len];
    let done = source.read_at(&mut buffer, start);
    if kind != ExtentKind::Data {
        assert!(
            done.is_ok() && buffer.iter().all(|byte| *byte == 0),
            "{kind:?} at {start} reads as zeros"
        );
    }
}

/// Any file has a verdict, the same each time, and only a lone signature is one of a format.
pub fn probe(data: &[u8]) {
    let file = data.to_vec();
    let seen = probing::probe_file(&file).expect("a file in memory can be read");
    let _ = seen.to_string();
    match seen.verdict() {
        probing::FormatVerdict::Raw => assert!(seen.containers.is_empty()),
        probing::FormatVerdict::Known(_) | probing::FormatVerdict::NotYet(_) => {
            assert_eq!(seen.containers.len(), 1);
        }
        probing::FormatVerdict::Ambiguous => assert!(seen.containers.len() + seen.marks.len() > 1),
    }
    if !data.starts_with(b"QFI\xfb") {
        assert!(
            formats::open_image(
                Format::Qcow2,
                Arc::new(file),
                Arc::new(RepeatFirst),
                &NoCompanions
            )
            .is_err()
        );
    }
}

/// A change map is an error or sorted, gap-free, merged, no larger than its text, and found again
/// from its own text.
pub fn change_map(data: &[u8]) {
    let Ok(map) = ChangeMap::parse(data) else {
        return;
    };
    assert!(
        map.ranges().len() <= data.len() / 5,
        "a range takes at least five bytes"
    );
    let mut end = 0;
    for (range, next) in map
        .ranges()
        .iter()
        .zip(map.ranges().iter().skip(1).map(Some).chain([None]))
    {
        assert!(range.start == end && range.len > 0, "{range:?} after {end}");
        assert!(
            next.is_none_or(|next| next.kind != range.kind),
            "{range:?} could be one with the next"
        );
        assert_eq!(map.range_at(range.start), Some(*range));
        assert_eq!(map.range_at(range.end_offset() - 1), Some(*range));
        end = range.end_offset();
    }
    assert_eq!(map.range_at(end), None);
    assert_eq!(map.len(), end);
    let text: String = map
        .ranges()
        .iter()
        .map(|range| format!("{} {:#x} {:?}\n", range.start, range.len, range.kind).to_lowercase())
        .collect();
    assert_eq!(
        ChangeMap::parse(text.as_bytes()).ok(),
        Some(map.clone()),
        "{text}"
    );
    assert!(map.clone().for_image(end).is_ok_and(|whole| whole == map));
    assert!(
        map.for_image(end + 1).is_err(),
        "a map never covers more than its ranges"
    );
}
