//! One history on one file system, and the losses of power in it.

mod cuts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::look::{Allowed, Found, Settling, look};
use super::model::{GuestDisk, History, NEVER, Names, Shown};
use super::nbd::Client;
use super::plan::{Effect, Kind, Operation, Planner, Points, Present, REPOSITORY, SCRIPT};
use super::site::{Ended, Server, Site, file_of};
use super::{Left, Soak, damage, guest};
use crate::block::BlockContent;
use crate::file_system::{FileSystem, Mounted};

/// The number of parts of a history: single commands, times with a server, times with a full disk.
const PARTS: u64 = 18;
/// Commands while a server has the store.
const SERVED_MAX: u64 = 4;
/// The longest time that guests write beside the commands.
const SERVED_LIMIT: Duration = Duration::from_millis(700);
/// The assumed duration of a command that has not run yet.
const FIRST_GUESS: Duration = Duration::from_millis(80);
/// The free space that a full disk has left, in MiB.
const LEFT_OVER: [u64; 6] = [0, 1, 4, 10, 25, 40];
/// Bytes that commands on a full disk may have taken of what there was before it was full: all that
/// was left over, and some of what the store had kept back.
const TAKEN_MAX: u64 = 48 << 20;
/// Commands on a full disk.
const FULL_MAX: u64 = 5;

/// One that writes to a disk.
type Guest = (Client, Arc<GuestDisk>, fastrand::Rng);

/// One history.
pub(super) struct Round<'s, 'o> {
    soak: &'s mut Soak<'o>,
    kind: FileSystem,
    random: fastrand::Rng,
    planner: Planner,
    site: Site,
    store: History<Option<Names>>,
    files: History<Names>,
    repository: History<Option<Points>>,
    /// The moments at which something was acknowledged.
    answers: Vec<u64>,
    durations: BTreeMap<Kind, Duration>,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It was killed, or failed for a reason that there was: nobody knows what it did.
    Unknown,
}

/// A condition that may keep an operation from being done.
#[derive(Clone, Copy)]
enum Excuse<'e> {
    None,
    FullDisk,
    /// The server is killed: true from right before it is.
    Killed(&'e AtomicBool),
}

impl<'s, 'o> Round<'s, 'o> {
    pub(super) fn new(soak: &'s mut Soak<'o>, kind: FileSystem, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let planner = Planner::new(random.fork());
        let site = soak.site("disk");
        Self {
            soak,
            kind,
            random,
            planner,
            site,
            store: History::new(None),
            files: History::new(Names::new()),
            repository: History::new(None),
            answers: Vec::new(),
            durations: BTreeMap::new(),
        }
    }

    /// The history from its start to its last loss of power; what the next may begin on.
    pub(super) fn run(
        &mut self,
        content: BlockContent,
        found: Option<Found>,
        is_script: bool,
    ) -> Result<Option<Left>, String> {
        if let Some(found) = found {
            self.begin_on(found);
        }
        let (file, device) = self.soak.devices.add(content);
        self.soak.clock.follow(Some(Arc::clone(&device)));
        let result = self.live(&file, is_script);
        self.soak.clock.follow(None);
        self.soak.devices.remove(&file);
        result?;
        self.cuts(&device.trace(), is_script)
    }

    fn begin_on(&mut self, found: Found) {
        let points = found.repository.iter().flat_map(|all| all.points.keys());
        let keys = found.repository.iter().flat_map(|all| all.keys.iter());
        let names = found.store.iter().flatten().map(|(name, _)| name);
        self.planner
            .avoid(names.chain(points).chain(keys).chain(found.files.keys()));
        self.planner.note_pushed(found.repository.as_ref());
        self.store = History::new(found.store);
        self.files = History::new(found.files);
        self.repository = History::new(found.repository);
    }

