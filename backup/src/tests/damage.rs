//! Tests of damage of every kind to every kind of object: no wrong byte comes out, damage is named,
//! verification reports clean only what restores, and a store that was to receive something stays
//! as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use vellum_core::identity::ContentId;
use vellum_store::{CheckOptions, Store, Unwatched};

use super::grower::{Grower, contents, name, new_store, shape};
use super::streams::Sink;
use super::trees::copy_folder;
use super::{Client, assert_same, request};
use crate::error::BackupError;
use crate::forget::{ForgetWish, forget};
use crate::format::RepositoryFile;
use crate::objects::memory::{Effect, Fault, Memory};
use crate::objects::twice::{Twice, copy_of};
use crate::objects::{ObjectErrorKind, ObjectName, Objects};
use crate::prune::{PruneOptions, prune};
use crate::pull::{PullRequest, pull};
use crate::push::{PushReport, PushSelection, push};
use crate::reader::Reader;
use crate::record::Point;
use crate::repository::{ClientFolders, Repository, Rollback};
use crate::restore::{RestoreTarget, restore};
use crate::seal::{KeyFile, Opener, PasswordCost, create_key, unlock_any};
use crate::testing::pusher::writer;
use crate::testing::seed;
use crate::verify::{VerifyOptions, VerifyReport, verify};

/// Objects by name.
pub(super) type Place = BTreeMap<String, Arc<[u8]>>;

const FOLDERS: [&str; 7] = [
    "packs/",
    "index/",
    "maps/",
    "journal/",
    "keys/",
    "vellum.repository",
    "copies/",
];
const TREES: u64 = 2;
const HARMS_EACH: usize = 45;

/// A repository with a life behind it, and what it must show.
struct Sample {
    client: Client,
    /// Another key that opens it.
    second: Option<Opener>,
    whole: Place,
    /// The place before the last collection.
    older: Place,
    expected: BTreeMap<String, Vec<u8>>,
    grower: Grower,
}

/// Trees that grew, were pushed, thinned out and collected with all packs written anew, and pushed
/// once more.
fn sample(seed: u64, is_encrypted: bool) -> Sample {
    let (mut grower, client) = (Grower::new(seed), Client::new(is_encrypted));
    for _ in 0..3 {
        (0..5).for_each(|_| grower.step());
        client.push(&grower.store).expect("a push");
    }
    let older = client.place.snapshot();
    let repository = client.open(client.objects()).expect("it opens");
    let state = repository.state();
    let goes = state
        .points()
        .filter(|point| !point.pinned)
        .map(|point| point.id.clone())
        .step_by(2)
        .collect();
    forget(&repository, &ForgetWish::Points(goes), writer()).expect("nothing is pinned");
    let options = PruneOptions {
        max_unused_percent: 0,
        ..PruneOptions::default()
    };
    prune(&repository, &options, writer(), &Unwatched).expect("a collection");
    grower.write();
    client.push(&grower.store).expect("a push");
    let second = client.opener.as_ref().map(|first| add_key(&client, first));
    let whole = client.place.snapshot();
    let mut sample = Sample {
        client,
        second,
        whole,
        older,
        expected: BTreeMap::new(),
        grower,
    };
    sample.expected =
        Sample::restored(&sample.whole, sample.client.opener.as_ref()).expect("it opens");
    sample
}

pub(super) fn add_key(client: &Client, first: &Opener) -> Opener {
    let file = RepositoryFile::decode(&client.place.get("vellum.repository").expect("it is there"))
        .expect("it is whole");
    let opened = unlock_any(&*client.place, &file, first).expect("the first key opens");
    let secrets = opened.secrets;
    let second = Opener::KeyFile(KeyFile::generate().expect("random bytes"));
    let key = create_key(
        &secrets,
        &file,
        &second,
        "second",
        0,
        PasswordCost::default(),
    )
    .expect("a key");
    Twice::new(client.objects())
        .put(&format!("keys/{}", key.id), &key.bytes)
        .expect("a put");
    second
}

