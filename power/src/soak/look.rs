//! Checks a store, a repository and files against the states that they may show.
//!
//! Everything goes through the command and NBD, as a person and a guest would see it.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Bytes, GuestDisk, Names, Shown};
use super::nbd::{Ask, Client, Command};
use super::plan::{FIRST_KEY, OUT, Points, REPOSITORY};
use super::site::{Clock, Server, Site, words};

/// Points whose bytes are fetched each time; `verify` reads all of them.
const POINTS_READ: usize = 2;
/// Exit codes.
const DONE: Option<i32> = Some(0);
const ONLY_SPACE_LOST: Option<i32> = Some(3);
const NOTHING_THERE: Option<i32> = Some(10);

/// The states that may be there, of each kind.
#[derive(Clone)]
pub(crate) struct Allowed {
    pub(crate) store: Vec<Option<Names>>,
    pub(crate) files: Vec<Names>,
    pub(crate) repository: Vec<Option<Points>>,
    /// The last moment before power was lost.
    pub(crate) moment: u64,
    pub(crate) under_way: String,
}

/// The content that was found.
pub(crate) struct Found {
    pub(crate) store: Option<Names>,
    pub(crate) files: Names,
    pub(crate) repository: Option<Points>,
}

/// The future of the disks that guests write.
#[derive(Clone, Copy)]
pub(crate) enum Settling<'c> {
    /// The content that they show is durable afterwards, and they know it.
    Now(&'c Clock),
    /// They are disks of their own from now on.
    Fresh,
}

/// Looks at everything.
pub(crate) fn look(
    site: &Site,
    allowed: &Allowed,
    settling: Settling<'_>,
    chance: &mut fastrand::Rng,
) -> Result<Found, String> {
    let files = files(site, allowed).map_err(|error| format!("files: {error}"))?;
    let store = store(site, allowed, settling).map_err(|error| format!("store: {error}"))?;
    let repository =
        repository(site, allowed, chance).map_err(|error| format!("repository: {error}"))?;
    Ok(Found {
        store,
        files,
        repository,
    })
}

fn files(site: &Site, allowed: &Allowed) -> Result<Names, String> {
    let listing = site.shell(&format!("ls {OUT} 2>/dev/null || true"))?;
    let mut seen = BTreeMap::new();
    for name in String::from_utf8_lossy(&listing).split_whitespace() {
        let name = format!("{OUT}/{name}");
        let bytes = site.shell(&format!("cat {name}"))?;
        seen.insert(name, bytes);
    }
    one_of(allowed.files.iter(), &seen, allowed.moment)
}

/// The first of `candidates` that may show `seen`, with the bytes that were seen; else what speaks
/// against each.
fn one_of<'n>(
    candidates: impl Iterator<Item = &'n Names>,
    seen: &BTreeMap<String, Vec<u8>>,
    moment: u64,
) -> Result<Names, String> {
    let mut against = BTreeSet::new();
    for names in candidates {
        match agrees(names, seen, moment) {
            Ok(found) => return Ok(found),
            Err(error) => drop(against.insert(error)),
        }
    }
    let against: Vec<String> = against.into_iter().collect();
    Err(against.join("; or "))
}

fn agrees(names: &Names, seen: &BTreeMap<String, Vec<u8>>, moment: u64) -> Result<Names, String> {
    let (expected, found): (Vec<_>, Vec<_>) = (names.keys().collect(), seen.keys().collect());
    if expected != found {
        return Err(format!("there are {found:?}, not {expected:?}"));
    }
    let mut agreed = Names::new();
    for (name, shown) in names {
        let bytes = &seen[name];
        shown
            .allows(bytes, moment)
            .map_err(|error| format!("{name} shows {error}"))?;
        agreed.insert(name.clone(), settled(shown, bytes));
    }
    Ok(agreed)
}

/// The state after a look: certain from now on, but for disks that guests go on writing.
fn settled(shown: &Shown, bytes: &[u8]) -> Shown {
    match shown {
        Shown::Between(..) => Shown::fixed(bytes.to_vec()),
        Shown::Live(_) | Shown::Fixed(_) => shown.clone(),
    }
}

fn store(site: &Site, allowed: &Allowed, settling: Settling<'_>) -> Result<Option<Names>, String> {
    let listed = site.run(&words(&["list", "--snapshots", "--json"]))?;
    if listed.code == NOTHING_THERE {
        let may_be = allowed.store.iter().any(Option::is_none);
        return may_be
            .then_some(None)
            .ok_or_else(|| format!("there is none: {}", listed.said()));
    }
    if listed.code != DONE {
        return Err(format!("it cannot be listed: {}", listed.stderr.trim()));
    }
    let names = names_of(&listed.stdout)?;
    let server = site.serve()?;
    let mut seen = BTreeMap::new();
    for name in names {
        let bytes = server.connect(&name)?.read_all()?;
        seen.insert(name, bytes);
    }
    let candidates = allowed.store.iter().flatten();
    let mut found = one_of(candidates, &seen, allowed.moment)?;
    for (name, shown) in &mut found {
        if let Shown::Live(disk) = shown {
            flush(&mut server.connect(name)?)?;
            let base = Bytes::new(seen[name].clone());
            match settling {
                Settling::Now(clock) => disk.look(clock.tick(), base),
                Settling::Fresh => *disk = GuestDisk::new(0, base),
            }
        }
    }
    server.stop()?;
    let checked = site.run(&words(&["check", "--read-data"]))?;
    if checked.code == DONE || checked.code == ONLY_SPACE_LOST {
        Ok(Some(found))
    } else {
        let told = String::from_utf8_lossy(&checked.stdout).into_owned();
        Err(format!("the check finds damage: {told} {}", checked.stderr))
    }
}

