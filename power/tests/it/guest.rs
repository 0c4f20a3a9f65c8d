//! Guests write to one disk, and power is lost: every sector then holds a value that the replies
//! allow.
//!
//! Several guests write, zero and flush at random, and mark when they ask and when they are
//! answered; a neighbour imports, deletes and collects meanwhile, so that the database's logs and
//! files change under them. In every second run the guests are threads at the disk itself, in the
//! others clients of an NBD server, each with a connection of its own. Every write fills its
//! sectors with its own number, so a sector tells which write it shows. The rule, for each sector:
//!
//! - a write that was answered before an answered flush was asked for is *durable*, and so is one
//!   that was to be forced to the disk (FUA) once it is answered;
//! - the sector may show any write that had been asked for, unless it was answered before a durable
//!   one of that sector was asked for: that one came later, and is not lost;
//! - it may show what was there at the beginning unless one of its writes is durable.
//!
//! Writes that overlap in time have no order, and either may stay. The rule does not know how the
//! store works; it would hold for a disk with a cache just as well.
//!
//! `VELLUM_TEST_SEED` repeats a run's decisions but not its threads' luck; `VELLUM_POWER_GUESTS`
//! and `VELLUM_POWER_GUEST_CRASHES` make it longer: so many runs, so many crashes in each.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use vellum_power::disk::{Disk, Tree};
use vellum_serve::nbd::{NbdServer, ServerOptions};
use vellum_store::{
    Access, CollectOptions, Compression, ImageInput, ImportRequest, ImportTarget, LiveDisk, Store,
    StoreError, StoreParameters, Unwatched,
};

use super::client::{Client, FLUSH, FUA, Form, WRITE, WRITE_ZEROES};

use super::content::Content;
use super::drive::{image, input, name, read};
use super::recording::{self, Recording, mark, number};
use super::remains::{Loss, Remains, fail};

const SECTOR_LEN: usize = 512;
const SECTORS: u64 = 1024;
/// The sectors that get most writes, so that they meet.
const HOT_SECTORS: u64 = 64;
const WRITE_SECTORS_MAX: u64 = 40;
const OPERATIONS: u64 = 40;
const DISK: &str = "disk";
const WORKER: &str = "guest::worker";

#[test]
fn every_sector_shows_a_write_that_the_replies_allow() {
    let seed = number("VELLUM_TEST_SEED", fastrand::u64(1..1 << 32));
    println!("power: VELLUM_TEST_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let (runs, crashes) = (
        number("VELLUM_POWER_GUESTS", 6),
        number("VELLUM_POWER_GUEST_CRASHES", 25),
    );
    let (mut start, mut total, mut refused, mut shown) = (Tree::new(), 0, 0, Shown::default());
    for run in 0..runs {
        let seed = chance.u64(..1 << 32);
        let recording = Recording::of(WORKER, seed, std::mem::take(&mut start));
        let replies = Replies::of(&recording);
        let before = Remains::open(&recording.start)
            .map_or_else(|error| fail(&recording.start, &error), content_of);
        let calls = recording.events.len();
        let mut cuts: Vec<usize> = (0..crashes)
            .map(|_| recording.cut(&mut chance, replies.ready))
            .collect();
        cuts.sort_unstable();
        recording.walk(|at, disk: &Disk| {
            for _ in cuts.iter().filter(|cut| **cut == at) {
                let loss = Loss::random(&mut chance);
                let tree = disk.crash(loss.names, loss.writes, &mut chance);
                let refused_before = refused;
                let content = Remains::of_crash(disk, &tree, &mut refused).map(content_of);
                let verified =
                    content.and_then(|content| replies.verify(&content, &before, at, &mut shown));
                let place = format!("run {run} of seed {seed}, call {at} of {calls}, {loss:?}");
                verified.unwrap_or_else(|error| fail(&tree, &format!("{place}: {error}")));
                total += 1;
                if run % 3 == 2 {
                    start = Tree::new();
                } else if refused == refused_before {
                    start = tree;
                }
            }
        });
    }
    println!(
        "power: {total} crashes in {runs} runs, 0 violations, {refused} refused for a torn manifest; {shown:?}"
    );
    assert!(
        shown.durable > 0 && shown.newer > 0,
        "a run in which nothing was durable, or nothing at risk, shows nothing"
    );
}

