//! Every object of a small repository is damaged in every way, with its copy and without. Without a
//! store, whatever has a copy comes back; verification names exactly the points that do not
//! restore, and no wrong byte comes out. With a store at hand the next push, or a repair, brings
//! everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tempfile::TempDir;
use vellum_store::{Store, Unwatched};

use super::damage::{Place, add_key, restored};
use super::grower::{name, new_store};
use super::trees::copy_folder;
use super::{Client, request};
use crate::error::BackupError;
use crate::heal::{self, HealReport};
use crate::objects::memory::{Memory, Request};
use crate::objects::twice::{COPIES_PREFIX, copy_of};
use crate::objects::{ObjectKind, ObjectName};
use crate::prune::{PruneOptions, prune};
use crate::push::{PushReport, PushSelection, push};
use crate::repository::{ClientFolders, Repository, Rollback};
use crate::seal::Opener;
use crate::testing::pusher::writer;
use crate::verify::{Finding, VerifyOptions, VerifyReport, verify};

/// The ways in which an object is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Flipped,
    Cut,
    Emptied,
    Deleted,
    Swapped,
}

const WAYS: [Way; 5] = [
    Way::Flipped,
    Way::Cut,
    Way::Emptied,
    Way::Deleted,
    Way::Swapped,
];

/// The ways back when a store is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cure {
    /// Somebody verifies all, and the next push has something new.
    PushAfterVerify,
    /// Somebody verifies all, and the next push has nothing new.
    PushOfNothing,
    /// A push of something new, by a client that remembers.
    Push,
    /// The same by one that has never seen the repository.
    PushOfStranger,
    /// Somebody verifies all, and then repairs.
    Repair,
}

const CURES: [Cure; 5] = [
    Cure::PushAfterVerify,
    Cure::PushOfNothing,
    Cure::Push,
    Cure::PushOfStranger,
    Cure::Repair,
];

/// A repository of two pushes, the store that made them and has something new, and what each point
/// shows.
struct Ward {
    _dir: TempDir,
    store: Store,
    client: Client,
    second: Option<Opener>,
    whole: Place,
    expected: BTreeMap<String, Vec<u8>>,
}

/// One damage.
struct Case<'w> {
    ward: &'w Ward,
    object: ObjectName,
    way: Way,
    /// Which halves of the pair are hit.
    hits: (bool, bool),
    place: Place,
    told: String,
}

fn write(store: &Store, image: &str, seed: u64, snapshot: &str) {
    let node = store
        .find_node(image)
        .or_else(|_| store.create_image(&name(image), 700 << 10))
        .expect("room");
    let mut bytes = vec![0; 150 << 10];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    let live = store.open_live(node.image_id()).expect("live");
    live.write_at(&bytes, seed * 50_000)
        .and_then(|()| live.flush())
        .expect("written");
    drop(live);
    store
        .take_snapshot(node.image_id(), &name(snapshot))
        .expect("a snapshot");
}

impl Ward {
    fn new(is_encrypted: bool) -> Self {
        let (dir, store) = new_store();
        let client = Client::new(is_encrypted);
        write(&store, "web", 1, "monday");
        client.push(&store).expect("a push");
        write(&store, "web", 2, "tuesday");
        write(&store, "db", 3, "tuesday");
        client.push(&store).expect("a push");
        let second = client.opener.as_ref().map(|first| add_key(&client, first));
        let mut ward = Self {
            _dir: dir,
            store,
            second,
            whole: client.place.snapshot(),
            client,
            expected: BTreeMap::new(),
        };
        ward.expected = ward.points(&ward.whole).expect("it is whole");
        assert!(ward.expected.len() >= 5);
        write(&ward.store, "web", 4, "wednesday");
        ward
    }

    fn open(&self, place: &Memory, folders: ClientFolders) -> Result<Repository, BackupError> {
        let open = |opener| {
            let objects = Arc::new(place.clone());
            Repository::open(objects, opener, folders.clone(), Rollback::Refused)
        };
        open(self.client.opener.as_ref()).or_else(|error| match &self.second {
            // Whoever's own key is lost is shut out, not others.
            Some(second) if matches!(error, BackupError::Key { .. }) => open(Some(second)),
            _ => Err(error),
        })
    }