    fn live(&mut self, file: &std::path::Path, is_script: bool) -> Result<(), String> {
        let mounted = Mounted::new(self.kind, file, &self.site.root)?;
        self.site.shell("mkdir -p out keys home && sync -f .")?;
        if self.store.now().is_none() {
            self.site.shell("rm -rf store && sync -f .")?;
        }
        if self.repository.now().is_none() {
            self.site
                .shell("rm -rf repository keys/* home/* && sync -f .")?;
        }
        if is_script {
            for kind in SCRIPT {
                self.one(*kind, Excuse::None)?;
            }
            self.served()?;
        } else {
            for _ in 0..PARTS {
                self.part()?;
            }
        }
        self.settle()?;
        if self.soak.options.trouble {
            self.flip()?;
        }
        mounted.unmount()
    }

    /// A piece of a random history.
    fn part(&mut self) -> Result<(), String> {
        let trouble = self.soak.options.trouble;
        match self.random.u8(..20) {
            0 if trouble && self.store.now().is_some() => self.full_disk(),
            1..=6 if self.has_disk() => self.served(),
            1..=3 if self.store.now().is_some() => self.one(Kind::CreateDisk, Excuse::None),
            _ => {
                let operation = self.any();
                let is_killed = trouble && self.random.u8(..2) == 0;
                let limit = is_killed.then(|| self.moment_of(operation.kind));
                if self.perform(&operation, limit, Excuse::None)? == Outcome::Unknown {
                    self.soak.tally.killed_commands += 1;
                    self.settle()?;
                }
                Ok(())
            }
        }
    }

    fn has_disk(&self) -> bool {
        let names = self.store.now().iter().flatten();
        names
            .into_iter()
            .any(|(_, shown)| matches!(shown, Shown::Live(_)))
    }

    /// Some moment of the life of a command of this kind.
    fn moment_of(&mut self, kind: Kind) -> Duration {
        let usual = self.durations.get(&kind).copied().unwrap_or(FIRST_GUESS);
        usual.mul_f64(self.random.f64() * 1.1)
    }

    fn any(&mut self) -> Operation {
        let present = Present {
            store: self.store.now(),
            files: self.files.now(),
            repository: self.repository.now(),
        };
        self.planner.any(&self.site, &present)
    }

    fn one(&mut self, kind: Kind, excuse: Excuse<'_>) -> Result<(), String> {
        let present = Present {
            store: self.store.now(),
            files: self.files.now(),
            repository: self.repository.now(),
        };
        let operation = self.planner.operation(kind, &self.site, &present);
        self.perform(&operation, None, excuse).map(drop)
    }

    /// Runs it, killed at `limit` if there is one.
    fn perform(
        &mut self,
        operation: &Operation,
        limit: Option<Duration>,
        excuse: Excuse<'_>,
    ) -> Result<Outcome, String> {
        if let Some((file, bytes)) = &operation.file {
            file_of(&self.site.scratch.join(file), bytes)?;
        }
        let (begun, started) = (self.soak.clock.tick(), Instant::now());
        self.begin(operation, begun);
        let ended = match limit {
            Some(limit) => self.site.run_until(&operation.words, limit)?,
            None => self.site.run(&operation.words)?,
        };
        if let Some((file, _)) = &operation.file {
            // It is only in the way now.
            let _ = std::fs::remove_file(self.site.scratch.join(file));
        }
        let is_done =
            ended.code == Some(0) || operation.kind == Kind::Check && ended.code == Some(3);
        if is_done {
            self.acknowledge(operation, begun);
            self.durations.insert(operation.kind, started.elapsed());
            return Ok(Outcome::Done);
        }
        let is_excused = match excuse {
            Excuse::None => ended.code.is_none() && limit.is_some(),
            Excuse::FullDisk => ended.code == Some(1),
            Excuse::Killed(flag) => flag.load(Ordering::SeqCst),
        };
        if is_excused {
            Ok(Outcome::Unknown)
        } else {
            Err(failure(operation, &ended))
        }
    }

    fn begin(&mut self, operation: &Operation, begun: u64) {
        let what = operation.words.join(" ");
        match operation.effect.clone() {
            Effect::Store(mut after) => {
                after.iter_mut().for_each(|names| date(names, begun, NEVER));
                self.store.begin(&what, begun, after);
            }
            Effect::Files(after) => self.files.begin(&what, begun, after),
            Effect::Repository(mut after) => {
                let points = after.iter_mut().map(|all| &mut all.points);
                points.for_each(|names| date(names, begun, NEVER));
                self.repository.begin(&what, begun, after);
            }
            Effect::Nothing => {}
        }
    }

