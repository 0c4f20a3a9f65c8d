//! The growth journal: records for each operation how much it added to the store, and when.
//!
//! An entry is written in the batch that makes the addition durable: there is never the one without
//! the other. Entries are numbered without a gap, so that the first and the last number give their
//! count. A guest's writes make one entry for each layer and attachment, once a day: every flush
//! writes it again, with the sums so far. The newest [`ENTRIES_MAX`] are kept; older ones are added
//! up in one entry.
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

use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use vellum_core::name::{Name, NodeSpec};
use vellum_core::tree::{Node, Tree};
use vellum_core::units::{ImageId, LayerId};

use crate::chunks::pause::lock;
use crate::clock::now_ms;
use crate::database::{Batch, Database, Family, Scan, key_of_copy};
use crate::error::StoreError;
use crate::opening::faults::Faults;
use crate::records::{self, Record};
use crate::report::Growth;
use crate::store::Store;

/// Entries that are kept one by one: an import every five minutes for a year. Each takes some 75
/// bytes, and as many for its copy.
const ENTRIES_MAX: u64 = if cfg!(test) { 60 } else { 100_000 };
/// Entries that are added up at a time, once there are so many too many: to read them takes about
/// as long as a commit.
const FOLD_COUNT: u64 = if cfg!(test) { 20 } else { 256 };
/// Age after which the flushes of an attached disk make another entry, so that growth over time can
/// be seen.
const RUNNING_MS_MAX: u64 = 24 * 3_600_000;
const OPERATION_LEN_MAX: usize = 32;
/// Operation in the entry that sums old ones.
const EARLIER: &str = "earlier";

pub(crate) const SUM_KEY: &[u8] = b"journal";

/// Chunks that an operation added to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Added {
    /// New chunks, a number.
    pub(crate) chunks: u64,
    /// Their bytes before compression.
    pub(crate) plain: u64,
    /// The payloads of their frames.
    pub(crate) compressed: u64,
}

/// The journal as it is at one moment, to be read later.
pub(crate) struct JournalView<'s> {
    records: Scan<'s>,
    copies: Scan<'s>,
}

/// All entries, each with whether it is the sum of old ones.
#[derive(Default)]
pub(crate) struct Entries(Vec<(bool, Entry)>);

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The time, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// A word, perhaps with hyphens.
    pub(crate) operation: String,
    pub(crate) image: Option<ImageId>,
    /// The name of the image, or of its snapshot. Empty if it was about no image.
    pub(crate) name: String,
    /// The layer that got what was added.
    pub(crate) layer: Option<LayerId>,
    pub(crate) added: Added,
    /// Compressed bytes that were given back.
    pub(crate) freed: u64,
}

/// The entry that the flushes of an attached disk write again and again.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    number: u64,
    began_ms: u64,
    entry: Entry,
}

/// The numbers of the entries that are there.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Numbers>);

#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    first: u64,
    next: u64,
}

impl Journal {
    /// The journal in `database`. Reads its first and its last key: of the copies, if the records
    /// cannot be read.
    pub(crate) fn load(database: &Database, faults: &mut Faults) -> Result<Self, StoreError> {
        let numbers = match numbers(database, Family::Meta, &[]) {
            Err(error @ StoreError::Damaged(_)) => {
                let tag = key_of_copy(Family::Meta, &[]);
                if let Ok(numbers) = numbers(database, Family::Copies, &tag) {
                    faults.tolerated.push(error);
                    numbers
                } else {
                    faults.blocking.push(error);
                    None
                }
            }
            numbers => numbers?,
        };
        Ok(Self(Mutex::new(numbers.unwrap_or_default())))
    }

    /// Puts an entry into `batch`, which is written next, or never.
    pub(crate) fn note(&self, database: &Database, batch: &mut Batch, entry: &Entry) {
        self.append(database, batch, entry);
    }

    /// Notes one of many small additions: they share an entry, unlike those of [`Journal::note`],
    /// as long as they go to one layer on one day.
    pub(crate) fn note_running(
        &self,
        database: &Database,
        batch: &mut Batch,
        running: &mut Option<Running>,
        entry: Entry,
    ) {
        let first = lock(&self.0).first;
        let goes_on = |running: &&mut Running| {
            let is_young = entry.at_ms.saturating_sub(running.began_ms) < RUNNING_MS_MAX;
            running.entry.layer == entry.layer && is_young && running.number >= first
        };
        if let Some(running) = running.as_mut().filter(goes_on) {
            let added = running.entry.added.plus(entry.added);
            running.entry = Entry { added, ..entry };
            put(batch, &entry_key(running.number), &running.entry);
        } else {
            let number = self.append(database, batch, &entry);
            *running = Some(Running {
                number,
                began_ms: entry.at_ms,
                entry,
            });
        }
    }

