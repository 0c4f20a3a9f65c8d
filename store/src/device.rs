//! Disks as servers see them: an image that is being written, or anything that is only read.

use std::ops::Range;

use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};
use vellum_core::page::{PageEntry, bytes_of};
use vellum_core::stretches::RangeCollector;
use vellum_core::tree::{NodeRef, page_of, page_start};
use vellum_core::units::{ImageId, PageIndex};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::live::LiveDisk;
use crate::sequence_detector::SequenceDetector;
use crate::store::Store;

/// Bytes that one call of [`Device::prefetch`] makes ready at most.
const PREFETCH_LEN_MAX: u64 = 4 << 20;

/// An image or snapshot that is only read, as it was when this was opened.
pub struct DiskDevice {
    store: Store,
    /// The image whose snapshots it is compared with.
    image: Option<ImageId>,
    disk: Disk,
    reading: SequenceDetector,
}

impl From<StoreError> for DeviceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } | StoreError::TooLong { .. } => {
                Self::NoSpace(error.to_string())
            }
            StoreError::ReadOnly => Self::ReadOnly,
            other => Self::Io(other.to_string()),
        }
    }
}

impl DiskDevice {
    /// Opens `node`.
    pub fn open_node(store: &Store, node: NodeRef) -> Result<Self, StoreError> {
        Ok(Self::of_disk(
            store,
            node.image_id(),
            store.open_disk(node)?,
        ))
    }

    /// Opens `node` as the content of a child that is not made yet: it has no snapshots.
    pub(crate) fn open_base(store: &Store, node: NodeRef) -> Result<Self, StoreError> {
        Ok(Self::without_snapshots(store, store.open_disk(node)?))
    }

    /// `disk`, for what is not made yet, and so has no snapshots.
    pub(crate) fn without_snapshots(store: &Store, disk: Disk) -> Self {
        Self {
            store: store.clone(),
            image: None,
            disk,
            reading: SequenceDetector::default(),
        }
    }

    /// `disk`, which holds what `image` or a snapshot of it shows.
    pub(crate) fn of_disk(store: &Store, image: ImageId, disk: Disk) -> Self {
        Self {
            store: store.clone(),
            image: Some(image),
            disk,
            reading: SequenceDetector::default(),
        }
    }
}

impl Disk {
    /// The allocation of the bytes of `range`, which lies inside the disk, until `out` is full.
    /// Cost: what is mapped there; no data is read.
    pub(crate) fn allocation_of(
        &self,
        range: Range<u64>,
        out: &mut RangeCollector<AllocationStatus>,
    ) -> Result<(), StoreError> {
        let (chunk_len, mapped) = (self.chunk_len(), self.mapped_pages());
        let mut at = range.start;
        while at < range.end && !out.is_full() {
            let index = page_of(chunk_len.index_at(at)).0;
            let start_of = |index: PageIndex| chunk_len.offset_of(page_start(index)).min(range.end);
            let next = mapped.next_from(index);
            if next != Some(index) {
                let end = next.map_or(range.end, start_of);
                out.push_range(at..end, AllocationStatus::Hole);
                at = end;
                continue;
            }
            let end = start_of(PageIndex(index.0 + 1));
            let last = page_of(chunk_len.index_at(end - 1)).1;
            for run in self
                .seen_page(index)?
                .runs_in(page_of(chunk_len.index_at(at)).1, last + 1)
            {
                let kind = match run.slot {
                    PageEntry::Absent => AllocationStatus::Hole,
                    PageEntry::Zero => AllocationStatus::Zero,
                    PageEntry::Chunk(_) => AllocationStatus::Data,
                };
                out.push_range(
                    bytes_of(chunk_len, index, run.start..run.end_position(), &(at..end)),
                    kind,
                );
            }
            at = end;
        }
        Ok(())
    }
}