    /// What each point shows, by somebody who has never seen the place.
    fn points(&self, place: &Place) -> Result<BTreeMap<String, Vec<u8>>, BackupError> {
        let memory = Memory::new();
        memory.replace_all(place.clone());
        let repository = self.open(&memory, ClientFolders::default())?;
        let state = repository.state();
        state
            .points()
            .map(|point| Ok((point.id.clone(), restored(&repository, point)?)))
            .collect()
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let mut cases = Vec::new();
        let names = self.whole.keys().filter_map(|text| ObjectName::parse(text));
        for object in names.filter(|name| name.kind() != ObjectKind::Session) {
            let copy = copy_of(&object);
            let hits: &[(bool, bool)] = match copy {
                Some(_) => &[(true, false), (false, true), (true, true)],
                None => &[(true, false)],
            };
            for way in WAYS {
                for hits in hits {
                    cases.extend(self.case(object, way, *hits));
                }
            }
        }
        cases
    }

    fn case(&self, object: ObjectName, way: Way, hits: (bool, bool)) -> Option<Case<'_>> {
        let mut place = self.whole.clone();
        let copy = copy_of(&object).filter(|_| hits.1);
        let own = Some(object.to_string()).filter(|_| hits.0);
        for text in own.into_iter().chain(copy) {
            self.damage(&mut place, &text, way)?;
        }
        let halves = match hits {
            (true, true) => "both halves",
            (true, false) => "the object",
            _ => "the copy",
        };
        Some(Case {
            ward: self,
            object,
            way,
            hits,
            place,
            told: format!("{way:?}: {halves} of {object}"),
        })
    }

    /// None if there is nothing to swap it with.
    fn damage(&self, place: &mut Place, text: &str, way: Way) -> Option<()> {
        let mut bytes = place[text].to_vec();
        let middle = bytes.len() / 2;
        match way {
            Way::Flipped => bytes[middle] ^= 4,
            Way::Cut => bytes.truncate(middle),
            Way::Emptied => bytes.clear(),
            Way::Deleted => {
                place.remove(text);
                return Some(());
            }
            Way::Swapped => {
                let folder = &text[..=text.find('/')?];
                let inner = text.strip_prefix(COPIES_PREFIX).unwrap_or(text);
                let folder = match inner.split_once('/') {
                    Some((kind, _)) if text != inner => format!("{COPIES_PREFIX}{kind}/"),
                    _ => folder.to_owned(),
                };
                let other = self
                    .whole
                    .keys()
                    .find(|other| *other != text && other.starts_with(&folder))?;
                let theirs = place[other].clone();
                place.insert(other.clone(), bytes.into());
                place.insert(text.to_owned(), theirs);
                return Some(());
            }
        }
        place.insert(text.to_owned(), bytes.into());
        Some(())
    }
}