/// The values of the sectors that were written at all.
#[derive(Debug, Default)]
struct Shown {
    /// A write that an answered flush had made durable.
    durable: u64,
    /// A write that no flush covered.
    newer: u64,
    /// The content at the beginning.
    old: u64,
}

/// The content of the disk, all zero if there is no store yet.
fn content_of(remains: Option<Remains>) -> Vec<u8> {
    remains.map_or_else(
        || vec![0; SECTORS as usize * SECTOR_LEN],
        |remains| {
            read(&remains.store, DISK)
                .expect("a checked store can be read, and the disk was acknowledged")
        },
    )
}

/// The requests of the guests, and their answers: places in the log.
#[derive(Default)]
struct Replies {
    /// The place from which on the disk is there.
    ready: usize,
    writes: BTreeMap<u64, Write>,
    /// The places at which each flush was asked for and answered.
    flushes: BTreeMap<u64, (usize, usize)>,
}

struct Write {
    first: u64,
    count: u64,
    is_zero: bool,
    is_forced: bool,
    asked: usize,
    /// `usize::MAX` if never.
    answered: usize,
}

impl Replies {
    fn of(recording: &Recording) -> Self {
        let mut replies = Self::default();
        for (at, text) in recording.marks() {
            let mut words = text.split(' ');
            let what = words.next().expect("a mark says what it is");
            let numbers: Vec<u64> = words
                .map(|word| word.parse().expect("marks hold numbers"))
                .collect();
            match (what, numbers.as_slice()) {
                ("ready", []) => replies.ready = at,
                ("write" | "zero", [id, first, count, force]) => {
                    let (is_zero, is_forced) = (what == "zero", *force == 1);
                    let write = Write {
                        first: *first,
                        count: *count,
                        is_zero,
                        is_forced,
                        asked: at,
                        answered: usize::MAX,
                    };
                    replies.writes.insert(*id, write);
                }
                ("written", [id]) => {
                    replies
                        .writes
                        .get_mut(id)
                        .expect("it was asked for")
                        .answered = at;
                }
                ("flush", [id]) => drop(replies.flushes.insert(*id, (at, usize::MAX))),
                ("flushed", [id]) => replies.flushes.get_mut(id).expect("it was asked for").1 = at,
                other => panic!("no mark of a guest: {other:?}"),
            }
        }
        replies
    }

