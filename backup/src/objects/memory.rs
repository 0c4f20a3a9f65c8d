//! Objects in memory, for tests: with faults at chosen requests, and a log of what was asked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ObjectError, ObjectErrorKind, Objects};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A whole object.
    Get,
    /// Some bytes of one.
    GetRange,
    /// A new object.
    Put,
    /// A listing.
    List,
    /// One object gone.
    Delete,
}

/// The effect of a fault on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is refused, and nothing is done.
    Refused(ObjectErrorKind),
    /// It is done, and the answer is lost.
    AnswerLost,
    /// The bytes that are read end early.
    Truncated,
    /// One bit of the bytes that are read is another.
    Flipped,
    /// The client dies before it asks: this request and all later ones fail, until
    /// [`Memory::heal`].
    Dead,
}

/// A fault to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The kind of requests that count; all if none is named.
    pub request: Option<Request>,
    /// The number of those that pass before it.
    pub after: u64,
    /// The effect.
    pub effect: Effect,
}

/// A place for objects that lasts as long as the process. Clones are the same place, each with its
/// own faults and log: one client each.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Arc<Mutex<BTreeMap<String, Arc<[u8]>>>>,
    client: Mutex<Client>,
}

#[derive(Debug, Default)]
struct Client {
    faults: Vec<Fault>,
    log: Vec<(Request, String)>,
    is_dead: bool,
    /// The prefixes of objects that cannot be deleted.
    retained: Vec<String>,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            client: Mutex::default(),
        }
    }
}

impl Memory {
    /// An empty place.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault.
    pub fn fail(&self, fault: Fault) {
        locked(&self.client).faults.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        let mut client = locked(&self.client);
        client.faults.clear();
        client.is_dead = false;
    }

    /// Lets go of nothing from now on whose name begins with one of `prefixes`, as an object lock
    /// does.
    pub fn retain(&self, prefixes: &[&str]) {
        locked(&self.client).retained = prefixes.iter().map(ToString::to_string).collect();
    }

    /// Takes the requests of this client since the last call.
    pub fn take_log(&self) -> Vec<(Request, String)> {
        std::mem::take(&mut locked(&self.client).log)
    }

    /// The objects that are there, without a request.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Arc<[u8]>> {
        locked(&self.objects).clone()
    }

    /// Replaces everything, without a request: as an attacker or a restored backup of the place
    /// would.
    pub fn replace_all(&self, objects: BTreeMap<String, Arc<[u8]>>) {
        *locked(&self.objects) = objects;
    }

    /// Puts bytes under any name, without a request.
    pub fn plant(&self, name: &str, bytes: &[u8]) {
        locked(&self.objects).insert(name.to_owned(), bytes.into());
    }

    /// Logs the request; returns the fault that it meets.
    fn ask(&self, request: Request, name: &str) -> Result<Option<Effect>, ObjectError> {
        let mut client = locked(&self.client);
        client.log.push((request, name.to_owned()));
        let mut due = None;
        client.faults.retain_mut(|fault| {
            if fault.request.is_some_and(|wanted| wanted != request) || due.is_some() {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            due = Some(fault.effect);
            false
        });
        client.is_dead |= due == Some(Effect::Dead);
        if client.is_dead {
            return Err(ObjectError::new(
                ObjectErrorKind::Failed,
                name,
                "the client is dead",
            ));
        }
        match due {
            Some(Effect::Refused(kind)) => {
                Err(ObjectError::new(kind, name, "refused, as the test wants"))
            }
            effect => Ok(effect),
        }
    }

    fn stored(&self, name: &str) -> Result<Arc<[u8]>, ObjectError> {
        let found = locked(&self.objects).get(name).cloned();
        found.ok_or_else(|| ObjectError::new(ObjectErrorKind::Missing, name, "no such object"))
    }
}

impl Objects for Memory {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        let effect = self.ask(Request::Get, name)?;
        answered(effect, name, self.stored(name)?.to_vec())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let effect = self.ask(Request::GetRange, name)?;
        let stored = self.stored(name)?;
        let bytes = stored.get(range.start as usize..range.end as usize);
        let bytes = bytes.ok_or_else(|| {
            ObjectError::new(
                ObjectErrorKind::Failed,
                name,
                "the object ends before the range does",
            )
        })?;
        let bytes = answered(effect, name, bytes.to_vec())?;
        super::exactly(name, &range, bytes)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let effect = self.ask(Request::Put, name)?;
        let there = locked(&self.objects)
            .entry(name.to_owned())
            .or_insert_with(|| bytes.into())
            .clone();
        if *there != *bytes {
            return Err(ObjectError::new(
                ObjectErrorKind::Failed,
                name,
                "other bytes have this name",
            ));
        }
        answered(effect, name, Vec::new()).map(drop)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let effect = self.ask(Request::Put, name)?;
        locked(&self.objects).insert(name.to_owned(), bytes.into());
        answered(effect, name, Vec::new()).map(drop)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let effect = self.ask(Request::List, prefix)?;
        let mut found: Vec<(String, u64)> = Vec::new();
        for (name, bytes) in &*locked(&self.objects) {
            if name.starts_with(prefix) {
                found.push((name.clone(), bytes.len() as u64));
            }
        }
        let lost = answered(effect, prefix, Vec::new());
        let shown = if lost.is_err() {
            found.len() / 2
        } else {
            found.len()
        };
        found[..shown]
            .iter()
            .try_for_each(|(name, len)| visit(name, *len))?;
        lost.map(drop)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let effect = self.ask(Request::Delete, name)?;
        let mut retained = locked(&self.client).retained.clone().into_iter();
        if retained.any(|prefix| name.starts_with(&prefix)) {
            return Err(ObjectError::new(
                ObjectErrorKind::Denied,
                name,
                "retained, as the test wants",
            ));
        }
        locked(&self.objects).remove(name);
        answered(effect, name, Vec::new()).map(drop)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

/// The answer as the client gets to see it.
fn answered(
    effect: Option<Effect>,
    name: &str,
    mut bytes: Vec<u8>,
) -> Result<Vec<u8>, ObjectError> {
    match effect {
        Some(Effect::AnswerLost) => {
            return Err(ObjectError::new(
                ObjectErrorKind::Passing,
                name,
                "done, and the answer was lost",
            ));
        }
        Some(Effect::Truncated) => bytes.truncate(bytes.len() / 2),
        Some(Effect::Flipped) => {
            let middle = bytes.len() / 2;
            bytes
                .get_mut(middle)
                .into_iter()
                .for_each(|byte| *byte ^= 1);
        }
        Some(Effect::Refused(_) | Effect::Dead) | None => {}
    }
    Ok(bytes)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
