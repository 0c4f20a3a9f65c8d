//! Opens a store: loads its state, and decides which damage prevents reading or writing. Closes it,
//! with the last handle.
//!
//! A store opens for reading around any damage, as far as there is anything to be read. Writing
//! needs more: the state that is shown must be the one that was acknowledged, every record must be
//! there, from one place or the other, and no number may be given twice. Other damage does not
//! prevent writing: a record whose copy is whole, an entry of the index, headers, pages and frames.
//! Each of these is missed only by operations that ask for it.

pub(crate) mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vellum_core::frame::{FrameHeader, SPAN_MAX, parse_frame_key};
use vellum_core::identity::StoreId;
use vellum_core::name::Name;
use vellum_core::page::parse_page_key;
use vellum_core::tree::{
    Image, Layer, Snapshot, Tree, TreeEdit, VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::{ChunkId, ImageId, LayerId};

use crate::database::{Database, Family};
use crate::error::StoreError;
use crate::folder::{OwnerLock, StoreFolder};
use crate::identity::put_new_identity;
use crate::keys::{COMMITS_KEY, COUNTERS_KEY, IDENTITY_KEY, PARAMETERS_KEY, PARITY_KEY};
use crate::limits;
use crate::logs;
use crate::mirrored_records::read_twins;
use crate::parity::{self, Parity, ParityShare, SmallFileSaver};
use crate::quarantine::Quarantine;
use crate::records::{self, Commits, Counters, StoreParameters, StoreRecord};
use crate::reserve::Reserve;
use crate::sizes::Sizes;
use crate::store::{Access, Store, StoreParts};
use crate::stored_records::load_meta;
use crate::usage_history::appender::UsageHistory;
use faults::Faults;

/// Tries of a read-only open while the owner moves files about: an import does so a few times a
/// second, an open takes some tens of milliseconds.
const OPEN_TRIES: u32 = 100;
/// The pause between two looks whether a handle is the last one.
const OWNER_PAUSE: Duration = Duration::from_millis(1);

/// State that is loaded from a store's database.
struct LoadedStore {
    database: Database,
    parameters: StoreParameters,
    tree: Tree,
    commits: u64,
    next_chunk: u64,
    journal: UsageHistory,
    faults: Faults,
}

impl Store {
    /// Opens the store in `dir`. `command` is what others are told when they find it in use.
    ///
    /// A damaged store opens for reading as far as it can be read, and for writing as far as that
    /// is sound: see [`Store::gravest_fault`].
    pub fn open_dir(dir: &Path, access: Access, command: &str) -> Result<Self, StoreError> {
        let (folder, restored) = find_folder(dir)?;
        let lock = if access == Access::ReadWrite {
            Some(folder.lock_for_writing(command)?)
        } else {
            None
        };
        open_folder(&folder, access, lock, false).map(|store| store.tell_restored(&restored))
    }

    /// Opens the store in `dir` for writing, or, where its files or their place forbid that, for
    /// reading: then the error says why. Nobody else can write while it is open, unless nobody at
    /// all can.
    pub fn open_to_serve(
        dir: &Path,
        command: &str,
    ) -> Result<(Self, Option<StoreError>), StoreError> {
        let (folder, restored) = find_folder(dir)?;
        let refused = match folder.lock_for_writing(command) {
            Ok(lock) => match open_folder(&folder, Access::ReadWrite, Some(lock), false) {
                Ok(store) => return Ok((store.tell_restored(&restored), None)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if !refused.leaves_reading() {
            return Err(refused);
        }
        let lock = folder.lock_for_writing(command).ok();
        let store = open_folder(&folder, Access::ReadOnly, lock, false)?;
        Ok((store, Some(refused)))
    }

    /// Takes the state that the store in `dir` shows for the present one, although later changes
    /// had been acknowledged (see [`StoreError::RolledBack`]). Fails if it is damaged otherwise.
    pub fn accept_earlier_state(dir: &Path, command: &str) -> Result<(), StoreError> {
        let (folder, _) = find_folder(dir)?;
        let lock = folder.lock_for_writing(command)?;
        open_folder(&folder, Access::ReadWrite, Some(lock), true).map(drop)
    }

    /// The gravest fault that keeps this from being the whole store as it was acknowledged: damage
    /// to its files, or a log that lost its end. Reading goes on around it: a part that cannot be
    /// read is an error, never wrong bytes.
    #[must_use]
    pub fn gravest_fault(&self) -> Option<&StoreError> {
        self.all_faults().next()
    }

    /// The images and snapshots of which the names are known, and nothing else can be read.
    pub fn lost_names(&self) -> impl Iterator<Item = &str> {
        self.all_faults().filter_map(|fault| match fault {
            StoreError::Damaged(damage) => {
                let (name, range) = damage.image.as_ref()?;
                (range.end == u64::MAX).then_some(name.as_str())
            }
            _ => None,
        })
    }

    /// All that was found wrong when it was opened, the gravest first.
    pub(crate) fn all_faults(&self) -> impl Iterator<Item = &StoreError> {
        let faults = &self.inner.faults;
        faults.blocking.iter().chain(&faults.tolerated)
    }
}

impl Store {
    /// Gives this handle up once nobody else has one, or `patience` is over. Who drops the last one
    /// closes the database, and that must not be a thread that the process ends under: one that has
    /// said that it is over may still have a handle.
    pub fn close_last(self, patience: Duration) {
        let begun = Instant::now();
        while Arc::strong_count(&self.inner) > 1 && begun.elapsed() < patience {
            thread::sleep(OWNER_PAUSE);
        }
    }

    /// Tells people of small files that parity restored before it was opened.
    fn tell_restored(self, names: &[String]) -> Self {
        for name in names {
            let text = format!("{name} was restored as parity kept it");
            self.inner.parity.add_notice(text);
        }
        self
    }
}

/// The folder of the store in `dir`, its small files restored if parity kept them; which were.
fn find_folder(dir: &Path) -> Result<(StoreFolder, Vec<String>), StoreError> {
    // While another process writes, they are not looked at.
    let restored = parity::restore_small_files(dir).unwrap_or_default();
    Ok((StoreFolder::open_marked(dir)?, restored))
}

fn open_folder(
    folder: &StoreFolder,
    access: Access,
    lock: Option<OwnerLock>,
    accept_earlier: bool,
) -> Result<Store, StoreError> {
    limits::check_addresses()?;
    let (sizes, reserve) = limits_and_reserve(folder);
    let place = (&sizes, &reserve);
    // Before the database is opened: a process that writes meanwhile only adds to it.
    let acknowledged = folder.acknowledged_commits();
    let parity = Arc::new(Parity::new(folder, lock.is_some()));
    // Before the database, so that it is dropped after it.
    let at_rest = SmallFileSaver(Arc::clone(&parity));
    let quarantine = Quarantine::load_from(folder.path());
    let mut loaded = load_store(folder, place, access, quarantine, &parity)?;
    for _ in Family::ALL {
        if !loaded.database.has_news_of_unreadable_tables() {
            break;
        }
        // A compaction that began meanwhile may have met the same, and ended all writing.
        let quarantine = loaded.database.into_quarantine();
        loaded = load_store(folder, place, access, quarantine, &parity)?;
    }
    if acknowledged > loaded.commits && !accept_earlier {
        loaded.faults.blocking.push(StoreError::RolledBack {
            dir: folder.path().to_owned(),
            lost: acknowledged - loaded.commits,
        });
    }
    let id = load_identity(&loaded.database, access, &mut loaded.faults)?;
    if access == Access::ReadWrite && !loaded.faults.blocking.is_empty() {
        return Err(loaded.faults.blocking.swap_remove(0));
    }
    if access == Access::ReadWrite {
        reserve.refill_reserve();
    }
    let store = Store::from_parts(StoreParts {
        folder: folder.clone(),
        sizes,
        reserve,
        access,
        database: Arc::new(loaded.database),
        parameters: loaded.parameters,
        tree: loaded.tree,
        commits: loaded.commits,
        next_chunk: ChunkId(loaded.next_chunk),
        journal: loaded.journal,
        faults: loaded.faults,
        id,
        at_rest,
        lock,
    });
    if access == Access::ReadWrite {
        store.load_overdue();
    }
    Ok(store)
}

/// Limits and reserve of a store in `folder`.
pub(crate) fn limits_and_reserve(folder: &StoreFolder) -> (Sizes, Reserve) {
    let sizes = Sizes::for_system(&limits::read_system_limits(folder.path()));
    // Early: what is deleted takes room before it gives some.
    let scarce_len = sizes.commit_margin.max(sizes.reserve.most / 2);
    let reserve = Reserve::new(folder.path(), sizes.reserve, scarce_len);
    (sizes, reserve)
}

fn load_store(
    folder: &StoreFolder,
    place: (&Sizes, &Reserve),
    access: Access,
    quarantine: Quarantine,
    parity: &Arc<Parity>,
) -> Result<LoadedStore, StoreError> {
    let mut faults = Faults::default();
    let database = open_database(folder, place, access, quarantine, parity, &mut faults)?;
    database.heal_with(Arc::clone(parity));
    parity.set_share(load_share(&database, &mut faults)?);
    let parameters = load_parameters(&database, &mut faults)?;
    let edits = load_edits(&database, &mut faults)?;
    let edits = sound_edits(edits, &mut faults);
    let mut tree = Tree::new(parameters.chunk_len);
    tree.apply_edits(&edits);
    crate::machines::drop_unsound(&mut tree, &mut faults.blocking);
    let commits =
        meta_or_default::<Commits>(&database, COMMITS_KEY, "the count of commits", &mut faults)?;
    let next_chunk = reserve_ids(&database, &mut tree, &mut faults)?;
    // Also where it is only read: that must say why nothing can be written.
    let journal = UsageHistory::load_from(&database, &mut faults)?;
    Ok(LoadedStore {
        database,
        parameters,
        tree,
        commits: commits.0,
        next_chunk,
        journal,
        faults,
    })
}

/// Opens the database. A reading process opens it while the owner may be moving records from the
/// log to a file: then what it found may be older than what was acknowledged, or a file may be
/// gone, and it looks again.
fn open_database(
    folder: &StoreFolder,
    (sizes, reserve): (&Sizes, &Reserve),
    access: Access,
    quarantine: Quarantine,
    parity: &Parity,
    faults: &mut Faults,
) -> Result<Database, StoreError> {
    let dir = folder.database_path();
    if access == Access::ReadWrite {
        parity.hold_tables();
        let open = || Database::open_in(&dir, sizes, reserve, quarantine.clone());
        let opened = match open_healed(parity, open) {
            Err(error @ StoreError::Damaged(_)) if logs::cut_torn_end(&dir)? => {
                let around = Database::open_around(&dir, sizes, reserve, quarantine);
                let Ok(database) = around else {
                    return Err(error);
                };
                faults.tolerated.push(error);
                Ok(database)
            }
            opened => opened,
        };
        return opened.inspect(|_| parity.begin_writing());
    }
    logs::check_manifests(&dir)?;
    for _ in 0..OPEN_TRIES {
        let before = Database::manifest_lens(&dir)?;
        let open = || Database::open_read_only(&dir, sizes, reserve, quarantine.clone());
        let opened = logs::check_logs(&dir).and_then(|()| open_healed(parity, open));
        if Database::manifest_lens(&dir)? != before {
            continue;
        }
        return match opened {
            Err(error @ StoreError::Damaged(_)) => {
                match open_damaged(&dir, (sizes, reserve), quarantine) {
                    Ok(database) => {
                        faults.blocking.push(error);
                        Ok(database)
                    }
                    Err(_) => Err(error),
                }
            }
            opened => opened,
        };
    }
    Err(StoreError::Database {
        what: "open the store for reading".to_owned(),
        message: "its files never hold still".to_owned(),
    })
}

/// Calls `open`, again after each file that it needs and parity healed.
fn open_healed(
    parity: &Parity,
    open: impl Fn() -> Result<Database, StoreError>,
) -> Result<Database, StoreError> {
    let mut opened = open();
    // Each time some table is healed.
    for _ in 0..OPEN_TRIES {
        match &opened {
            Err(StoreError::Damaged(damage)) if parity.heal_named(&damage.reason, None) => {
                opened = open();
            }
            _ => break,
        }
    }
    opened
}

fn open_damaged(
    dir: &Path,
    (sizes, reserve): (&Sizes, &Reserve),
    quarantine: Quarantine,
) -> Result<Database, StoreError> {
    let room = tempfile::tempdir()
        .map_err(|source| StoreError::of_io("make a folder for temporary files", source))?;
    Database::open_damaged(dir, room.path(), sizes, reserve, quarantine)
}

/// Loads as [`load_meta`] a record without which the store can be read.
fn meta_or_default<R: StoreRecord + Default>(
    database: &Database,
    key: &[u8],
    what: &str,
    faults: &mut Faults,
) -> Result<R, StoreError> {
    let loaded = load_meta(database, key, what);
    let (record, hurt) = faults.note_blocking(loaded)?.unwrap_or_default();
    faults.tolerated.extend(hurt);
    Ok(record.unwrap_or_default())
}

fn load_parameters(
    database: &Database,
    faults: &mut Faults,
) -> Result<StoreParameters, StoreError> {
    let what = "the store's parameters";
    let (parameters, hurt) = load_meta(database, PARAMETERS_KEY, what)?;
    faults.tolerated.extend(hurt);
    parameters.ok_or_else(|| StoreError::damaged_record(what, "they are gone"))
}

/// The share of parity that is wanted. If it is not known, no parity is made.
fn load_share(database: &Database, faults: &mut Faults) -> Result<Option<ParityShare>, StoreError> {
    match load_meta(database, PARITY_KEY, "the share of parity") {
        Ok((share, hurt)) => {
            faults.tolerated.extend(hurt);
            Ok(share)
        }
        Err(error) => tolerate_damage(error, faults).map(|()| None),
    }
}

/// The store's identity. One that was made before there were any gets it now, if it is opened for
/// writing.
fn load_identity(
    database: &Database,
    access: Access,
    faults: &mut Faults,
) -> Result<Option<StoreId>, StoreError> {
    let loaded = load_meta::<StoreId>(database, IDENTITY_KEY, "the store's identity");
    let Some((id, hurt)) = faults.note_blocking(loaded)? else {
        return Ok(None);
    };
    faults.tolerated.extend(hurt);
    if id.is_some() || access == Access::ReadOnly || !faults.blocking.is_empty() {
        return Ok(id);
    }
    put_new_identity(database).map(Some)
}

/// Every record of layers and names, as far as one of its two places has it.
fn load_edits(database: &Database, faults: &mut Faults) -> Result<Vec<TreeEdit>, StoreError> {
    let layers = read_twins(database, Family::Layers, &|key, value| {
        Ok(TreeEdit::PutLayer(load_record::<Layer>(
            Family::Layers,
            key,
            value,
        )?))
    })?;
    let names = read_twins(database, Family::Names, &load_name)?;
    let mut edits = Vec::with_capacity(layers.records.len() + names.records.len());
    for twins in [layers, names] {
        edits.extend(twins.records);
        faults.tolerated.extend(twins.hurt);
        faults.blocking.extend(twins.missing);
    }
    Ok(edits)
}

fn load_name(key: &[u8], value: &[u8]) -> Result<TreeEdit, StoreError> {
    let family = Family::Names;
    Ok(match key.first() {
        Some(b'i') => TreeEdit::PutImage(load_record::<Image>(family, key, value)?),
        Some(b's') => TreeEdit::PutSnapshot(load_record::<Snapshot>(family, key, value)?),
        Some(b'm') => TreeEdit::PutMachine(load_record::<VirtualMachine>(family, key, value)?),
        Some(b't') => {
            TreeEdit::PutMachineSnapshot(load_record::<VirtualMachineSnapshot>(family, key, value)?)
        }
        _ => {
            return Err(StoreError::damaged_record(
                format!("name {}", key.escape_ascii()),
                "its kind is not known",
            ));
        }
    })
}

fn load_record<R: StoreRecord>(family: Family, key: &[u8], value: &[u8]) -> Result<R, StoreError> {
    records::decode_record(family.family_name(), key, value).map_err(|error| {
        StoreError::damaged_record(
            format!("{} record {}", family.family_name(), key.escape_ascii()),
            error,
        )
    })
}

/// `edits` without those that refer to what is not there: layers whose chain does not end, and
/// whatever stands on one.
fn sound_edits(edits: Vec<TreeEdit>, faults: &mut Faults) -> Vec<TreeEdit> {
    let parents: BTreeMap<LayerId, Option<LayerId>> = edits
        .iter()
        .filter_map(|edit| match edit {
            TreeEdit::PutLayer(layer) => Some((layer.id, layer.parent)),
            _ => None,
        })
        .collect();
    let images: BTreeMap<ImageId, Name> = edits
        .iter()
        .filter_map(|edit| match edit {
            TreeEdit::PutImage(image) => Some((image.id, image.name.clone())),
            _ => None,
        })
        .collect();
    let sound = sound_layers(&parents);
    let wrong = |edit: &TreeEdit| {
        let (record, name, layer) = match edit {
            TreeEdit::PutImage(image) => {
                let name = image.name.to_string();
                (format!("image {name}"), Some(name), image.layer)
            }
            TreeEdit::PutSnapshot(snapshot) => {
                let record = format!("snapshot {}", snapshot.name);
                let Some(image) = images.get(&snapshot.image) else {
                    return Some(StoreError::damaged_record(record, "its image is gone"));
                };
                (
                    record,
                    Some(format!("{image}@{}", snapshot.name)),
                    snapshot.layer,
                )
            }
            TreeEdit::PutLayer(layer) => (format!("layer {}", layer.id), None, layer.id),
            _ => return None,
        };
        if sound.contains(&layer) {
            return None;
        }
        let reason = match parents.get(&layer) {
            None => format!("it refers to layer {layer}, which is gone"),
            Some(_) => "its parents form a circle, or one of them is gone".to_owned(),
        };
        let error = StoreError::damaged_record(record, reason);
        Some(match name {
            Some(name) => error.in_image(&name, 0..u64::MAX),
            None => error,
        })
    };
    let (mut kept, mut found) = (Vec::with_capacity(edits.len()), Vec::new());
    for edit in edits {
        match wrong(&edit) {
            None => kept.push(edit),
            Some(error) => found.push(error),
        }
    }
    faults.blocking.extend(found);
    kept
}

/// The layers whose chain ends at one without a parent.
fn sound_layers(parents: &BTreeMap<LayerId, Option<LayerId>>) -> BTreeSet<LayerId> {
    let (mut sound, mut unsound) = (BTreeSet::new(), BTreeSet::new());
    for start in parents.keys() {
        let mut chain = Vec::new();
        let mut next = Some(*start);
        let ends = loop {
            let Some(layer) = next.filter(|layer| !sound.contains(layer)) else {
                break true;
            };
            let is_circle = chain.len() > parents.len();
            let Some(parent) = parents.get(&layer).filter(|_| !is_circle) else {
                break false;
            };
            if unsound.contains(&layer) {
                break false;
            }
            chain.push(layer);
            next = *parent;
        };
        let set = if ends { &mut sound } else { &mut unsound };
        set.extend(chain);
    }
    sound
}

/// Keeps every number that was given from being given again, also those that a crash kept from the
/// counters: what has them tells. The number for the next new chunk.
fn reserve_ids(
    database: &Database,
    tree: &mut Tree,
    faults: &mut Faults,
) -> Result<u64, StoreError> {
    let counters =
        meta_or_default::<Counters>(database, COUNTERS_KEY, "the store's counters", faults)?;
    let last_layer = last_page_layer(database).or_else(|error| {
        tolerate_damage(error, faults)?;
        Ok::<_, StoreError>(last_possible(database, Family::Pages, |key| {
            parse_page_key(key).ok().map(|(layer, _)| layer.0)
        }))
    })?;
    tree.reserve_ids(counters.next_id.saturating_sub(1).max(last_layer));
    let chunk_end = last_chunk_end(database).or_else(|error| {
        tolerate_damage(error, faults)?;
        let last = last_possible(database, Family::Headers, |key| {
            parse_frame_key(key).ok().map(|first| first.0)
        });
        Ok::<_, StoreError>(ChunkId(last).advance_by(SPAN_MAX.into()))
    })?;
    Ok(counters.next_chunk.max(chunk_end.0))
}

fn tolerate_damage(error: StoreError, faults: &mut Faults) -> Result<(), StoreError> {
    match error {
        StoreError::Damaged(_) => faults.tolerated.push(error),
        error => return Err(error),
    }
    Ok(())
}

/// The greatest number that `number` finds in the bounds of the family's tables, which are known
/// without a look into them: no record in a table lies past them.
fn last_possible(
    database: &Database,
    family: Family,
    number: impl Fn(&[u8]) -> Option<u64>,
) -> u64 {
    let bounds = database.table_bounds(family);
    bounds
        .iter()
        .filter_map(|key| number(key))
        .max()
        .unwrap_or(0)
}

/// The greatest layer id that any page has, also pages of an import that a crash cut off.
fn last_page_layer(database: &Database) -> Result<u64, StoreError> {
    let Some((key, _)) = database.last_at_or_before(Family::Pages, &[0xff; 16])? else {
        return Ok(0);
    };
    let (layer, _) =
        parse_page_key(&key).map_err(|error| StoreError::damaged_record("a page's key", error))?;
    Ok(layer.0)
}

fn last_chunk_end(database: &Database) -> Result<ChunkId, StoreError> {
    let Some((key, value)) = database.last_at_or_before(Family::Headers, &[0xff; 8])? else {
        return Ok(ChunkId(0));
    };
    let first = parse_frame_key(&key)
        .map_err(|error| StoreError::damaged_record("a frame header's key", error))?;
    // A damaged header is found when somebody reads it; here only its ids must not be given again.
    Ok(FrameHeader::decode(first, &value)
        .map_or(first.advance_by(SPAN_MAX.into()), |header| header.end_id()))
}

#[cfg(test)]
mod tests {
    use vellum_core::hash::ChunkHash;

    use crate::chunks::ChunkCandidate;
    use crate::model::{new_store, open};

    /// Chunks become durable long before the commit that counts them.
    #[test]
    fn ids_that_a_crash_kept_from_the_counters_are_not_given_again() {
        let (dir, store) = new_store(4096);
        let counted = store.inner.chunks.next_chunk();
        let plain = vec![7; 4096];
        let chunk = ChunkCandidate {
            hash: ChunkHash::of_chunk(&plain),
            plain: &plain,
            guess: None,
        };
        let mut session = store.inner.chunks.open_session();
        session.store_chunks(&[chunk]).expect("room");
        session.make_durable().expect("room");
        drop(session);
        let database = &store.inner.database;
        database
            .flush_bulk(database.write_generation())
            .expect("room");
        let given = store.inner.chunks.next_chunk();
        assert!(given > counted);
        drop(store);
        assert!(open(&dir).inner.chunks.next_chunk() >= given);
    }
}