/// The content of a point, through the engine's own restore.
pub(super) fn restored(repository: &Repository, point: &Point) -> Result<Vec<u8>, BackupError> {
    let (reader, sink) = (Reader::new(repository), Sink::default());
    let content = ContentId::parse(&point.content).expect("a content");
    restore(
        &reader,
        content,
        RestoreTarget::Stream(Box::new(sink.clone())),
        &Unwatched,
    )?;
    Ok(std::mem::take(
        &mut *sink.0.lock().expect("nobody panicked"),
    ))
}

/// The same, by the way that restores a file.
fn restored_file(
    repository: &Repository,
    point: &Point,
    folder: &Path,
) -> Result<Vec<u8>, BackupError> {
    let (reader, path) = (Reader::new(repository), folder.join("out.raw"));
    let content = ContentId::parse(&point.content).expect("a content");
    let done = restore(
        &reader,
        content,
        RestoreTarget::File {
            path: path.clone(),
            overwrite: true,
        },
        &Unwatched,
    );
    let left: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(
        left.len(),
        usize::from(done.is_ok()),
        "something half done is left: {left:?}"
    );
    done?;
    let bytes = std::fs::read(&path).expect("it was restored");
    std::fs::remove_file(path).expect("it is there");
    Ok(bytes)
}

impl Sample {
    /// Opens what is at `place` as somebody who has never seen it, or (`folders`) as somebody who
    /// has.
    fn open(
        place: &Place,
        opener: Option<&Opener>,
        folders: ClientFolders,
    ) -> Result<Repository, BackupError> {
        Repository::open(
            Arc::new(Self::place(place)),
            opener,
            folders,
            Rollback::Refused,
        )
    }

    fn place(objects: &Place) -> Memory {
        let memory = Memory::new();
        memory.replace_all(objects.clone());
        memory
    }

    /// The content of every point, as read by a client without memory of the place.
    fn restored(
        place: &Place,
        opener: Option<&Opener>,
    ) -> Result<BTreeMap<String, Vec<u8>>, BackupError> {
        let repository = Self::open(place, opener, ClientFolders::default())?;
        repository
            .state()
            .points()
            .map(|point| Ok((point.id.clone(), restored(&repository, point)?)))
            .collect()
    }

    /// One change of one object, or of two, half the time of its copy as well, and the names of
    /// what was changed.
    fn harm(&self, random: &mut fastrand::Rng) -> Harm {
        let folder = FOLDERS[random.usize(..FOLDERS.len())];
        let names: Vec<&String> = self
            .whole
            .keys()
            .filter(|name| name.starts_with(folder))
            .collect();
        // A plain repository has no keys.
        let Some(name) = random.choice(&names).map(|name| (*name).clone()) else {
            return self.harm(random);
        };
        let (mut place, bytes) = (self.whole.clone(), &self.whole[&name]);
        let (mut names, mut changed) = (vec![name.clone()], bytes.to_vec());
        let kind = random
            .choice([
                "flip",
                "truncate",
                "extend",
                "exchange",
                "older",
                "delete",
                "duplicate",
            ])
            .expect("one of them");
        match kind {
            "flip" => changed[random.usize(..bytes.len())] ^= 1 << random.u8(..8),
            "truncate" => changed.truncate(random.usize(..bytes.len())),
            "extend" => changed.extend((0..random.usize(1..100)).map(|_| random.u8(..))),
            "exchange" => {
                let other = self.another_object(&name, folder, random);
                changed = self.whole[other].to_vec();
                place.insert(other.clone(), bytes.clone());
                names.push(other.clone());
            }
            "older" => {
                let older: Vec<_> = self
                    .older
                    .iter()
                    .filter(|(other, _)| **other != name && other.starts_with(folder))
                    .collect();
                let Some((_, older)) = random.choice(older) else {
                    return self.harm(random);
                };
                changed = older.to_vec();
            }
            _ => {}
        }
        let copy = ObjectName::parse(&name)
            .and_then(|name| copy_of(&name))
            .filter(|_| random.bool());
        match kind {
            "delete" => [Some(&name), copy.as_ref()]
                .into_iter()
                .flatten()
                .for_each(|name| drop(place.remove(name))),
            "duplicate" => {
                let other = name_beside(&name, folder, random);
                place.insert(other.clone(), bytes.clone());
                names.push(other);
            }
            _ => [Some(name), copy]
                .into_iter()
                .flatten()
                .for_each(|name| drop(place.insert(name, changed.clone().into()))),
        }
        Harm { kind, names, place }
    }