impl Device for DiskDevice {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn preferred_len(&self) -> u32 {
        preferred_len(&self.store)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let range = self.checked_range(offset, buffer.len() as u64)?;
        self.store.note_guest();
        if let Some(ahead) = self.reading.note_read(range, self.len()) {
            self.prefetch(ahead.start, ahead.end - ahead.start);
        }
        Ok(self.disk.read_at(buffer, offset)?)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        let mut out = RangeCollector::new(count_max);
        self.disk
            .allocation_of(self.checked_range(offset, len)?, &mut out)?;
        Ok(out.into_ranges())
    }

    fn comparable(&self) -> Vec<String> {
        self.image
            .map(|image| snapshot_names(&self.store, image))
            .unwrap_or_default()
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        let range = self.checked_range(offset, len)?;
        let mut out = RangeCollector::new(count_max);
        let snapshot = match self.image {
            Some(image) => open_snapshot(&self.store, image, since)?,
            None => return Err(no_snapshot(since)),
        };
        self.store
            .find_changes(&snapshot, &self.disk, range, &mut out)?;
        Ok(out.into_ranges())
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if let Some(range) = clip_prefetch(offset, len, self.len()) {
            // An error is reported to the caller that reads the bytes.
            let _ = self
                .disk
                .prefetch_range(&|index| self.disk.resolve_page(index), range);
        }
    }
}

impl Device for LiveDisk {
    fn len(&self) -> u64 {
        LiveDisk::len(self)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn preferred_len(&self) -> u32 {
        preferred_len(self.store())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, buffer.len() as u64)?;
        self.store().note_guest();
        Ok(LiveDisk::read_at(self, buffer, offset)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, bytes.len() as u64)?;
        self.store().note_guest();
        Ok(LiveDisk::write_at(self, bytes, offset)?)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, len)?;
        Ok(LiveDisk::write_zeroes(self, offset, len)?)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(LiveDisk::flush(self)?)
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        Ok(LiveDisk::allocation(self, self.checked_range(offset, len)?, count_max)?.into_ranges())
    }

    fn comparable(&self) -> Vec<String> {
        snapshot_names(self.store(), self.image())
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        let range = self.checked_range(offset, len)?;
        Ok(LiveDisk::changes(
            self,
            &open_snapshot(self.store(), self.image(), since)?,
            range,
            count_max,
        )?
        .into_ranges())
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if let Some(range) = clip_prefetch(offset, len, LiveDisk::len(self)) {
            LiveDisk::prefetch(self, range);
        }
    }
}

fn preferred_len(store: &Store) -> u32 {
    u32::try_from(store.parameters().chunk_len.byte_len()).expect("a chunk is at most 1 MiB")
}

/// Limits a wish to have bytes ready: nothing past the end, and not so much that it evicts what is
/// being read.
fn clip_prefetch(offset: u64, len: u64, device_len: u64) -> Option<Range<u64>> {
    let end = offset
        .saturating_add(len.min(PREFETCH_LEN_MAX))
        .min(device_len);
    (offset < end).then_some(offset..end)
}

/// The names of the snapshots of `image`, oldest first.
fn snapshot_names(store: &Store, image: ImageId) -> Vec<String> {
    store
        .tree()
        .snapshots_of(image)
        .map(|snapshot| snapshot.name.to_string())
        .collect()
}

/// The snapshot of `image` that is called `name`: its whole name, not the beginning of one.
fn open_snapshot(store: &Store, image: ImageId, name: &str) -> Result<Disk, DeviceError> {
    let serial = store
        .tree()
        .snapshots_of(image)
        .find(|snapshot| snapshot.name.as_str() == name)
        .map(|snapshot| snapshot.serial);
    let serial = serial.ok_or_else(|| no_snapshot(name))?;
    Ok(store.open_disk(NodeRef::Snapshot(image, serial))?)
}

fn no_snapshot(name: &str) -> DeviceError {
    DeviceError::Io(format!("there is no snapshot {name:?}"))
}

#[cfg(test)]
mod tests {
    use AllocationStatus::{Data, Hole, Zero};

    use super::*;
    use crate::model::{name, new_store};

    /// Three pages and a part of a chunk.
    const LEN: u64 = (12 << 20) + 70_000;
    const CHUNK_LEN: u64 = 4096;