    fn append(&self, database: &Database, batch: &mut Batch, entry: &Entry) -> u64 {
        let mut numbers = lock(&self.0);
        let number = numbers.next;
        numbers.next += 1;
        put(batch, &entry_key(number), entry);
        if numbers.next - numbers.first >= ENTRIES_MAX + FOLD_COUNT {
            let end = numbers.first + FOLD_COUNT;
            fold(database, batch, numbers.first..end);
            numbers.first = end;
        }
        number
    }
}

/// The numbers of the entries in `family`, where `prefix` stands before every key.
fn numbers(
    database: &Database,
    family: Family,
    prefix: &[u8],
) -> Result<Option<Numbers>, StoreError> {
    let number = |key: &[u8]| number_of(key.strip_prefix(prefix)?);
    let first = database
        .scan(family, &[prefix, &entry_key(0)].concat())
        .next()?
        .and_then(|(key, _)| number(key));
    let last = database
        .last_at_or_before(family, &[prefix, &entry_key(u64::MAX)].concat())?
        .and_then(|(key, _)| number(&key));
    Ok(first.zip(last).map(|(first, last)| Numbers {
        first,
        next: last.saturating_add(1),
    }))
}

/// Adds the entries of `numbers` up. One that cannot be read is lost: no disk depends on it.
fn fold(database: &Database, batch: &mut Batch, numbers: std::ops::Range<u64>) {
    let read = |key: &[u8]| {
        database
            .record(Family::Meta, key, |value| decode(key, value))
            .ok()
            .and_then(|(entry, _)| entry)
    };
    let mut sum = read(SUM_KEY).unwrap_or_else(Entry::earlier);
    for number in numbers {
        let key = entry_key(number);
        read(&key).iter().for_each(|entry| sum.add(entry));
        batch.delete(Family::Meta, key);
    }
    put(batch, SUM_KEY, &sum);
}

impl Store {
    /// The additions to the store, with time and operation: the oldest first. Entries that are too
    /// old to be kept one by one are summed in the first, called `earlier`. Changes that wait on
    /// attached disks are not in it yet. Cost: reads the journal, at most some 100,000 entries.
    pub fn growth(&self) -> Result<Vec<Growth>, StoreError> {
        Ok(self.journal_now().read()?.growth())
    }

    /// The moment is now, if the tree is locked: then no commit falls between this and what else is
    /// looked at.
    pub(crate) fn journal_now(&self) -> JournalView<'_> {
        let database = &self.inner.database;
        let (records, copies) = (
            database.scan(Family::Meta, SUM_KEY),
            database.scan(Family::Copies, &key_of_copy(Family::Meta, SUM_KEY)),
        );
        JournalView { records, copies }
    }

    /// Notes in `batch` what `operation` on `node` of `tree` added to `layer`.
    pub(crate) fn note(
        &self,
        tree: &Tree,
        batch: &mut Batch,
        operation: &'static str,
        node: Node,
        layer: Option<LayerId>,
        added: Added,
    ) {
        let entry = Entry::new(operation, node.image(), tree.display(node), layer, added);
        self.inner.journal.note(&self.inner.database, batch, &entry);
    }
}

impl JournalView<'_> {
    /// Every entry; from the copies if the records cannot be read.
    pub(crate) fn read(self) -> Result<Entries, StoreError> {
        let entries = match read_all(self.records, &[]) {
            Err(StoreError::Damaged(damage)) => {
                let key = key_of_copy(Family::Meta, SUM_KEY);
                let tag = &key[..key.len() - SUM_KEY.len()];
                read_all(self.copies, tag).map_err(|_| StoreError::Damaged(damage))
            }
            read => read,
        };
        entries.map(Entries)
    }
}