    /// The name of another object, of the same folder if there is one.
    fn another_object(&self, name: &str, folder: &str, random: &mut fastrand::Rng) -> &String {
        let others = || self.whole.keys().filter(|other| *other != name);
        let near: Vec<&String> = others().filter(|other| other.starts_with(folder)).collect();
        random
            .choice(near)
            .or_else(|| others().next())
            .expect("another object")
    }
}

/// A new name in the folder of the object `name`.
fn name_beside(name: &str, folder: &str, random: &mut fastrand::Rng) -> String {
    let parent = name.rfind('/').map_or("", |at| &name[..=at]);
    let hash = blake3::hash(&random.u64(..).to_le_bytes()).to_hex();
    if folder == "journal/" {
        format!("{parent}00000000000000ff-{hash}")
    } else {
        format!("{parent}{hash}")
    }
}

struct Harm {
    kind: &'static str,
    names: Vec<String>,
    place: Place,
}

impl Harm {
    fn is_of(&self, folder: &str) -> bool {
        self.names.iter().any(|name| name.starts_with(folder))
    }

    /// True if a text names the object that is hit.
    fn is_named_in(&self, text: &str) -> bool {
        self.names.iter().any(|name| text.contains(name.as_str()))
    }

    /// True if a client that sees the place for the first time cannot know that it was changed: a
    /// record that no other builds on, and a key, may never have been there; another identity in
    /// the repository's file is that of another repository.
    fn is_hidden(&self) -> bool {
        self.kind == "delete" && (self.is_of("journal/") || self.is_of("keys/"))
            || self.is_of("vellum.repository")
    }

    fn told(&self) -> String {
        format!("{} of {:?}", self.kind, self.names)
    }
}

#[test]
fn clean_means_that_every_point_restores_and_what_does_not_is_named() {
    let seed = seed();
    let (mut clean, mut found, mut shut) = (0, 0, 0);
    for tree in 0..TREES {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(tree));
        let sample = sample(random.u64(..), tree % 2 == 0);
        for _ in 0..HARMS_EACH {
            let harm = sample.harm(&mut random);
            for knows_it in [false, true] {
                // Somebody who has pushed has copies of records and indexes, which must not hide
                // what is wrong with the place.
                let folders = tempfile::tempdir().expect("a folder");
                if knows_it {
                    copy_folder(sample.client.folders.path(), folders.path());
                }
                let client_folders = ClientFolders {
                    cache: Some(folders.path().join("cache")),
                    state: Some(folders.path().join("state")),
                };
                let memory = Sample::place(&harm.place);
                let opened = Repository::open(
                    Arc::new(memory.clone()),
                    sample.client.opener.as_ref(),
                    client_folders,
                    Rollback::Refused,
                );
                let repository = match opened {
                    Ok(repository) => repository,
                    Err(error) => {
                        assert!(
                            harm.is_hidden() && !knows_it || tells(&error, &harm),
                            "{}: {error}",
                            harm.told()
                        );
                        shut += 1;
                        continue;
                    }
                };
                verify(&repository, &VerifyOptions::default(), &Unwatched)
                    .unwrap_or_else(|error| panic!("{}: {error}", harm.told()));
                let options = VerifyOptions {
                    read_data: true,
                    ..VerifyOptions::default()
                };
                let report = verify(&repository, &options, &Unwatched)
                    .unwrap_or_else(|error| panic!("{}: {error}", harm.told()));
                if report.findings.is_empty() {
                    // Somebody who knew it may have put it back.
                    check_clean(&sample, &harm, &memory.snapshot(), knows_it);
                    clean += 1;
                } else {
                    check_found(&sample, &harm, &report);
                    found += 1;
                }
            }
        }
    }
    println!("{clean} clean, {found} with findings, {shut} refused");
    assert!(
        clean > 0 && found > 0 && shut > 0,
        "{clean} clean, {found} with findings, {shut} refused"
    );
}