impl Case<'_> {
    fn memory(&self) -> Memory {
        let memory = Memory::new();
        memory.replace_all(self.place.clone());
        memory
    }

    fn stranger(&self, memory: &Memory) -> Result<Repository, BackupError> {
        self.ward.open(memory, ClientFolders::default())
    }

    /// Of pairs that are lost whole, what shuts everybody out.
    fn is_shut(&self) -> bool {
        let is_lost = match self.object.kind() {
            ObjectKind::Record | ObjectKind::Repository => true,
            // There are two.
            ObjectKind::Key => self.way == Way::Swapped,
            _ => false,
        };
        self.hits == (true, true) && is_lost
    }

    /// All points as they were; those in `more` may be there, too.
    fn assert_whole(&self, memory: &Memory, what: &str) {
        let found = self.ward.points(&memory.snapshot());
        let found = found.unwrap_or_else(|error| panic!("{}: {what}: {error}", self.told));
        for (id, bytes) in &self.ward.expected {
            assert!(
                found.get(id) == Some(bytes),
                "{}: {what}: {id} is another",
                self.told
            );
        }
    }

    fn verified(&self, repository: &Repository) -> VerifyReport {
        let options = VerifyOptions {
            read_data: true,
            subset: None,
        };
        verify(repository, &options, &Unwatched)
            .unwrap_or_else(|error| panic!("{}: {error}", self.told))
    }

    fn assert_clean(&self, memory: &Memory, what: &str) {
        let repository = self.stranger(memory).expect("it opens");
        let report = self.verified(&repository);
        // A key that is lost in both places is its owner's matter.
        let is_well = |finding: &Finding| finding.is_mended || finding.object.contains("keys/");
        assert!(
            report.findings.iter().all(is_well),
            "{}: {what}: {:?}",
            self.told,
            report.findings
        );
    }

    /// Somebody without a store and without a memory verifies.
    fn assert_named(&self) {
        let memory = self.memory();
        let Ok(repository) = self.stranger(&memory) else {
            assert!(self.is_shut(), "{}: it does not open", self.told);
            return;
        };
        let report = self.verified(&repository);
        let named: BTreeSet<&String> = report
            .findings
            .iter()
            .flat_map(|finding| &finding.points)
            .collect();
        let mut hit = BTreeSet::new();
        let state = repository.state();
        for point in state.points() {
            match restored(&repository, point) {
                Ok(bytes) => assert!(
                    self.ward.expected.get(&point.id) == Some(&bytes),
                    "{}: wrong bytes",
                    self.told
                ),
                Err(_) => drop(hit.insert(&point.id)),
            }
        }
        assert_eq!(named, hit, "{}: {:?}", self.told, report.findings);
        let is_paired = self.hits != (true, true) && copy_of(&self.object).is_some();
        if is_paired {
            assert!(hit.is_empty() && state.points().count() == self.ward.expected.len());
            self.assert_clean(&memory, "with one half left");
            let now = memory.snapshot();
            for (text, bytes) in &self.ward.whole {
                assert!(now.get(text) == Some(bytes), "{}: {text}", self.told);
            }
        }
    }

    /// True if a listing and the journal show it, without anybody reading.
    fn is_seen_by(&self, cure: Cure) -> bool {
        match cure {
            Cure::Push | Cure::PushOfStranger => {
                let bytes = self.place.get(&self.object.to_string());
                let len = |place: &Place| place.get(&self.object.to_string()).map(|it| it.len());
                match self.object.kind() {
                    ObjectKind::Pack => len(&self.place) != len(&self.ward.whole),
                    _ => bytes.is_none(),
                }
            }
            _ => true,
        }
    }

    fn assert_cured(&self, cure: Cure) {
        let memory = self.memory();
        if !matches!(cure, Cure::Push | Cure::PushOfStranger) {
            let repository = self.stranger(&memory).expect("it opens");
            let report = self.verified(&repository);
            heal::note(&repository, &report, writer()).expect("noted");
        }
        let (_kept, folders) = if cure == Cure::PushOfStranger {
            (None, ClientFolders::default())
        } else {
            let (kept, folders) = remembered(self.ward);
            (Some(kept), folders)
        };
        let repository = self.ward.open(&memory, folders);
        let repository = repository.unwrap_or_else(|error| panic!("{}: {error}", self.told));
        let store = &self.ward.store;
        if cure == Cure::Repair {
            let all = request(PushSelection::All);
            let healed = heal::repair(&repository, Some(store), &all, &Unwatched);
            let healed = healed.unwrap_or_else(|error| panic!("{}: {error}", self.told));
            assert_eq!(healed.points, [""; 0], "{}", self.told);
        } else {
            let selection = if cure == Cure::PushOfNothing {
                let nodes = ["web@monday", "web@tuesday", "db@tuesday"];
                let find = |text: &&str| store.find_node(text).expect("there");
                PushSelection::Nodes(nodes.iter().map(find).collect())
            } else {
                PushSelection::All
            };
            let report = push(&repository, store, &request(selection), &Unwatched);
            let report = report.unwrap_or_else(|error| panic!("{}: {error}", self.told));
            assert_eq!(report.points_hit, [""; 0], "{}: {report:?}", self.told);
            assert_eq!(report.new_points > 0, cure != Cure::PushOfNothing);
        }
        if self.is_seen_by(cure) {
            self.assert_whole(&memory, &format!("{cure:?}"));
            self.assert_clean(&memory, &format!("{cure:?}"));
            self.assert_collected(&memory);
        }
    }

    /// A collection goes on, takes away what was damaged, and leaves the rest.
    fn assert_collected(&self, memory: &Memory) {
        let repository = self.stranger(memory).expect("it opens");
        let options = PruneOptions {
            max_unused_percent: 0,
            ..PruneOptions::default()
        };
        let report = prune(&repository, &options, writer(), &Unwatched);
        let report = report.unwrap_or_else(|error| panic!("{}: {error}", self.told));
        assert_eq!(report.damaged_packs, 0, "{}", self.told);
        self.assert_whole(memory, "collected");
        self.assert_clean(memory, "collected");
    }
}