impl Entries {
    /// The additions with their times: the sum of those that are too old first, then the oldest.
    pub(crate) fn growth(&self) -> Vec<Growth> {
        let growth = |wanted: bool| {
            self.0
                .iter()
                .filter(move |(is_sum, _)| *is_sum == wanted)
                .map(|(_, entry)| entry.growth())
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
fn read_all(mut scan: Scan<'_>, prefix: &[u8]) -> Result<Vec<(bool, Entry)>, StoreError> {
    let mut entries = Vec::new();
    while let Some((key, value)) = scan.next()? {
        let Some(key) = key
            .strip_prefix(prefix)
            .filter(|key| key.starts_with(SUM_KEY))
        else {
            break;
        };
        entries.push((key == SUM_KEY, decode(key, value)?));
    }
    Ok(entries)
}

fn decode(key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
    records::decode(Family::Meta.name(), key, value)
        .map_err(|error| StoreError::damaged("the growth journal", error))
}

fn put(batch: &mut Batch, key: &[u8], entry: &Entry) {
    batch.put(
        Family::Meta,
        key,
        records::encode(Family::Meta.name(), key, entry),
    );
}

pub(crate) fn entry_key(number: u64) -> Vec<u8> {
    [SUM_KEY, &number.to_be_bytes()].concat()
}

fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        key.strip_prefix(SUM_KEY)?.try_into().ok()?,
    ))
}

impl Added {
    /// Sums do not overflow: bytes from outside may hold any number.
    fn plus(self, other: Self) -> Self {
        Self {
            chunks: self.chunks.saturating_add(other.chunks),
            plain: self.plain.saturating_add(other.plain),
            compressed: self.compressed.saturating_add(other.compressed),
        }
    }
}

impl Entry {
    /// An entry of now.
    pub(crate) fn new(
        operation: &str,
        image: ImageId,
        name: String,
        layer: Option<LayerId>,
        added: Added,
    ) -> Self {
        Self {
            at_ms: now_ms(),
            operation: operation.to_owned(),
            image: Some(image),
            name,
            layer,
            added,
            freed: 0,
        }
    }

    /// An entry of now about the whole store: `freed` bytes were given back.
    pub(crate) fn freed(operation: &str, freed: u64) -> Self {
        Self {
            operation: operation.to_owned(),
            freed,
            at_ms: now_ms(),
            ..Self::earlier()
        }
    }