/// Damage to any one object that leads to chunks takes nothing with it: a new client reads
/// everything, and is told what to see to.
#[test]
fn one_object_that_rots_and_is_no_pack_takes_nothing_with_it() {
    let sample = sample(seed(), true);
    let lead = sample
        .whole
        .keys()
        .filter(|name| !name.starts_with("packs/") && !name.starts_with("sessions/"));
    let mut kinds = BTreeSet::new();
    for name in lead {
        let mut place = sample.whole.clone();
        place.insert(name.clone(), b"\0rotten"[..].into());
        assert_eq!(
            Sample::restored(&place, sample.client.opener.as_ref()).expect(name),
            sample.expected,
            "{name}"
        );
        let memory = Sample::place(&place);
        let open = || {
            Repository::open(
                Arc::new(memory.clone()),
                sample.client.opener.as_ref(),
                ClientFolders::default(),
                Rollback::Refused,
            )
        };
        for read_data in [true, false] {
            memory.replace_all(place.clone());
            let options = VerifyOptions {
                read_data,
                subset: None,
            };
            let report =
                verify(&open().expect(name), &options, &Unwatched).expect("a verification");
            let [finding] = &report.findings[..] else {
                panic!("{name}: {:?}", report.findings)
            };
            assert!(
                finding.object == *name && finding.points.is_empty() && finding.is_mended,
                "{name}: {finding:?}"
            );
        }
        let report = verify(&open().expect(name), &VerifyOptions::default(), &Unwatched)
            .expect("a verification");
        assert!(
            report.findings.is_empty() && memory.snapshot() == sample.whole,
            "{name}: {:?}",
            report.findings
        );
        kinds.insert(
            name.rsplit_once('/')
                .map_or(name.as_str(), |(folder, _)| folder),
        );
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

/// An error that says which object is hit, or that this is not what was there before.
fn tells(error: &BackupError, harm: &Harm) -> bool {
    let other = matches!(
        error,
        BackupError::NoRepository { .. } | BackupError::Exchanged { .. } | BackupError::Key { .. }
    );
    let is_other = harm.is_of("vellum.repository") && other;
    let is_locked_out =
        harm.is_of("keys/") && harm.kind == "delete" && matches!(error, BackupError::Key { .. });
    is_other || is_locked_out || harm.is_named_in(&error.to_string())
}

/// Asserts that all points restore, for everybody who has a key that was not touched or was said to
/// be clean.
fn check_clean(sample: &Sample, harm: &Harm, place: &Place, knew_it: bool) {
    let openers = match &sample.second {
        None => vec![None],
        Some(_) if harm.kind == "delete" => vec![sample.client.opener.as_ref()],
        Some(second) => vec![sample.client.opener.as_ref(), Some(second)],
    };
    for opener in openers {
        let restored = Sample::restored(place, opener);
        let restored = restored.unwrap_or_else(|error| {
            panic!("{} is clean, and does not restore: {error}", harm.told())
        });
        for (id, bytes) in &restored {
            let Some(expected) = sample.expected.get(id) else {
                assert!(harm.is_hidden(), "{} is clean, and shows {id}", harm.told());
                continue;
            };
            assert_same(bytes, expected, &format!("{} is clean: {id}", harm.told()));
        }
        let is_whole = restored.keys().eq(sample.expected.keys());
        assert!(
            is_whole || harm.is_hidden() && !knew_it,
            "{} is clean, and points are gone",
            harm.told()
        );
    }
}

/// Asserts that the changed object is named, and each point that does not restore; and that the
/// others are as they were.
fn check_found(sample: &Sample, harm: &Harm, report: &VerifyReport) {
    let findings = &report.findings;
    assert!(
        harm.is_hidden()
            || findings
                .iter()
                .any(|finding| harm.is_named_in(&finding.object)),
        "{}: {findings:?}",
        harm.told()
    );
    let hit: BTreeSet<&String> = findings
        .iter()
        .flat_map(|finding| &finding.points)
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let Ok(repository) = Sample::open(
        &harm.place,
        sample.client.opener.as_ref(),
        ClientFolders::default(),
    ) else {
        return;
    };
    for point in repository.state().points() {
        for restored in [
            restored(&repository, point),
            restored_file(&repository, point, folder.path()),
        ] {
            match (restored, sample.expected.get(&point.id)) {
                (Ok(bytes), Some(expected)) => {
                    assert_same(&bytes, expected, &format!("{}: {}", harm.told(), point.id));
                }
                (Ok(_), None) => assert!(harm.is_hidden(), "{} shows {point:?}", harm.told()),
                (Err(error), _) => {
                    assert!(
                        harm.is_hidden() || harm.is_named_in(&error.to_string()),
                        "{}: {error}",
                        harm.told()
                    );
                    assert!(
                        hit.contains(&point.id),
                        "{}: {point:?} is hit and not named: {findings:?}",
                        harm.told()
                    );
                }
            }
        }
    }
}

/// A store with an image of its own.
fn store_with_own(random: &mut fastrand::Rng) -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store();
    let image = store
        .create_image(&name("mine"), 1 << 20)
        .expect("an image")
        .image_id();
    let mut bytes = vec![0; 1 << 19];
    random.fill(&mut bytes);
    store
        .open_live(image)
        .and_then(|live| live.write_at(&bytes, 700).and_then(|()| live.flush()))
        .expect("write");
    (dir, store)
}

/// True if an error is of an object with data. Then it must name the points that are hit.
fn tells_points(sample: &Sample, harm: &Harm, error: &BackupError) -> bool {
    let BackupError::Damaged { object, points, .. } = error else {
        return false;
    };
    if !["packs/", "maps/"]
        .iter()
        .any(|folder| object.starts_with(folder))
    {
        return false;
    }
    let names_points =
        !points.is_empty() && points.iter().all(|id| sample.expected.contains_key(id));
    assert!(
        harm.is_hidden() || names_points,
        "{}: {object} hits {points:?}",
        harm.told()
    );
    true
}

/// Pushes to a damaged place that refuses or breaks one request.
fn push_to_failing(
    sample: &Sample,
    harm: &Harm,
    random: &mut fastrand::Rng,
) -> Result<PushReport, BackupError> {
    let place = Sample::place(&harm.place);
    let effect = random
        .choice([
            Effect::Dead,
            Effect::Flipped,
            Effect::Refused(ObjectErrorKind::Full),
        ])
        .expect("one of them");
    place.fail(Fault {
        request: None,
        after: random.u64(3..16),
        effect,
    });
    let repository = Repository::open(
        Arc::new(place),
        sample.client.opener.as_ref(),
        ClientFolders::default(),
        Rollback::Refused,
    )?;
    push(
        &repository,
        &sample.grower.store,
        &request(PushSelection::All),
        &Unwatched,
    )
}

/// Rounds of pulls and pushes at least: about one in nine has a pull that fails, and one in two a
/// push.
const ROUNDS_MIN: u64 = 60;
/// Rounds at most until each kind of failure was met: chance alone needs them once in a million
/// runs.
const ROUNDS_MAX: u64 = 1_000;

/// Pulls from a damaged place, and pushes to it: what they cannot do leaves the store as it was.
#[test]
fn a_store_is_as_it_was_after_what_failed() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut sample = sample(random.u64(..), random.bool());
    let own = |store: &Store| (contents(store), shape(store));
    let (mut dir, mut store) = store_with_own(&mut random);
    let mut pulled_to = own(&store);
    let (mut failed_pulls, mut told_pulls, mut failed_pushes) = (0_u64, 0, 0);
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && told_pulls > 0 && failed_pushes > 0 {
            break;
        }
        let harm = sample.harm(&mut random);
        let opened = Sample::open(
            &harm.place,
            sample.client.opener.as_ref(),
            ClientFolders::default(),
        );
        let Ok(repository) = opened else { continue };
        let reader = Reader::new(&repository);
        let all = PullRequest::of(&reader, |_| true, true, str::to_owned).expect("names");
        if let Err(error) = pull(&reader, &store, &all, &Unwatched) {
            told_pulls += u64::from(tells_points(&sample, &harm, &error));
            assert!(
                own(&store) == pulled_to,
                "a pull with {} changed the store",
                harm.told()
            );
            failed_pulls += 1;
        } else {
            (dir, store) = store_with_own(&mut random);
            pulled_to = own(&store);
        }
        // A push cannot miss what it does not read: the place refuses something as well.
        sample.grower.write();
        let pushed_from = own(&sample.grower.store);
        let pushed = push_to_failing(&sample, &harm, &mut random);
        failed_pushes += u64::from(pushed.is_err());
        assert!(
            own(&sample.grower.store) == pushed_from,
            "a push with {} changed the store",
            harm.told()
        );
    }
    let report = store
        .check(
            CheckOptions {
                read_data: true,
                ..CheckOptions::default()
            },
            &Unwatched,
        )
        .expect("a check");
    assert!(report.findings.is_empty(), "{report:?}");
    println!(
        "{failed_pulls} pulls and {failed_pushes} pushes failed in {}",
        dir.path().display()
    );
    assert!(failed_pulls > 0 && told_pulls > 0 && failed_pushes > 0);
}