    /// All stretches of a range, asked for in steps of a few.
    fn ask<K: PartialEq + Copy>(
        range: Range<u64>,
        count_max: usize,
        ask: &dyn Fn(u64, u64) -> Vec<TypedRange<K>>,
    ) -> Vec<(Range<u64>, K)> {
        let mut all: Vec<(Range<u64>, K)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let found = ask(at, range.end - at);
            assert!(
                (1..=count_max).contains(&found.len()),
                "{} stretches",
                found.len()
            );
            for part in found {
                assert_eq!(part.offset, at, "gap-free");
                at += part.len;
                match all.last_mut() {
                    Some((last, kind)) if *kind == part.kind => last.end = at,
                    _ => all.push((part.offset..at, part.kind)),
                }
            }
        }
        assert_eq!(at, range.end, "no further than asked");
        all
    }

    /// The kind of every byte, in an array: slower than any map, and surely right.
    fn spread<K: Copy>(parts: &[(Range<u64>, K)]) -> Vec<K> {
        parts
            .iter()
            .flat_map(|(range, kind)| {
                std::iter::repeat_n(*kind, (range.end - range.start) as usize)
            })
            .collect()
    }

    fn content(device: &dyn Device) -> Vec<u8> {
        let mut bytes = vec![0xaa; device.len() as usize];
        device.read_at(&mut bytes, 0).expect("reads");
        bytes
    }

    /// Holds what the maps say against content that was read.
    fn check(random: &mut fastrand::Rng, device: &dyn Device, since: &[(String, Vec<u8>)]) {
        let now = content(device);
        let (start, count_max) = (random.u64(..LEN), random.usize(1..6));
        let range = start..random.u64(start + 1..=LEN);
        let kinds = ask(range.clone(), count_max, &|at, len| {
            device.allocation(at, len, count_max).expect("allocation")
        });
        let zero = |part: &Range<u64>| {
            now[part.start as usize..part.end as usize]
                .iter()
                .all(|byte| *byte == 0)
        };
        assert!(
            kinds
                .iter()
                .all(|(part, kind)| *kind == AllocationStatus::Data || zero(part)),
            "what is no data reads as zeros"
        );
        assert!(
            device
                .comparable()
                .iter()
                .eq(since.iter().map(|(name, _)| name)),
            "oldest first"
        );
        for (name, before) in since {
            let differs = ask(range.clone(), count_max, &|at, len| {
                device.changes(name, at, len, count_max).expect("changes")
            });
            let (bytes, flags) = (range.start as usize..range.end as usize, spread(&differs));
            let missed = bytes
                .clone()
                .zip(&flags)
                .find(|(at, differs)| !**differs && now[*at] != before[*at]);
            assert_eq!(missed, None, "a difference from {name} that is not told");
        }
    }

    #[test]
    fn maps_tell_what_reading_finds_whatever_was_written_flushed_and_kept() {
        for seed in 1..4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (_dir, store) = new_store(CHUNK_LEN);
            let root = store
                .create_image(&name("root"), LEN)
                .expect("create")
                .image_id();
            let below = store.open_live(root).expect("live");
            below
                .write_at(&vec![5; 3 << 20], 3 << 20)
                .and_then(|()| below.flush())
                .expect("write");
            let image = store
                .create_child(&name("a"), NodeRef::Image(root), None)
                .expect("child")
                .image_id();
            let live = store.open_live(image).expect("live");
            let mut since: Vec<(String, Vec<u8>)> = Vec::new();
            for round in 0..40 {
                let offset = random.u64(..LEN);
                let bits = random.u32(1..22);
                let len = random.u64(..1 << bits).min(LEN - offset);
                match random.u8(..8) {
                    0..4 => LiveDisk::write_at(&live, &vec![random.u8(..3); len as usize], offset)
                        .expect("write"),
                    4..6 => LiveDisk::write_zeroes(&live, offset, len).expect("zero"),
                    6 => LiveDisk::flush(&live).expect("flush"),
                    _ => {
                        live.take_snapshot(&name(&format!("s{round}")))
                            .expect("snapshot");
                        since.push((format!("s{round}"), content(&live)));
                    }
                }
                check(&mut random, &live, &since);
            }
            live.flush().expect("flush");
            check(
                &mut random,
                &DiskDevice::open_node(&store, NodeRef::Image(image)).expect("opens"),
                &since,
            );
        }
    }

    #[test]
    fn a_zero_is_told_from_a_hole_and_nothing_changed_since_a_moment_ago() {
        let (_dir, store) = new_store(CHUNK_LEN);
        let root = store
            .create_image(&name("root"), LEN)
            .expect("create")
            .image_id();
        let below = store.open_live(root).expect("live");
        below
            .write_at(&vec![5; 5 * 4096], 4096)
            .and_then(|()| below.flush())
            .expect("write");
        let image = store
            .create_child(&name("a"), NodeRef::Image(root), None)
            .expect("child")
            .image_id();
        let live = store.open_live(image).expect("live");
        live.write_zeroes(2 * 4096, 2 * 4096)
            .and_then(|()| live.flush())
            .expect("zero");
        let found = Device::allocation(&live, 1, LEN - 1, 10).expect("allocation");
        let found: Vec<_> = found
            .into_iter()
            .map(|part| (part.offset, part.len, part.kind))
            .collect();
        let end = 6 * 4096;
        assert_eq!(
            found,
            [
                (1, 4095, Hole),
                (4096, 4096, Data),
                (8192, 8192, Zero),
                (16384, 8192, Data),
                (end, LEN - end, Hole)
            ]
        );
        live.take_snapshot(&name("s")).expect("snapshot");
        let same = Device::changes(&live, "s", 0, LEN, 10).expect("changes");
        assert_eq!(
            same,
            [TypedRange {
                offset: 0,
                len: LEN,
                kind: false
            }]
        );
        live.write_at(b"x", 4096 * 1500).expect("write");
        let waiting = Device::changes(&live, "s", 0, LEN, 10).expect("changes");
        live.flush().expect("flush");
        let flushed = Device::changes(&live, "s", 0, LEN, 10).expect("changes");
        assert_eq!(waiting, flushed, "also before the flush");
        assert_eq!(
            flushed[1],
            TypedRange {
                offset: 4096 * 1500,
                len: 4096,
                kind: true
            }
        );
        store.delete_snapshot(image, 1).expect_err("no such serial");
        assert!(matches!(
            Device::changes(&live, "gone", 0, LEN, 1),
            Err(DeviceError::Io(_))
        ));
    }

    #[test]
    fn what_lies_outside_is_refused_and_never_panics() {
        let (_dir, store) = new_store(CHUNK_LEN);
        let image = store
            .create_image(&name("a"), 10_000)
            .expect("create")
            .image_id();
        let live = store.open_live(image).expect("live");
        let read_only = DiskDevice::open_node(&store, NodeRef::Image(image)).expect("opens");
        for (offset, len) in [
            (10_000, 1),
            (9_999, 2),
            (u64::MAX, 1),
            (u64::MAX - 4, 100),
            (0, 10_001),
        ] {
            let mut buffer = vec![0; len as usize];
            for device in [&live as &dyn Device, &read_only] {
                assert_eq!(
                    device.read_at(&mut buffer, offset),
                    Err(DeviceError::OutOfRange)
                );
                assert_eq!(
                    device.allocation(offset, len, 1),
                    Err(DeviceError::OutOfRange)
                );
            }
            assert_eq!(
                Device::write_at(&live, &buffer, offset),
                Err(DeviceError::OutOfRange)
            );
            assert_eq!(
                Device::write_zeroes(&live, offset, len),
                Err(DeviceError::OutOfRange)
            );
        }
        assert_eq!(read_only.write_at(b"x", 0), Err(DeviceError::ReadOnly));
        assert_eq!(
            Device::write_zeroes(&live, 0, u64::MAX),
            Err(DeviceError::OutOfRange)
        );
    }
}