#[test]
fn whatever_is_damaged_is_named_and_what_has_a_copy_comes_back() {
    for is_encrypted in [false, true] {
        let ward = Ward::new(is_encrypted);
        let cases = ward.cases();
        println!("{} damages", cases.len());
        cases.iter().for_each(Case::assert_named);
    }
}

#[test]
fn with_a_store_at_hand_everything_comes_back() {
    for is_encrypted in [false, true] {
        let ward = Ward::new(is_encrypted);
        for (nth, case) in ward.cases().iter().enumerate() {
            // A client that sees the place for the first time cannot know what both halves of the
            // newest record said; older ones are looked at below.
            if case.is_shut() {
                continue;
            }
            // One half of a pair is enough, whatever is done: one cure after the other takes it.
            let is_lost = case.hits.1 || copy_of(&case.object).is_none();
            let cures = CURES.iter().enumerate();
            cures
                .filter(|(of, _)| case.hits.0 && is_lost || of % CURES.len() == nth % CURES.len())
                .for_each(|(_, cure)| case.assert_cured(*cure));
        }
    }
}

/// A collection sees both halves of every pair: it puts a lost one back, and never deletes the one
/// that is left, nor what only a lost record needs.
#[test]
fn a_collection_puts_the_lost_half_of_a_pair_back() {
    let ward = Ward::new(true);
    let is_half = |case: &&Case<'_>| case.way == Way::Deleted && case.hits != (true, true);
    let cases = ward.cases();
    for case in cases.iter().filter(is_half) {
        let memory = case.memory();
        let Some(copy) = copy_of(&case.object) else {
            continue;
        };
        let repository = case.stranger(&memory).expect("it opens");
        prune(&repository, &PruneOptions::default(), writer(), &Unwatched).expect("a collection");
        let now = memory.snapshot();
        let (own, copied) = (now.get(&case.object.to_string()), now.get(&copy));
        assert_eq!(own, copied, "{}", case.told);
        case.assert_whole(&memory, "collected");
        case.assert_clean(&memory, "collected");
    }
}

/// A record that is lost in both places, on which others build, comes out of the cache of a client
/// that has read it; without, the person has to say that it goes on without.
#[test]
fn a_record_that_is_lost_twice_comes_from_who_has_read_it_or_is_written_off() {
    let ward = Ward::new(true);
    let older = ward.whole.keys().find(|text| text.starts_with("journal/"));
    let object = ObjectName::parse(older.expect("two pushes")).expect("a record");
    let case = ward
        .case(object, Way::Deleted, (true, true))
        .expect("a case");
    let memory = case.memory();
    let repository = ward.open(&memory, ward.client.client_folders());
    drop(repository.expect("it was in the cache"));
    assert_eq!(memory.snapshot(), ward.whole);

    let memory = case.memory();
    case.stranger(&memory).err().expect("a record is missed");
    let repository = Repository::open(
        Arc::new(memory.clone()),
        ward.client.opener.as_ref(),
        ClientFolders::default(),
        Rollback::Allowed,
    );
    let all = request(PushSelection::All);
    let report = push(
        &repository.expect("as allowed"),
        &ward.store,
        &all,
        &Unwatched,
    );
    report.expect("a push");
    let found = ward
        .points(&memory.snapshot())
        .expect("nothing is missed any more");
    let nodes = ward.store.tree().all_nodes().count();
    assert!(found.len() >= nodes, "{} of {nodes}", found.len());
    case.assert_clean(&memory, "written off");
}

/// What the client of the ward remembers, for one test to go on with.
fn remembered(ward: &Ward) -> (TempDir, ClientFolders) {
    let folders = tempfile::tempdir().expect("a folder");
    copy_folder(ward.client.folders.path(), folders.path());
    let client = ClientFolders {
        cache: Some(folders.path().join("cache")),
        state: Some(folders.path().join("state")),
    };
    (folders, client)
}