    fn acknowledge(&mut self, operation: &Operation, begun: u64) {
        let done = self.soak.clock.tick();
        self.answers.push(done);
        match operation.effect {
            Effect::Store(_) => {
                self.store.acknowledge(done);
                self.store
                    .refine(|now| now.iter_mut().for_each(|names| date(names, begun, done)));
            }
            Effect::Files(_) => self.files.acknowledge(done),
            Effect::Repository(_) => {
                self.repository.acknowledge(done);
                self.repository.refine(|now| {
                    let points = now.iter_mut().map(|all| &mut all.points);
                    points.for_each(|names| date(names, begun, done));
                });
            }
            Effect::Nothing => {}
        }
        let kind = format!("{:?}", operation.kind);
        *self.soak.tally.operations.entry(kind).or_insert(0) += 1;
    }

    /// Guests write and commands are done by a server, which is killed as often as not.
    fn served(&mut self) -> Result<(), String> {
        let server = self.site.serve()?;
        let guests = self.guests(&server)?;
        let is_killed = self.soak.options.trouble && self.random.bool();
        let delay = SERVED_LIMIT.mul_f64(self.random.f64());
        let pid = Pid::from_child(&server.child);
        let disks: Vec<_> = guests.iter().map(|(_, disk, _)| Arc::clone(disk)).collect();
        let (is_over, was_killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let (is_over, was_killed) = (&is_over, &was_killed);
        let (clock, traffic) = (Arc::clone(&self.soak.clock), Arc::clone(&self.soak.traffic));
        let (clock, traffic) = (&*clock, &*traffic);
        let worked = thread::scope(|scope| {
            let working: Vec<_> = guests
                .into_iter()
                .map(|(mut client, disk, random)| {
                    scope.spawn(move || {
                        guest::work(&mut client, &disk, clock, random, is_over, traffic)
                    })
                })
                .collect();
            let timer = scope.spawn(move || {
                thread::sleep(delay);
                if is_killed {
                    was_killed.store(true, Ordering::SeqCst);
                    let moment = clock.tick();
                    disks.iter().for_each(|disk| disk.lose_server(moment));
                    // It is waited for only after this thread has ended.
                    let _ = kill_process(pid, Signal::KILL);
                }
                is_over.store(true, Ordering::SeqCst);
            });
            let mut result = self.commands_of_others(was_killed);
            // It only sleeps.
            let _ = timer.join();
            for guest in working {
                let told = guest
                    .join()
                    .unwrap_or_else(|_| Err("a guest failed".to_owned()));
                if !was_killed.load(Ordering::SeqCst) {
                    result = result.and(told.map_err(|error| format!("a guest: {error}")));
                }
            }
            result
        });
        if let Err(error) = worked {
            return Err(format!("{error}; {}", server.describe()));
        }
        if is_killed {
            self.soak.tally.killed_servers += 1;
            server.kill()?;
        } else {
            server.stop()?;
        }
        self.settle()
    }

    /// A client for each disk that guests write.
    fn guests(&mut self, server: &Server) -> Result<Vec<Guest>, String> {
        let names = self.store.now().clone().unwrap_or_default();
        let mut guests = Vec::new();
        for (name, shown) in &names {
            if let Shown::Live(disk) = shown {
                let client = server.connect(name)?;
                guests.push((client, Arc::clone(disk), self.random.fork()));
            }
        }
        Ok(guests)
    }

    /// Commands that the server does, until it is killed.
    fn commands_of_others(&mut self, was_killed: &AtomicBool) -> Result<(), String> {
        let excuse = Excuse::Killed(was_killed);
        for nth in 0..self.random.u64(..SERVED_MAX) {
            if nth == 0 && self.random.bool() {
                self.one(Kind::SnapshotDisk, excuse)?;
            } else {
                let operation = self.any();
                self.perform(&operation, None, excuse)?;
            }
            if was_killed.load(Ordering::SeqCst) {
                break;
            }
        }
        Ok(())
    }

    /// Fills the disk; commands may be refused, and nothing is lost.
    fn full_disk(&mut self) -> Result<(), String> {
        let left = LEFT_OVER[self.random.usize(..LEFT_OVER.len())] << 20;
        let free = self.site.shell("echo $(($(stat -f -c '%a * %S' .)))")?;
        let free: u64 = String::from_utf8_lossy(&free)
            .trim()
            .parse()
            .map_err(|error| format!("free bytes: {error}"))?;
        self.site.shell(&format!(
            "free=$(($(stat -f -c '%a * %S' .) - {left})); [ $free -le 0 ] \
             || fallocate -l $free filler 2>/dev/null \
             || head -c $free /dev/zero >filler 2>/dev/null || true"
        ))?;
        self.soak.tally.full_disks += 1;
        let mut outcome = Outcome::Done;
        for _ in 0..FULL_MAX {
            let operation = self.any();
            outcome = self.perform(&operation, None, Excuse::FullDisk)?;
            if outcome == Outcome::Unknown {
                self.soak.tally.refused += 1;
                break;
            }
        }
        // Some file systems give space back a moment later.
        self.site.shell(&format!(
            "rm -f filler; for try in $(seq 100); do sync -f .; \
             [ $(($(stat -f -c '%a * %S' .))) -lt {} ] || break; sleep 0.1; done",
            free.saturating_sub(TAKEN_MAX)
        ))?;
        if outcome == Outcome::Unknown {
            self.settle()?;
        }
        Ok(())
    }

    /// Checks the present state, and takes it as the known one.
    fn settle(&mut self) -> Result<(), String> {
        let allowed = self.allowed(self.soak.clock.tick());
        let settling = Settling::Now(&self.soak.clock);
        let found = look(&self.site, &allowed, settling, &mut self.random)
            .map_err(|error| format!("with power, after {}: {error}", allowed.under_way))?;
        if found.store.is_none() {
            self.site.shell("rm -rf store && sync -f .")?;
        }
        if found.repository.is_none() {
            self.site
                .shell(&format!("rm -rf {REPOSITORY} keys/* home/* && sync -f ."))?;
        }
        self.store.resolve(found.store);
        self.files.resolve(found.files);
        self.repository.resolve(found.repository);
        Ok(())
    }

    fn allowed(&self, moment: u64) -> Allowed {
        let (store, during_store) = self.store.allowed(moment);
        let (files, during_files) = self.files.allowed(moment);
        let (repository, during_repository) = self.repository.allowed(moment);
        let mut under_way = vec![during_store, during_files, during_repository];
        under_way.retain(|what| what != "nothing");
        Allowed {
            store: store.into_iter().cloned().collect(),
            files: files.into_iter().cloned().collect(),
            repository: repository.into_iter().cloned().collect(),
            moment,
            under_way: if under_way.is_empty() {
                "nothing".to_owned()
            } else {
                under_way.join(", ")
            },
        }
    }

    fn flip(&mut self) -> Result<(), String> {
        if let Some(names) = self.store.now() {
            let flipped = damage::flip(&self.site, names, &mut self.random)
                .map_err(|error| format!("a flipped bit: {error}"))?;
            self.soak.tally.flips += 1;
            self.soak.tally.flips_found += u64::from(flipped);
        }
        Ok(())
    }
}

/// Gives what was shown between moments that nobody knew yet those that are known now.
fn date(names: &mut Names, begun: u64, done: u64) {
    for shown in names.values_mut() {
        if let Shown::Between(_, from, to) = shown
            && (*from == NEVER || *from == begun)
        {
            (*from, *to) = (begun, done);
        }
    }
}

fn failure(operation: &Operation, ended: &Ended) -> String {
    let end = ended
        .code
        .map_or("was killed".to_owned(), |code| format!("ended with {code}"));
    let line = operation.words.join(" ");
    format!("vellum {line} {end}: {}", ended.stderr.trim())
}
