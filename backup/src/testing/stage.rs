//! A scheduler for tests of concurrent clients: each request of each client waits until it is
//! allowed, so a test decides the order of all of them.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::objects::memory::Memory;
use crate::objects::{ObjectError, ObjectErrorKind, Objects};

/// The step that a client has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    /// The client is between requests, or in one.
    Acting,
    /// The client is at a request: its operation and object.
    Waiting(String),
    /// Over.
    Done,
}

#[derive(Debug)]
struct Actor {
    at: Where,
    is_allowed: bool,
    is_dead: bool,
}

/// The state that all clients share.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    actors: Mutex<Vec<Actor>>,
    changed: Condvar,
}

/// A client's view of the place.
pub(crate) struct Client {
    stage: Arc<Stage>,
    id: usize,
    memory: Memory,
}

impl Stage {
    fn actors(&self) -> MutexGuard<'_, Vec<Actor>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `act` as a client, in a thread of its own that does everything in turn.
    pub(crate) fn enter<'scope>(
        self: &Arc<Self>,
        scope: &'scope std::thread::Scope<'scope, '_>,
        memory: &Memory,
        act: impl FnOnce(Arc<dyn Objects>) + Send + 'scope,
    ) {
        let id = {
            let mut actors = self.actors();
            actors.push(Actor {
                at: Where::Acting,
                is_allowed: false,
                is_dead: false,
            });
            actors.len() - 1
        };
        let client: Arc<dyn Objects> = Arc::new(Client {
            stage: self.clone(),
            id,
            memory: memory.clone(),
        });
        let stage = self.clone();
        scope.spawn(move || {
            let leave = Leave { stage, id };
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .expect("a thread");
            pool.install(move || act(client));
            drop(leave);
        });
    }

    /// Waits until every client waits or is over; returns the waiting clients and their requests.
    pub(crate) fn waiting(&self) -> Vec<(usize, String)> {
        let mut actors = self.actors();
        while actors.iter().any(|actor| actor.at == Where::Acting) {
            actors = self
                .changed
                .wait(actors)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let waits = |(id, actor): (usize, &Actor)| match &actor.at {
            Where::Waiting(request) => Some((id, request.clone())),
            _ => None,
        };
        actors.iter().enumerate().filter_map(waits).collect()
    }

    /// Allows a waiting client its request.
    pub(crate) fn allow(&self, id: usize) {
        let mut actors = self.actors();
        if actors[id].at != Where::Done {
            actors[id].is_allowed = true;
            actors[id].at = Where::Acting;
            self.changed.notify_all();
        }
    }

    /// Kills the clients that still wait when the test ends: a test that fails must not wait for
    /// clients that wait for it.
    pub(crate) fn curtain(self: &Arc<Self>) -> Curtain {
        Curtain(self.clone())
    }

    /// The client dies where it is: this request and all later ones fail, and nothing is done.
    pub(crate) fn kill(&self, id: usize) {
        self.actors()[id].is_dead = true;
        self.allow(id);
    }

    /// Runs a client until it is about to do a request that begins so, or is over.
    pub(crate) fn until(&self, id: usize, request: &str) {
        while let Some((_, asked)) = self.waiting().into_iter().find(|(other, _)| *other == id) {
            if !request.is_empty() && asked.starts_with(request) {
                return;
            }
            self.allow(id);
        }
    }

    /// Runs a client to its end.
    pub(crate) fn finish(&self, id: usize) {
        self.until(id, "");
    }

    fn turn(&self, id: usize, request: String) -> Result<(), ObjectError> {
        let mut actors = self.actors();
        if !actors[id].is_dead {
            actors[id].at = Where::Waiting(request);
            self.changed.notify_all();
            while !actors[id].is_allowed {
                actors = self
                    .changed
                    .wait(actors)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            actors[id].is_allowed = false;
        }
        if actors[id].is_dead {
            Err(ObjectError::new(ObjectErrorKind::Failed, "client", "dead"))
        } else {
            Ok(())
        }
    }
}

/// The end of a play.
pub(crate) struct Curtain(Arc<Stage>);

impl Drop for Curtain {
    fn drop(&mut self) {
        let mut actors = self.0.actors();
        for actor in actors.iter_mut().filter(|actor| actor.at != Where::Done) {
            (actor.is_dead, actor.is_allowed) = (true, true);
        }
        self.0.changed.notify_all();
    }
}

/// Marks a client as over when dropped, also if it panics.
struct Leave {
    stage: Arc<Stage>,
    id: usize,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.stage.actors()[self.id].at = Where::Done;
        self.stage.changed.notify_all();
    }
}

impl Objects for Client {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.stage.turn(self.id, format!("get {name}"))?;
        self.memory.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.stage.turn(self.id, format!("get {name}"))?;
        self.memory.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.stage.turn(self.id, format!("put {name}"))?;
        self.memory.put(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.stage.turn(self.id, format!("replace {name}"))?;
        self.memory.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.stage.turn(self.id, format!("list {prefix}"))?;
        self.memory.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.stage.turn(self.id, format!("delete {name}"))?;
        self.memory.delete(name)
    }

    fn describe(&self) -> String {
        "the stage".to_owned()
    }
}