fn flush(client: &mut Client) -> Result<(), String> {
    let ask = Ask {
        command: Command::Flush,
        force: false,
        offset: 0,
        len: 0,
        bytes: Vec::new(),
    };
    client.call(&[ask], |_| {}, |_| {}).map(drop)
}

/// The names in a listing.
fn names_of(json: &[u8]) -> Result<BTreeSet<String>, String> {
    let listing: Vec<serde_json::Value> = serde_json::from_slice(json)
        .map_err(|error| format!("no listing: {error}: {}", String::from_utf8_lossy(json)))?;
    let name = |row: &serde_json::Value| row["name"].as_str().map(str::to_owned);
    Ok(listing.iter().filter_map(name).collect())
}

fn repository(
    site: &Site,
    allowed: &Allowed,
    chance: &mut fastrand::Rng,
) -> Result<Option<Points>, String> {
    if allowed.repository.iter().all(Option::is_none) {
        return Ok(None);
    }
    let (place, first) = (site.path(REPOSITORY), site.path(FIRST_KEY));
    let open = |line: &[&str], key: &str| {
        let mut line = words(line);
        line.extend(words(&["--key-file", key]));
        site.run(&line)
    };
    let listed = open(&["backup", "list", &place, "--json"], &first)?;
    let may_be_none = allowed.repository.iter().any(Option::is_none);
    // The remains of an interrupted init are no repository yet, one whose key file is not there, or
    // one of which only the copies are.
    if listed.code != DONE && may_be_none {
        return Ok(None);
    }
    if listed.code != DONE {
        return Err(format!("it cannot be listed: {}", listed.stderr.trim()));
    }
    let names = names_of(&listed.stdout)?;
    let verified = open(&["backup", "verify", &place, "--read-data"], &first)?;
    if verified.code != DONE && may_be_none {
        return Ok(None);
    }
    if verified.code != DONE {
        let told = String::from_utf8_lossy(&verified.stdout).into_owned();
        return Err(format!("verify: {told} {}", verified.stderr.trim()));
    }
    let mut wanted: Vec<&String> = names.iter().collect();
    chance.shuffle(&mut wanted);
    let mut seen = BTreeMap::new();
    for name in wanted.into_iter().take(POINTS_READ) {
        let restored = open(&["backup", "restore", &place, name, "-"], &first)?;
        if restored.code != DONE {
            return Err(format!("{name}: {}", restored.stderr.trim()));
        }
        seen.insert(name.clone(), restored.stdout);
    }
    let mut against = BTreeSet::new();
    for candidate in allowed.repository.iter().flatten() {
        match agrees_points(candidate, &names, &seen, allowed.moment) {
            Ok(mut found) => {
                let mut keys = BTreeSet::new();
                for key in &found.keys {
                    let opened = open(&["backup", "list", &place], &site.path(key))?;
                    if opened.code == DONE {
                        keys.insert(key.clone());
                    }
                }
                if keys == found.keys {
                    return Ok(Some(found));
                }
                against.insert(format!("the keys {keys:?} open it, not {:?}", found.keys));
                found.keys = keys;
            }
            Err(error) => drop(against.insert(error)),
        }
    }
    let against: Vec<String> = against.into_iter().collect();
    Err(against.join("; or "))
}

fn agrees_points(
    candidate: &Points,
    names: &BTreeSet<String>,
    seen: &BTreeMap<String, Vec<u8>>,
    moment: u64,
) -> Result<Points, String> {
    let expected: BTreeSet<String> = candidate.points.keys().cloned().collect();
    if expected != *names {
        return Err(format!("there are {names:?}, not {expected:?}"));
    }
    let mut found = candidate.clone();
    for (name, bytes) in seen {
        let shown = &candidate.points[name];
        shown
            .allows(bytes, moment)
            .map_err(|error| format!("{name} shows {error}"))?;
        found.points.insert(name.clone(), settled(shown, bytes));
    }
    Ok(found)
}

/// Checks that the remains are good for new work: guests write, an image is made, space comes back.
pub(crate) fn go_on(site: &Site, found: &Found) -> Result<(), String> {
    let Some(names) = &found.store else {
        return Ok(());
    };
    let server: Server = site.serve()?;
    let live = names
        .iter()
        .find(|(_, shown)| matches!(shown, Shown::Live(_)));
    if let Some((name, _)) = live {
        let ask = Ask {
            command: Command::Write,
            force: true,
            offset: 0,
            len: 512,
            bytes: vec![0xa5; 512],
        };
        server.connect(name)?.call(&[ask], |_| {}, |_| {})?;
    }
    for line in [&["create", "after-the-cut", "1M"][..], &["gc"]] {
        let ended = site.run(&words(line))?;
        if ended.code != DONE {
            return Err(format!("{line:?} afterwards: {}", ended.stderr.trim()));
        }
    }
    server.stop()?;
    if found.repository.is_some() {
        let (place, key) = (site.path(REPOSITORY), site.path(FIRST_KEY));
        let push = ["backup", "push", &place, "--all", "--key-file", &key];
        let ended = site.run(&words(&push))?;
        if ended.code != DONE {
            return Err(format!("push afterwards: {}", ended.stderr.trim()));
        }
    }
    Ok(())
}
