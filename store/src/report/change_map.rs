//! Finds the places on its disk, and the states between which, an image changes: from maps alone,
//! no chunk is read.

use std::ops::Range;

use vellum_core::tree::NodeRef;
use vellum_core::units::{ChunkLen, ImageId};

use super::disks_point_in_time::DisksPointInTime;
use super::{ChangeStep, ChangeStrip};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Progress, Watch};

/// Rows of a strip: more than anybody can tell apart. Of a longer history as many states are
/// compared, evenly chosen.
const STEPS_MAX: usize = 256;

/// Computes the changes of `image` from each of its states to the next: its snapshots in the order
/// of taking, then itself. The disk is cut into at most `cells` parts. Cost: the pages of the
/// layers in between, once; memory for cells times steps, of which there are at most 256.
pub(super) fn compute_strip(
    store: &Store,
    still: &DisksPointInTime<'_>,
    image: ImageId,
    cells: usize,
    watch: &dyn Watch,
) -> Result<ChangeStrip, StoreError> {
    let states = image_states(still, image)?;
    let len = states.iter().map(Disk::len).max().unwrap_or(0);
    let cell_len = cell_len(len, cells, store.parameters().chunk_len);
    let empty = |pair: &[Disk]| ChangeStep {
        from: pair[0].name().to_owned(),
        to: pair[1].name().to_owned(),
        cells: vec![0; len.div_ceil(cell_len) as usize],
    };
    let mut steps: Vec<ChangeStep> = states.windows(2).map(empty).collect();
    store.diff_states(&states.iter().collect::<Vec<_>>(), &mut |nth, range, _| {
        watch.report_progress(Progress {
            done: range.start,
            total: Some(len),
        });
        spread_bytes(range, cell_len, &mut steps[nth].cells);
        if watch.is_cancelled() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    })?;
    let image = states
        .last()
        .map_or_else(String::new, |state| state.name().to_owned());
    Ok(ChangeStrip {
        image,
        cell_len,
        steps,
    })
}

/// The states of `image`, the oldest first, itself last.
fn image_states(still: &DisksPointInTime<'_>, image: ImageId) -> Result<Vec<Disk>, StoreError> {
    let snapshots = still.image_snapshots(image);
    pick_evenly(&snapshots)
        .into_iter()
        .copied()
        .chain([NodeRef::Image(image)])
        .map(|node| still.disk_of(node))
        .collect()
}

/// Picks as many of `snapshots` as make the steps that a strip may have: the first and the last
/// among them.
fn pick_evenly(snapshots: &[NodeRef]) -> Vec<&NodeRef> {
    let last = snapshots.len().saturating_sub(1);
    if snapshots.len() <= STEPS_MAX {
        return snapshots.iter().collect();
    }
    (0..STEPS_MAX)
        .map(|nth| &snapshots[nth * last / (STEPS_MAX - 1)])
        .collect()
}

/// Length of a cell, in bytes, if there are to be at most `cells` on a disk of `len` bytes: whole
/// chunks.
fn cell_len(len: u64, cells: usize, chunk_len: ChunkLen) -> u64 {
    len.div_ceil(cells.max(1) as u64)
        .next_multiple_of(chunk_len.byte_len())
        .max(chunk_len.byte_len())
}