fn pushed(ward: &Ward, memory: &Memory, folders: &ClientFolders) -> PushReport {
    let repository = ward.open(memory, folders.clone()).expect("it opens");
    let all = request(PushSelection::All);
    push(&repository, &ward.store, &all, &Unwatched).expect("a push")
}

/// What a store does not have stays lost, is told by every push that needs it, and keeps nobody
/// from anything else.
#[test]
fn a_push_tells_what_stays_lost_and_does_not_build_on_it() {
    let ward = Ward::new(false);
    let packs = ward.whole.keys().filter(|text| text.starts_with("packs/"));
    for pack in packs {
        let memory = Memory::new();
        let mut place = ward.whole.clone();
        place.remove(pack);
        memory.replace_all(place);
        // Another host's store, with other disks.
        let (_dir, other) = new_store();
        write(&other, "mine", 9, "monday");
        let stranger = ward
            .open(&memory, ClientFolders::default())
            .expect("it opens");
        let all = request(PushSelection::All);
        let report = push(&stranger, &other, &all, &Unwatched).expect("a push");
        let healed: HealReport = report.healed.expect("a listing shows it");
        assert!(
            !healed.points.is_empty() && report.points_hit.is_empty(),
            "{healed:?}"
        );
        // It gave what it has: asked again, it asks for nothing more.
        let stranger = ward
            .open(&memory, ClientFolders::default())
            .expect("it opens");
        let again = push(&stranger, &other, &all, &Unwatched).expect("a push");
        assert!(again.healed.is_none() && again.new_points == 0, "{again:?}");
        let options = PruneOptions::default();
        prune(&stranger, &options, writer(), &Unwatched).expect_err("chunks are lost");
        // The store that has them.
        let (_folders, folders) = remembered(&ward);
        let report = pushed(&ward, &memory, &folders);
        let healed = report.healed.expect("it is due");
        assert!(healed.chunks > 0 && healed.points.is_empty(), "{healed:?}");
        let found = ward.points(&memory.snapshot()).expect("whole");
        assert!(
            ward.expected
                .iter()
                .all(|(id, bytes)| found.get(id) == Some(bytes))
        );
    }
}

/// The note on a flipped bit costs no unchanged push anything once the damage is mended, and goes
/// with the damaged pack.
#[test]
fn a_mended_pack_is_collected_and_its_note_with_it() {
    let ward = Ward::new(true);
    let pack = ward.whole.keys().find(|text| text.starts_with("packs/"));
    let object = ObjectName::parse(pack.expect("a pack")).expect("a pack");
    let case = ward
        .case(object, Way::Flipped, (true, false))
        .expect("a case");
    let memory = case.memory();
    let stranger = case.stranger(&memory).expect("it opens");
    let report = case.verified(&stranger);
    assert_eq!(heal::note(&stranger, &report, writer()).expect("noted"), 1);
    assert_eq!(heal::note(&stranger, &report, writer()).expect("known"), 0);
    let (_folders, folders) = remembered(&ward);
    pushed(&ward, &memory, &folders);
    let place = Arc::new(memory.clone());
    let opener = ward.client.opener.as_ref();
    let repository = Repository::open(place.clone(), opener, folders, Rollback::Refused);
    let all = request(PushSelection::All);
    let again = push(
        &repository.expect("it opens"),
        &ward.store,
        &all,
        &Unwatched,
    );
    assert!(again.expect("a push").healed.is_none());
    let mut log = place.take_log();
    log.retain(|(_, name)| !name.starts_with("keys/"));
    assert!(log.len() <= 2, "{log:?}");
    assert!(log.iter().all(|(request, _)| *request != Request::Put));
    case.assert_collected(&memory);
    assert!(!memory.snapshot().contains_key(&object.to_string()));
    let stranger = case.stranger(&memory).expect("it opens");
    prune(&stranger, &PruneOptions::default(), writer(), &Unwatched).expect("a collection");
    let stranger = case.stranger(&memory).expect("it opens");
    assert!(stranger.state().damage_to(&object).is_none());
}
