//! The growth journal: records for each operation how much it added to the store, and when.
//!
//! An entry is written in the batch that makes the addition durable: there is never the one without
//! the other. Entries are numbered without a gap, so that the first and the last number give their
//! count. A guest's writes make one entry for each layer and attachment, once a day: every flush
//! writes it again, with the sums so far. The newest [`appender::ENTRIES_MAX`] are kept; older
//! ones are added up in one entry.
//!
//! Compressed bytes are exact: a session fills frames of its own, and their length is known before
//! anything refers to them.
//!
//! In the family `meta`:
//!
//! ```text
//! key                  value
//! "journal"            the sum of all entries that are no longer kept
//! "journal", number 8  an entry
//! ```

pub(crate) mod appender;
pub(crate) mod entry;

use std::collections::HashMap;

use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::LayerId;

use crate::database::{Batch, Family, Scan, key_of_copy};
use crate::error::StoreError;
use crate::report::Growth;
use crate::store::Store;
use appender::{SUM_KEY, decode_entry};
use entry::{Added, UsageEntry};

/// The journal as it is at one moment, to be read later.
pub(crate) struct UsageHistoryView<'s> {
    records: Scan<'s>,
    copies: Scan<'s>,
}

/// All entries, each with whether it is the sum of old ones.
#[derive(Default)]
pub(crate) struct UsageEntries(Vec<(bool, UsageEntry)>);

impl Store {
    /// The additions to the store, with time and operation: the oldest first. Entries that are too
    /// old to be kept one by one are summed in the first, called `earlier`. Changes that wait on
    /// attached disks are not in it yet. Cost: reads the journal, at most some 100,000 entries.
    pub fn usage_growth(&self) -> Result<Vec<Growth>, StoreError> {
        Ok(self.journal_now().read_entries()?.list_growth())
    }

    /// The moment is now, if the tree is locked: then no commit falls between this and what else is
    /// looked at.
    pub(crate) fn journal_now(&self) -> UsageHistoryView<'_> {
        let database = &self.inner.database;
        let (records, copies) = (
            database.scan_from(Family::Meta, SUM_KEY),
            database.scan_from(Family::Copies, &key_of_copy(Family::Meta, SUM_KEY)),
        );
        UsageHistoryView { records, copies }
    }

    /// Notes in `batch` what `operation` on `node` of `tree` added to `layer`.
    pub(crate) fn note_growth(
        &self,
        tree: &Tree,
        batch: &mut Batch,
        operation: &'static str,
        node: NodeRef,
        layer: Option<LayerId>,
        added: Added,
    ) {
        let entry = UsageEntry::new(
            operation,
            node.image_id(),
            tree.display_name(node),
            layer,
            added,
        );
        self.inner
            .journal
            .note_entry(&self.inner.database, batch, &entry);
    }
}

impl Store {
    /// Compressed bytes of the chunks that were new when each layer was written, as far as that was
    /// noted. Cost: reads the usage history, which is bounded.
    pub fn added_bytes(&self) -> Result<HashMap<LayerId, u64>, StoreError> {
        Ok(self.journal_now().read_entries()?.added_by_layer())
    }
}

impl UsageHistoryView<'_> {
    /// Every entry; from the copies if the records cannot be read.
    pub(crate) fn read_entries(self) -> Result<UsageEntries, StoreError> {
        let entries = match read_all(self.records, &[]) {
            Err(StoreError::Damaged(damage)) => {
                let key = key_of_copy(Family::Meta, SUM_KEY);
                let tag = &key[..key.len() - SUM_KEY.len()];
                read_all(self.copies, tag).map_err(|_| StoreError::Damaged(damage))
            }
            read => read,
        };
        entries.map(UsageEntries)
    }
}

impl UsageEntries {
    /// The additions with their times: the sum of those that are too old first, then the oldest.
    pub(crate) fn list_growth(&self) -> Vec<Growth> {
        let growth = |wanted: bool| {
            self.0
                .iter()
                .filter(move |(is_sum, _)| *is_sum == wanted)
                .map(|(_, entry)| entry.to_growth())
        };
        let mut entries: Vec<Growth> = growth(false).collect();
        entries.sort_by_key(|growth| growth.at_ms);
        growth(true).chain(entries).collect()
    }