/// Adds the bytes of a difference to the cells that it lies in.
fn spread_bytes(range: Range<u64>, cell_len: u64, cells: &mut [u64]) {
    let mut at = range.start;
    while at < range.end {
        let next = range.end.min((at / cell_len + 1) * cell_len);
        cells[(at / cell_len) as usize] += next - at;
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;
    use crate::model::{name, new_store, read_all, seed};
    use crate::watch::Unwatched;

    const CHUNK: u64 = 4096;

    fn strip_now(store: &Store, image: ImageId, cells: usize) -> ChangeStrip {
        let still =
            DisksPointInTime::take_all(store, &mut store.tree_mut()).expect("there is room");
        compute_strip(store, &still, image, cells, &Unwatched).expect("sound maps")
    }

    fn noise(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        bytes
    }

    /// Bytes of the chunks of each cell in which two contents differ; what only one has differs.
    /// Where one of them ends inside a chunk, maps say nothing: behind the end, where it is not
    /// visible, the chunk may hold something else. So that counts for the most, not for the least.
    fn expected(
        before: &[u8],
        after: &[u8],
        cell_len: u64,
        count: usize,
    ) -> Vec<RangeInclusive<u64>> {
        let mut cells = vec![(0, 0); count];
        let len = before.len().max(after.len());
        for start in (0..len).step_by(CHUNK as usize) {
            let common_end = (start + CHUNK as usize)
                .min(before.len())
                .min(after.len())
                .max(start);
            let end = (start + CHUNK as usize).min(len);
            let differs = before.get(start..common_end) != after.get(start..common_end);
            let (common, rest) = ((common_end - start) as u64, (end - common_end) as u64);
            let (least, most) = &mut cells[start / cell_len as usize];
            *least += rest + if differs { common } else { 0 };
            *most += rest + if differs || common < CHUNK { common } else { 0 };
        }
        cells
            .into_iter()
            .map(|(least, most)| least..=most)
            .collect()
    }

    #[test]
    fn a_strip_says_what_comparing_all_bytes_says_also_where_disks_grow_and_shrink_and_go_back() {
        let mut random = fastrand::Rng::with_seed(seed());
        let (_dir, store) = new_store(CHUNK);
        let image = store
            .create_image(&name("a"), 3 << 20)
            .expect("create")
            .image_id();
        let mut states = Vec::new();
        for nth in 0..12 {
            let serials: Vec<u64> = store
                .tree()
                .snapshots_of(image)
                .map(|snapshot| snapshot.serial)
                .collect();
            let goes_back = random.u8(..4) == 0;
            if let Some(serial) = random.choice(&serials).filter(|_| goes_back) {
                store
                    .restore_snapshot(image, *serial, None)
                    .expect("its own snapshot");
            }
            if random.u8(..4) == 0 {
                store
                    .resize_image(image, random.u64(1 << 20..6 << 20), true)
                    .expect("resize");
            }
            let live = store.open_live(image).expect("live");
            for _ in 0..random.usize(..5) {
                let at = random.u64(..live.len() - 20_000);
                let len = random.usize(1..20_000);
                let bytes = noise(&mut random, len);
                if random.bool() {
                    live.write_at(&bytes, at)
                } else {
                    live.write_zeroes(at, 15_000)
                }
                .expect("write");
            }
            live.flush().expect("flush");
            drop(live);
            states.push((format!("a@s{nth}"), read_all(&store, NodeRef::Image(image))));
            store
                .take_snapshot(image, &name(&format!("s{nth}")))
                .expect("snapshot");
        }
        let mut now = read_all(&store, NodeRef::Image(image));
        store
            .open_live(image)
            .and_then(|live| live.write_at(&[1; 5000], 9).and_then(|()| live.flush()))
            .expect("write");
        now[9..5009].fill(1);
        states.push(("a".to_owned(), now));
        let strip = strip_now(&store, image, 37);
        assert!(strip.cell_len.is_multiple_of(CHUNK) && strip.steps.len() == 12);
        for (step, pair) in strip.steps.iter().zip(states.windows(2)) {
            assert_eq!((&step.from, &step.to), (&pair[0].0, &pair[1].0));
            assert!(step.cells.len() <= 37);
            let expected = expected(&pair[0].1, &pair[1].1, strip.cell_len, step.cells.len());
            let is_so = step
                .cells
                .iter()
                .zip(&expected)
                .all(|(cell, expected)| expected.contains(cell));
            assert!(is_so, "{}: {:?}, not {expected:?}", step.to, step.cells);
        }
    }

    #[test]
    fn a_long_history_is_folded_and_still_tells_of_every_change() {
        let (_dir, store) = new_store(CHUNK);
        let image = store
            .create_image(&name("a"), 1 << 20)
            .expect("create")
            .image_id();
        store.open_live(image).map(drop).expect("live");
        for nth in 0..STEPS_MAX + 50 {
            store
                .take_snapshot(image, &name(&format!("s{nth}")))
                .expect("snapshot");
        }
        store
            .open_live(image)
            .and_then(|live| live.write_at(&[7; 4096], 8192).and_then(|()| live.flush()))
            .expect("write");
        let strip = strip_now(&store, image, 16);
        assert_eq!(strip.steps.len(), STEPS_MAX);
        assert_eq!(
            (
                strip.steps[0].from.as_str(),
                strip.steps.last().map(|step| step.to.as_str())
            ),
            ("a@s0", Some("a"))
        );
        assert!(
            strip
                .steps
                .windows(2)
                .all(|pair| pair[0].to == pair[1].from)
        );
        assert_eq!(
            strip
                .steps
                .iter()
                .map(|step| step.cells.iter().sum::<u64>())
                .sum::<u64>(),
            4096
        );
    }

    #[test]
    fn an_image_without_snapshots_or_bytes_has_a_strip_without_steps() {
        let (_dir, store) = new_store(CHUNK);
        let image = store
            .create_image(&name("empty"), 0)
            .expect("create")
            .image_id();
        let strip = strip_now(&store, image, 0);
        assert!(strip.steps.is_empty());
        store.take_snapshot(image, &name("s")).expect("snapshot");
        assert_eq!(strip_now(&store, image, 10).steps[0].cells, [0; 0]);
    }
}