    fn earlier() -> Self {
        Self {
            at_ms: 0,
            operation: EARLIER.to_owned(),
            image: None,
            name: String::new(),
            layer: None,
            added: Added::default(),
            freed: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        self.at_ms = self.at_ms.max(other.at_ms);
        self.added = self.added.plus(other.added);
        self.freed = self.freed.saturating_add(other.freed);
    }

    fn growth(&self) -> Growth {
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

/// Time, operation, image, name, layer, what was added, what was freed.
#[derive(Serialize, Deserialize)]
pub(crate) struct EntryFields(u64, String, Option<u64>, String, Option<u64>, Added, u64);

impl Record for Entry {
    type Fields = EntryFields;

    fn to_fields(&self) -> EntryFields {
        let (image, layer) = (
            self.image.map(|image| image.0),
            self.layer.map(|layer| layer.0),
        );
        EntryFields(
            self.at_ms,
            self.operation.clone(),
            image,
            self.name.clone(),
            layer,
            self.added,
            self.freed,
        )
    }

    fn from_fields(
        EntryFields(at_ms, operation, image, name, layer, added, freed): EntryFields,
    ) -> Option<Self> {
        let is_word = operation
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let fits = is_word
            && (1..=OPERATION_LEN_MAX).contains(&operation.len())
            && (name.is_empty() || is_node(&name));
        fits.then(|| Self {
            at_ms,
            operation,
            image: image.map(ImageId),
            name,
            layer: layer.map(LayerId),
            added,
            freed,
        })
    }
}

/// True if `text` can be the name of an image or a snapshot: it is shown to people.
fn is_node(text: &str) -> bool {
    let spec = NodeSpec::parse(text);
    Name::new(&spec.image).is_ok()
        && spec
            .snapshot
            .is_none_or(|snapshot| Name::new(&snapshot).is_ok())
}

#[cfg(test)]
mod tests {
    use vellum_core::tree::Node;

    use super::*;
    use crate::collect::CollectOptions;
    use crate::import::{ImportRequest, ImportTarget};
    use crate::live::LiveDisk;
    use crate::model::{name, new_store, open};
    use crate::pieces::Input;
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
        let input = Input::stream(Box::new(std::io::Cursor::new(bytes)), "noise".to_owned());
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
            .growth()
            .expect("readable")
            .into_iter()
            .map(|growth| (growth.operation, growth.image, growth.chunks))
            .collect()
    }

    fn sums(store: &Store) -> (u64, u64, u64) {
        let growth = store.growth().expect("readable");
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
        let image = store.find("a").expect("there").image();
        import(&store, ImportTarget::Update(image), 2);
        import(
            &store,
            ImportTarget::New {
                name: name("same"),
                parent: None,
            },
            2,
        );
        let live = store.live(image).expect("live");
        (0..5).for_each(|nth| write(&live, nth * 20_000 + 5, nth + 10));
        live.write_zeroes(0, 4096)
            .and_then(|()| live.flush())
            .expect("zeroed");
        drop(live);
        store.resize(image, 90_001, true).expect("cut");
        store
            .rename(Node::Image(image), &name("b"))
            .expect("renamed");
        let stats = store.stats().expect("sound");
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
            store.growth().expect("readable")[6].freed,
            report.stored_bytes_dropped
        );
    }

    #[test]
    fn a_guests_flushes_share_an_entry_until_it_has_another_layer_or_comes_back() {
        let (_dir, store) = new_store(4096);
        let image = store.create(&name("a"), 1 << 20).expect("create").image();
        let live = store.live(image).expect("live");
        (0..3).for_each(|nth| write(&live, nth * 20_480, nth));
        let first = store.tree().image(image).expect("there").layer;
        live.snapshot(&name("s")).expect("snapshot");
        (3..5).for_each(|nth| write(&live, nth * 20_480, nth));
        let second = store.tree().image(image).expect("there").layer;
        drop(live);
        write(&store.live(image).expect("live"), 600_000, 7);
        let chunks: Vec<u64> = told(&store).into_iter().map(|entry| entry.2).collect();
        assert_eq!(chunks, [9, 6, 3]);
        let (growth, added) = (
            store.growth().expect("readable"),
            store
                .journal_now()
                .read()
                .expect("readable")
                .added_by_layer(),
        );
        assert_eq!(added[&first], growth[0].compressed);
        assert_eq!(added[&second], growth[1].compressed + growth[2].compressed);
    }

    #[test]
    fn old_entries_are_added_up_and_nothing_is_counted_twice_or_lost() {
        let (dir, store) = new_store(4096);
        let image = store.create(&name("a"), 1 << 20).expect("create").image();
        let mut store = Some(store);
        let rounds = 2 * (ENTRIES_MAX + FOLD_COUNT);
        for nth in 0..rounds {
            let now = store.take().unwrap_or_else(|| open(&dir));
            let live = now.live(image).expect("live");
            write(&live, nth % 100 * 8192, nth);
            // Additions of an entry that was folded meanwhile must not be counted again.
            if nth == 7 {
                let other = now.create(&name("b"), 1 << 20).expect("create").image();
                (0..ENTRIES_MAX + FOLD_COUNT).for_each(|_| {
                    write(
                        &now.live(other).expect("live"),
                        nth * 4096,
                        fastrand::u64(..),
                    );
                });
                write(&live, 0, 99_999);
            }
            drop(live);
            let (stats, growth) = (now.stats().expect("sound"), now.growth().expect("readable"));
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
            .growth()
            .expect("readable");
        assert_eq!(growth[0].operation, EARLIER);
        assert!(
            growth[1..].iter().all(|growth| growth.operation == "write")
                && growth.len() as u64 >= ENTRIES_MAX
        );
    }

    #[test]
    fn an_entry_that_no_program_wrote_is_refused() {
        let good = Entry::new(
            "write",
            ImageId(1),
            "a@b".to_owned(),
            None,
            Added::default(),
        );
        let fields = |entry: &Entry| Entry::from_fields(entry.to_fields());
        assert_eq!(fields(&good), Some(good.clone()));
        for (operation, name) in [
            ("", "a"),
            ("Write", "a"),
            ("w\u{1b}[2J", "a"),
            ("write", "a\nb"),
            ("write", "a@\u{202e}"),
            ("write", "@"),
        ] {
            let bad = Entry {
                operation: operation.to_owned(),
                name: name.to_owned(),
                ..good.clone()
            };
            assert_eq!(fields(&bad), None, "{operation:?} {name:?}");
        }
    }
}