    /// Compressed bytes of the chunks that were new when each layer was written, as far as the
    /// journal tells. A layer that became part of another keeps its own.
    pub(crate) fn added_by_layer(&self) -> HashMap<LayerId, u64> {
        let mut added: HashMap<LayerId, u64> = HashMap::new();
        let of_layers = self
            .0
            .iter()
            .filter_map(|(_, entry)| Some((entry.layer?, entry.added.compressed)));
        of_layers.for_each(|(layer, compressed)| *added.entry(layer).or_default() += compressed);
        added
    }
}

/// All entries of a scan that begins with the first, where `prefix` stands before every key.
fn read_all(mut scan: Scan<'_>, prefix: &[u8]) -> Result<Vec<(bool, UsageEntry)>, StoreError> {
    let mut entries = Vec::new();
    while let Some((key, value)) = scan.next()? {
        let Some(key) = key
            .strip_prefix(prefix)
            .filter(|key| key.starts_with(SUM_KEY))
        else {
            break;
        };
        entries.push((key == SUM_KEY, decode_entry(key, value)?));
    }
    Ok(entries)
}

impl UsageEntry {
    fn to_growth(&self) -> Growth {
        let Added {
            chunks,
            plain,
            compressed,
        } = self.added;
        let (operation, image) = (self.operation.clone(), self.name.clone());
        Growth {
            at_ms: self.at_ms,
            operation,
            image,
            chunks,
            plain,
            compressed,
            freed: self.freed,
        }
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::tree::NodeRef;

    use super::appender::{ENTRIES_MAX, FOLD_COUNT};
    use super::entry::EARLIER;
    use super::*;
    use crate::collect::CollectOptions;
    use crate::image_input::ImageInput;
    use crate::import::{ImportRequest, ImportTarget};
    use crate::live::LiveDisk;
    use crate::model::{name, new_store, open};
    use crate::watch::Unwatched;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    /// Half noise, in no whole number of frames.
    fn import(store: &Store, target: ImportTarget, seed: u64) {
        let bytes: Vec<u8> = noise(seed, 350_000)
            .chunks(64)
            .flat_map(|part| [part, &[1; 64]].concat())
            .collect();
        let input =
            ImageInput::of_stream(Box::new(std::io::Cursor::new(bytes)), "noise".to_owned());
        store
            .import(
                input,
                &ImportRequest {
                    target,
                    snapshot: None,
                },
                &Unwatched,
            )
            .expect("imported");
    }

    fn write(live: &LiveDisk, at: u64, seed: u64) {
        live.write_at(&noise(seed, 9000), at)
            .and_then(|()| live.flush())
            .expect("written");
    }

    /// Operation, image and new chunks of each entry.
    fn told(store: &Store) -> Vec<(String, String, u64)> {
        store
            .usage_growth()
            .expect("readable")
            .into_iter()
            .map(|growth| (growth.operation, growth.image, growth.chunks))
            .collect()
    }

    fn sums(store: &Store) -> (u64, u64, u64) {
        let growth = store.usage_growth().expect("readable");
        let sum = |field: fn(&Growth) -> u64| growth.iter().map(field).sum::<u64>();
        (
            sum(|growth| growth.chunks),
            sum(|growth| growth.plain),
            sum(|growth| growth.compressed),
        )
    }

    #[test]
    fn every_stored_byte_is_in_one_entry_and_what_is_collected_in_another() {
        let (dir, store) = new_store(4096);
        import(
            &store,
            ImportTarget::New {
                name: name("a"),
                parent: None,
            },
            1,
        );
        let image = store.find_node("a").expect("there").image_id();
        import(&store, ImportTarget::Update(image), 2);
        import(
            &store,
            ImportTarget::New {
                name: name("same"),
                parent: None,
            },
            2,
        );
        let live = store.open_live(image).expect("live");
        (0..5).for_each(|nth| write(&live, nth * 20_000 + 5, nth + 10));
        live.write_zeroes(0, 4096)
            .and_then(|()| live.flush())
            .expect("zeroed");
        drop(live);
        store.resize_image(image, 90_001, true).expect("cut");
        store
            .rename_node(NodeRef::Image(image), &name("b"))
            .expect("renamed");
        let stats = store.compute_stats().expect("sound");
        assert_eq!(sums(&store), (stats.chunks, stats.unique, stats.compressed));
        store.delete_image(image, false).expect("deleted");
        let report = store
            .collect(CollectOptions::default(), &Unwatched)
            .expect("collected");
        drop(store);
        let store = open(&dir);
        let entry =
            |operation: &str, image: &str, chunks| (operation.to_owned(), image.to_owned(), chunks);
        let found = told(&store);
        assert_eq!(
            found[0..3],
            [
                entry("import", "a", 171),
                entry("update", "a", 171),
                entry("import", "same", 0)
            ]
        );
        assert_eq!(
            found[3..],
            [
                entry("write", "a", 16),
                entry("resize", "a", 1),
                entry("delete", "b", 0),
                entry("collect", "", 0)
            ]
        );
        assert_eq!(
            store.usage_growth().expect("readable")[6].freed,
            report.stored_bytes_dropped
        );
    }

    #[test]
    fn a_guests_flushes_share_an_entry_until_it_has_another_layer_or_comes_back() {
        let (_dir, store) = new_store(4096);
        let image = store
            .create_image(&name("a"), 1 << 20)
            .expect("create")
            .image_id();
        let live = store.open_live(image).expect("live");
        (0..3).for_each(|nth| write(&live, nth * 20_480, nth));
        let first = store.tree().image(image).expect("there").layer;
        live.take_snapshot(&name("s")).expect("snapshot");
        (3..5).for_each(|nth| write(&live, nth * 20_480, nth));
        let second = store.tree().image(image).expect("there").layer;
        drop(live);
        write(&store.open_live(image).expect("live"), 600_000, 7);
        let chunks: Vec<u64> = told(&store).into_iter().map(|entry| entry.2).collect();
        assert_eq!(chunks, [9, 6, 3]);
        let (growth, added) = (
            store.usage_growth().expect("readable"),
            store
                .journal_now()
                .read_entries()
                .expect("readable")
                .added_by_layer(),
        );
        assert_eq!(added[&first], growth[0].compressed);
        assert_eq!(added[&second], growth[1].compressed + growth[2].compressed);
    }

    #[test]
    fn old_entries_are_added_up_and_nothing_is_counted_twice_or_lost() {
        let (dir, store) = new_store(4096);
        let image = store
            .create_image(&name("a"), 1 << 20)
            .expect("create")
            .image_id();
        let mut store = Some(store);
        let rounds = 2 * (ENTRIES_MAX + FOLD_COUNT);
        for nth in 0..rounds {
            let now = store.take().unwrap_or_else(|| open(&dir));
            let live = now.open_live(image).expect("live");
            write(&live, nth % 100 * 8192, nth);
            // Additions of an entry that was folded meanwhile must not be counted again.
            if nth == 7 {
                let other = now
                    .create_image(&name("b"), 1 << 20)
                    .expect("create")
                    .image_id();
                (0..ENTRIES_MAX + FOLD_COUNT).for_each(|_| {
                    write(
                        &now.open_live(other).expect("live"),
                        nth * 4096,
                        fastrand::u64(..),
                    );
                });
                write(&live, 0, 99_999);
            }
            drop(live);
            let (stats, growth) = (
                now.compute_stats().expect("sound"),
                now.usage_growth().expect("readable"),
            );
            assert_eq!(
                sums(&now),
                (stats.chunks, stats.unique, stats.compressed),
                "{nth}"
            );
            assert!(growth.len() as u64 <= ENTRIES_MAX + FOLD_COUNT, "{nth}");
            store = (nth % 13 != 0).then_some(now);
        }
        let growth = store
            .unwrap_or_else(|| open(&dir))
            .usage_growth()
            .expect("readable");
        assert_eq!(growth[0].operation, EARLIER);
        assert!(
            growth[1..].iter().all(|growth| growth.operation == "write")
                && growth.len() as u64 >= ENTRIES_MAX
        );
    }
}
