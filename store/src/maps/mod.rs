//! Reads, compares and stacks the maps of disks: all by ids, no chunk is read.

mod diff;
mod map;
mod rebase;

use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::units::ChunkId;

pub use map::MapEntry;
pub use rebase::RebaseMode;

use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// The names of `count` chunks from `first` on. Takes memory for all of them: ask for long runs
    /// in parts.
    pub fn chunk_hashes(&self, first: ChunkId, count: u64) -> Result<Vec<ChunkHash>, StoreError> {
        let end = first.advance_by(count);
        let mut hashes = Vec::new();
        if count == 0 {
            return Ok(hashes);
        }
        let header = self
            .inner
            .chunks
            .frame_header(first)?
            .ok_or_else(|| missing_chunk_error(first))?;
        let mut next = take_hashes(&header, first, end, &mut hashes);
        // Ids that follow each other mostly lie in frames that do.
        let mut scan = (next < end).then(|| {
            self.inner
                .database
                .scan_from(Family::Headers, &frame_key(next))
        });
        while next < end {
            let scanned = scan.as_mut().map_or(Ok(None), super::database::Scan::next);
            let header = match scanned {
                Ok(record) => {
                    let (key, value) = record.ok_or_else(|| missing_chunk_error(next))?;
                    let first = parse_frame_key(key).map_err(|error| {
                        StoreError::damaged_record("a frame header's key", error)
                    })?;
                    FrameHeader::decode(first, value).map_err(|error| {
                        StoreError::damaged_record(format!("header of frame {first}"), error)
                    })?
                }
                // Of a table with others, perhaps.
                Err(StoreError::Damaged(_)) => {
                    let header = self.inner.chunks.frame_header(next)?;
                    header.ok_or_else(|| missing_chunk_error(next))?
                }
                Err(error) => return Err(error),
            };
            let after = take_hashes(&header, next, end, &mut hashes);
            if after == next {
                return Err(missing_chunk_error(next));
            }
            next = after;
        }
        Ok(hashes)
    }
}

/// Appends the names of the chunks from `next` on that `header` holds without a gap; the first id
/// that it does not.
fn take_hashes(
    header: &FrameHeader,
    mut next: ChunkId,
    end: ChunkId,
    hashes: &mut Vec<ChunkHash>,
) -> ChunkId {
    while next < end
        && let Some(hash) = header.chunk_hash(next)
    {
        hashes.push(*hash);
        next = next.advance_by(1);
    }
    next
}

fn missing_chunk_error(id: ChunkId) -> StoreError {
    StoreError::damaged_record(format!("chunk number {id}"), "no frame holds it")
}

#[cfg(test)]
mod tests {
    use vellum_core::tree::NodeRef;

    use super::*;
    use crate::model::{name, new_store};
    use crate::watch::Unwatched;

    #[test]
    fn a_sparse_disk_and_near_relatives_of_a_large_parent_take_as_long_as_what_they_hold() {
        let (_dir, store) = new_store(4096);
        let len = 1 << 40;
        let parent = store
            .create_image(&name("parent"), len)
            .expect("create")
            .image_id();
        let write = |image, offset: u64| {
            store
                .open_live(image)
                .and_then(|live| live.write_at(b"x", offset).and_then(|()| live.flush()))
                .expect("write");
        };
        (0..200).for_each(|nth| write(parent, nth << 32));
        let children = [0, 1].map(|nth| {
            store
                .create_child(&name(&format!("c{nth}")), NodeRef::Image(parent), None)
                .expect("child")
        });
        write(children[0].image_id(), 77 << 32);
        write(children[1].image_id(), (len / 2) + 4096);
        let (mut entries, mut differences, mut end) = (0, Vec::new(), 0);
        let visit = &mut |entry: MapEntry| {
            assert_eq!(entry.start, end);
            (entries, end) = (entries + 1, entry.start + entry.len);
            Ok(())
        };
        store.map(children[0], visit).expect("map");
        let visit = &mut |difference| {
            differences.push(difference);
            Ok(())
        };
        store.diff(children[0], children[1], visit).expect("diff");
        store
            .rebase(
                children[0].image_id(),
                children[1],
                RebaseMode::KeepContent,
                &Unwatched,
            )
            .expect("rebase");
        // The same byte in the child is the same chunk: only its sibling's write differs.
        assert_eq!(
            differences,
            [vellum_core::difference::Difference {
                start: (len / 2) + 4096,
                len: 4096,
                becomes_zero: false
            }]
        );
        assert_eq!((entries, end), (400, len));
    }

    #[test]
    fn one_chunk_again_and_again_is_one_range() {
        let (_dir, store) = new_store(4096);
        let image = store.create_image(&name("a"), 4000 * 4096).expect("create");
        let mut noise = vec![0; 3 * 4096];
        fastrand::Rng::with_seed(5).fill(&mut noise);
        let live = store.open_live(image.image_id()).expect("nobody writes");
        // Past the end of the first page.
        for (bytes, chunk) in [
            (&vec![7; 2000 * 4096], 0),
            (&noise, 2000),
            (&vec![7; 4096], 2003),
            (&vec![7; 4096], 3000),
            (&noise, 3001),
        ] {
            live.write_at(bytes, chunk * 4096).expect("there is room");
            live.flush().expect("there is room");
        }
        drop(live);
        let mut found = Vec::new();
        let visit = &mut |entry: MapEntry| {
            found.push((
                entry.start / 4096,
                entry.len / 4096,
                entry.first.map(|chunk| chunk.0),
                entry.is_repeat,
            ));
            Ok(())
        };
        store.map(image, visit).expect("map");
        assert_eq!(
            found,
            [
                // The last of them begins a run of ids that follow each other.
                (0, 1999, Some(0), true),
                (1999, 4, Some(0), false),
                (2003, 1, Some(0), false),
                (2004, 996, None, false),
                (3000, 4, Some(0), false),
                (3004, 996, None, false),
            ]
        );
    }

    #[test]
    fn two_ids_for_one_name_are_no_difference_and_names_are_found_in_runs() {
        let (_dir, store) = new_store(4096);
        let [a, b] = ["a", "b"].map(|text| {
            store
                .create_image(&name(text), 200 * 4096)
                .expect("create")
                .image_id()
        });
        for image in [a, b] {
            // Without its index the store does not know that it has the chunks already.
            let mut bytes = vec![0; 200 * 4096];
            fastrand::Rng::with_seed(5).fill(&mut bytes);
            store
                .open_live(image)
                .and_then(|live| live.write_at(&bytes, 0).and_then(|()| live.flush()))
                .expect("write");
            let mut batch = crate::database::Batch::default();
            batch.delete_range(Family::Index, [0; 8], [0xff; 9]);
            store
                .inner
                .database
                .write_batch(batch, crate::database::Durability::Logged)
                .expect("write");
        }
        assert_eq!(store.inner.chunks.next_chunk(), ChunkId(400));
        let names = store.chunk_hashes(ChunkId(0), 400).expect("names");
        assert_eq!((names.len(), &names[..200]), (400, &names[200..]));
        assert_eq!(
            store.chunk_hashes(ChunkId(31), 3).expect("names"),
            names[31..34]
        );
        assert!(
            store.chunk_hashes(ChunkId(399), 2).is_err()
                && store.chunk_hashes(ChunkId(400), 1).is_err()
        );
        let none = &mut |difference| panic!("{difference:?}");
        store
            .diff(NodeRef::Image(a), NodeRef::Image(b), none)
            .expect("diff");
    }
}