    /// Checks that a disk that held `before` may show `content` if call `at` was never made.
    fn verify(
        &self,
        content: &[u8],
        before: &[u8],
        at: usize,
        shown: &mut Shown,
    ) -> Result<(), String> {
        let answered_flushes = self.flushes.values().filter(|(_, answered)| *answered < at);
        let durable_before = answered_flushes.map(|(asked, _)| *asked).max().unwrap_or(0);
        for (sector, (seen, old)) in
            (0..).zip(content.chunks(SECTOR_LEN).zip(before.chunks(SECTOR_LEN)))
        {
            let touches = |write: &Write| {
                write.asked < at && (write.first..write.first + write.count).contains(&sector)
            };
            let writes: Vec<(u64, &Write)> = self
                .writes
                .iter()
                .filter(|(_, w)| touches(w))
                .map(|(id, write)| (*id, write))
                .collect();
            let is_durable =
                |write: &Write| write.answered < if write.is_forced { at } else { durable_before };
            let last_asked = writes
                .iter()
                .filter(|(_, write)| is_durable(write))
                .map(|(_, write)| write.asked)
                .max();
            let is_lost = |write: &Write| last_asked.is_some_and(|asked| write.answered < asked);
            let found = writes
                .iter()
                .find(|(id, write)| !is_lost(write) && value(*id, write.is_zero, sector) == seen);
            match found {
                Some((_, write)) if is_durable(write) => shown.durable += 1,
                Some(_) => shown.newer += 1,
                None if last_asked.is_none() && seen == old => {
                    shown.old += u64::from(!writes.is_empty());
                }
                None => {
                    let word = u64::from_le_bytes(seen[..8].try_into().expect("eight bytes"));
                    let writes: Vec<_> = writes
                        .iter()
                        .map(|(id, write)| (id, write.asked, write.answered, is_durable(write)))
                        .collect();
                    return Err(format!(
                        "sector {sector} shows {word}, which its writes (asked, answered, durable) forbid: {writes:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The number of a write, which no other has, nor those of another run.
fn id_of(run: u64, guest: u64, operation: u64) -> u64 {
    (run << 24) | (guest << 16) | operation
}

/// The bytes that write `id` puts into `sector`. Every second write puts the same bytes into all
/// its sectors, so that equal chunks are found.
fn value(id: u64, is_zero: bool, sector: u64) -> Vec<u8> {
    if is_zero {
        return vec![0; SECTOR_LEN];
    }
    let place = if id.is_multiple_of(2) { 0 } else { sector };
    [id.to_le_bytes(), place.to_le_bytes()]
        .concat()
        .repeat(SECTOR_LEN / 16)
}

/// The process that is recorded. Not a test of its own.
#[test]
#[ignore = "started by the tests of this file"]
fn worker() {
    let Some(orders) = recording::orders() else {
        return;
    };
    let dir = orders.root.join("store");
    if !dir.join("vellum.store").exists() {
        let parameters = StoreParameters {
            compression: Compression::Lz4,
            ..StoreParameters::DEFAULT
        };
        Store::init_dir(&dir, parameters).expect("an empty folder becomes a store");
    }
    let store = Store::open_dir(&dir, Access::ReadWrite, "test").expect("a whole store opens");
    if store.find_node(DISK).is_err() {
        store
            .create_image(&name(DISK), SECTORS * SECTOR_LEN as u64)
            .expect("there is room for a disk");
    }
    let guests = fastrand::Rng::with_seed(orders.seed).u64(1..=4);
    if orders.seed.is_multiple_of(2) {
        let disk = store
            .open_live(image(&store, DISK).expect("it is there"))
            .expect("nobody else writes");
        run(
            &store,
            orders.seed,
            (0..guests).map(|_| Guest::Thread(&disk)).collect(),
        );
    } else {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("nbd.sock");
        let server = NbdServer::start_server(Arc::new(store.exports()), ServerOptions::default())
            .expect("a server");
        server.listen_unix(&socket).expect("a path that is free");
        run(
            &store,
            orders.seed,
            (0..guests).map(|_| Guest::connect(&socket)).collect(),
        );
        server.stop_within(Duration::from_secs(10));
    }
}

/// Runs the guests, each on a thread, beside a neighbour.
fn run(store: &Store, seed: u64, guests: Vec<Guest<'_>>) {
    mark("ready");
    let (count, is_over) = (guests.len() as u64, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(seed);
            while !is_over.load(Ordering::Relaxed) {
                neighbour(store, seed, count, &mut random)
                    .expect("a whole store takes every operation");
            }
        });
        let all: Vec<_> = (0..)
            .zip(guests)
            .map(|(nth, guest)| scope.spawn(move || work(guest, seed, nth)))
            .collect();
        all.into_iter()
            .for_each(|guest| guest.join().expect("a whole store takes every write"));
        is_over.store(true, Ordering::Relaxed);
        neighbour.join().expect("the neighbour is done");
    });
}

/// One that writes.
enum Guest<'d> {
    Thread(&'d LiveDisk),
    Client(Client<UnixStream>),
}

impl Guest<'_> {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the server listens");
        Self::Client(Client::enter(stream, Form::Structured, DISK, &[]))
    }

    fn write(&mut self, bytes: &[u8], offset: u64, force: bool) {
        match self {
            Self::Thread(disk) => disk
                .write_at(bytes, offset)
                .and_then(|()| if force { disk.flush() } else { Ok(()) })
                .expect("room"),
            Self::Client(client) => call(client, WRITE, force, offset, bytes.len() as u64, bytes),
        }
    }

    fn zero(&mut self, offset: u64, len: u64, force: bool) {
        match self {
            Self::Thread(disk) => disk
                .write_zeroes(offset, len)
                .and_then(|()| if force { disk.flush() } else { Ok(()) })
                .expect("room"),
            Self::Client(client) => call(client, WRITE_ZEROES, force, offset, len, &[]),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Thread(disk) => disk.flush().expect("room"),
            Self::Client(client) => call(client, FLUSH, false, 0, 0, &[]),
        }
    }
}

fn call(
    client: &mut Client<UnixStream>,
    command: u16,
    force: bool,
    offset: u64,
    len: u64,
    payload: &[u8],
) {
    let reply = client.call(if force { FUA } else { 0 }, command, offset, len, payload);
    assert_eq!(reply.error, 0, "a whole store takes every request");
}

/// Random writes and flushes.
fn work(mut guest: Guest<'_>, run: u64, nth: u64) {
    let mut random = fastrand::Rng::with_seed(run + nth);
    for operation in 1..=OPERATIONS {
        let id = id_of(run, nth, operation);
        let count = random.u64(1..=WRITE_SECTORS_MAX);
        let end = if random.bool() {
            HOT_SECTORS
        } else {
            SECTORS - count
        };
        // Whole chunks as often as not.
        let first = random.u64(..end) & if random.bool() { !7 } else { !0 };
        let offset = first * SECTOR_LEN as u64;
        let (kind, force) = (random.u8(..10), random.u8(..10) == 0);
        if kind < 7 {
            let bytes: Vec<u8> = (first..first + count)
                .flat_map(|sector| value(id, false, sector))
                .collect();
            mark(&format!("write {id} {first} {count} {}", u8::from(force)));
            guest.write(&bytes, offset, force);
            mark(&format!("written {id}"));
        } else if kind < 9 {
            mark(&format!("zero {id} {first} {count} {}", u8::from(force)));
            guest.zero(offset, count * SECTOR_LEN as u64, force);
            mark(&format!("written {id}"));
        } else {
            mark(&format!("flush {id}"));
            guest.flush();
            mark(&format!("flushed {id}"));
        }
    }
}

/// A neighbour in the same store: bulk data comes and goes, logs end, files are rewritten. Some of
/// it is what guests write, too, so that they come to refer to chunks that are not durable yet.
fn neighbour(
    store: &Store,
    run: u64,
    guests: u64,
    random: &mut fastrand::Rng,
) -> Result<(), StoreError> {
    let writes = (0..guests)
        .flat_map(|nth| (1..=OPERATIONS).map(move |operation| id_of(run, nth, operation)));
    let mut bytes: Vec<u8> = writes
        .filter(|id| id.is_multiple_of(2) && random.bool())
        .flat_map(|id| value(id, false, 0).repeat(8))
        .collect();
    let shared_len = bytes.len();
    bytes.resize(shared_len + random.usize(1..300_000), 0);
    random.fill(&mut bytes[shared_len..]);
    let target = ImportTarget::New {
        name: name("other"),
        parent: None,
    };
    if let Ok(known) = image(store, "other") {
        store.delete_image(known, true)?;
    }
    let input: ImageInput = input(Content::plain(bytes), false);
    store.import(
        input,
        &ImportRequest {
            target,
            snapshot: None,
        },
        &Unwatched,
    )?;
    if random.bool() {
        store.collect(CollectOptions::default(), &Unwatched)?;
    }
    Ok(())
}