/// Heads and tables of packs and maps are read by whoever has lost an index, and by strangers:
/// nobody needs them today.
#[test]
fn a_flip_where_no_frame_and_no_map_stands_is_found() {
    let (grower, client) = (Grower::new(seed()), Client::new(true));
    client.push(&grower.store).expect("a push");
    let whole = client.place.snapshot();
    for folder in ["packs/", "maps/"] {
        let name = whole
            .keys()
            .find(|name| name.starts_with(folder))
            .expect("it was put");
        let (mut place, mut bytes) = (whole.clone(), whole[name].to_vec());
        bytes[20] ^= 1;
        place.insert(name.clone(), bytes.into());
        let repository = Sample::open(&place, client.opener.as_ref(), ClientFolders::default())
            .expect("it opens");
        let report = verify(
            &repository,
            &VerifyOptions {
                read_data: true,
                ..VerifyOptions::default()
            },
            &Unwatched,
        )
        .expect("a verification");
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.object == *name),
            "{name}: {:?}",
            report.findings
        );
    }
}

/// A name that sorts elsewhere would say that its writer had seen more than it had.
#[test]
fn a_record_under_another_counter_is_refused() {
    let (grower, client) = (Grower::new(seed()), Client::new(false));
    client.push(&grower.store).expect("a push");
    let mut place = client.place.snapshot();
    let name = place
        .keys()
        .find(|name| name.starts_with("journal/"))
        .expect("it was put")
        .clone();
    let (_, id) = name.split_once('-').expect("a counter and an ID");
    let other = format!("journal/00000000000000ff-{id}");
    place.insert(other.clone(), place[&name].clone());
    let refused = Sample::open(&place, None, ClientFolders::default())
        .err()
        .expect("it is refused");
    assert!(refused.to_string().contains(&other), "{refused}");
}
