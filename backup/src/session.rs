//! A session: one process's change of a repository. It announces itself before it reads the
//! journal, and writes its record last. `journal` proves why that is enough.

pub(crate) mod announcement;

use std::sync::Arc;

use vellum_core::identity::SessionId;

use crate::error::BackupError;
use crate::journal::{RecordName, State, Status};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectId, ObjectKind, ObjectName};
use crate::record::parts::PART_LEN;
use crate::record::{Past, RECORD_VERSION, Record};
use crate::repository::Repository;
use crate::seal::{SealError, SealedKind};
pub use announcement::{OpenSession, SessionFile, SessionKind, Writer};

/// A change of a repository, from its announcement to its end. Dropped without [`Session::end`], it
/// is ended as far as that works; if a record of it may still arrive, it stays announced.
pub struct Session<'a> {
    repository: &'a Repository,
    id: SessionId,
    kind: SessionKind,
    writer: Writer,
    state: Arc<State>,
    records: Vec<RecordName>,
    /// A record may or may not have been put, or this session's end is not ours to tell.
    stays: bool,
    is_over: bool,
}

/// A record that was put durably, and counts.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The record.
    pub record: RecordName,
    /// The state of the repository with it.
    pub state: Arc<State>,
}

/// The room that is kept back in bytes: the least, of some index objects, the most, and for each
/// point and content, which a collection writes down anew, twice and before what it stands for
/// goes.
const RESERVE_LEN_MIN: u64 = 8 << 20;
const RESERVE_LEN_MAX: u64 = 64 << 20;
const RESERVE_LEN_EACH: u64 = 512;

fn reserve_len(state: &State) -> u64 {
    let count = state.points().count() + state.contents().count();
    let len = RESERVE_LEN_MIN + count as u64 * RESERVE_LEN_EACH;
    len.min(RESERVE_LEN_MAX)
}

/// Gives up what is kept back, for a session that gives space back; true if there was something.
fn gives_back(repository: &Repository, kind: SessionKind) -> bool {
    kind.gives_back() && repository.objects().release_reserve()
}

impl<'a> Session<'a> {
    /// Announces a session, and then reads what the repository holds: in this order, so that every
    /// collection either sees the session or is seen by it.
    pub fn begin(
        repository: &'a Repository,
        kind: SessionKind,
        writer: Writer,
    ) -> Result<Self, BackupError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| SealError::Random(error.to_string()))?;
        let id = SessionId(id);
        let file = SessionFile {
            version: 1,
            kind,
            writer: writer.name.clone(),
            time_ms: writer.time_ms,
            process: writer.process.clone(),
        };
        let plain = serde_json::to_vec(&file).expect("texts and numbers are JSON");
        let sealed = repository.sealer().seal(SealedKind::Record, &plain)?;
        let name = ObjectName::Session(id);
        // Where there is no room for even that, what is kept back is for this.
        match repository.put(&name, &sealed.bytes) {
            Err(error) if error.is_full() && gives_back(repository, kind) => {
                repository.put(&name, &sealed.bytes)?;
            }
            put => put?,
        }
        let mut session = Self {
            repository,
            id,
            kind,
            writer,
            state: Arc::default(),
            records: Vec::new(),
            stays: false,
            is_over: false,
        };
        session.state = repository.refresh_with_copies()?;
        if !kind.gives_back() {
            let objects = repository.objects();
            objects.keep_reserve(reserve_len(&session.state));
        }
        Ok(session)
    }

    /// The state of the repository as this session read it last: at its beginning, after each of
    /// its records, and at [`Session::refuse_fenced`].
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// Its writer.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Commits a record: what it names must be durable. Names, counter and parents are filled in.
    /// If this returns, it counts for ever; [`BackupError::Fenced`] says that it does not;
    /// [`BackupError::Uncertain`] that nobody can know yet.
    pub fn commit(&mut self, record: Record) -> Result<Committed, BackupError> {
        assert!(
            !self.stays && !self.is_over,
            "a session that is over says nothing more"
        );
        let mut record = Record {
            version: RECORD_VERSION,
            counter: self.state.next_counter(),
            parents: self.state.heads().iter().map(ToString::to_string).collect(),
            session: self.id.to_string(),
            writer: self.writer.name.clone(),
            time_ms: self.writer.time_ms,
            past: with_written_off(record.past, &self.repository.written_off()),
            ..record
        };
        record.date_returns(record.counter);
        let plain = serde_json::to_vec(&record).expect("texts and numbers are JSON");
        let sealed = self.repository.sealer().seal(SealedKind::Record, &plain)?;
        let name = RecordName {
            counter: record.counter,
            id: sealed.id,
        };
        self.put(name, &sealed.bytes)?;
        self.check(name)
    }

    /// Commits a record that may be too long for one object: in several, each of which counts once
    /// it is put ([`crate::record::parts`]). Returns the last.
    pub fn commit_in_parts(&mut self, record: Record) -> Result<Committed, BackupError> {
        let parts = record.into_parts(PART_LEN);
        let mut last = None;
        for part in parts {
            last = Some(self.commit(part)?);
        }
        Ok(last.expect("a record has a part"))
    }

    fn put(&mut self, name: RecordName, stored: &[u8]) -> Result<(), BackupError> {
        let twice = self.repository.twice();
        self.stays = true;
        let put = || twice.place().put(&name.object().to_string(), stored);
        let is_full = |error: &ObjectError| error.kind == ObjectErrorKind::Full;
        let outcome = match put() {
            Err(error) if is_full(&error) && gives_back(self.repository, self.kind) => put(),
            outcome => outcome,
        };
        match outcome {
            // It is there before the session is not any more: that is all that others rely on.
            Ok(()) => {
                // It is said. A copy that is missing is put back by who verifies or collects.
                let _ = twice.put_copy(&name.object(), stored);
                self.stays = false;
                Ok(())
            }
            Err(source)
                if matches!(source.kind, ObjectErrorKind::Full | ObjectErrorKind::Denied) =>
            {
                self.stays = false;
                Err(self.repository.failed(source))
            }
            Err(source) => Err(BackupError::Uncertain {
                session: self.id.to_string(),
                source,
            }),
        }
    }

    /// Checks that the record that was just put counts: only a listing after that can tell.
    fn check(&mut self, name: RecordName) -> Result<Committed, BackupError> {
        self.records.push(name);
        self.state = self.repository.refresh().map_err(|error| match error {
            BackupError::Objects { source, .. } => BackupError::Unconfirmed {
                place: self.repository.place(),
                source,
            },
            other => other,
        })?;
        let own = self.id.to_string();
        let counts = self.state.status(&name) == Some(Status::Counts) && !self.is_undecided(&own);
        if !counts && !self.repository.journal().is_repeated(&name, &self.state) {
            return Err(BackupError::Fenced { session: own });
        }
        Ok(Committed {
            record: name,
            state: self.state.clone(),
        })
    }

    fn is_undecided(&self, session: &str) -> bool {
        self.state.undecided().any(|undecided| undecided == session)
    }

    /// Fails if another session fenced this one: called before anything is done that cannot be
    /// undone.
    pub fn refuse_fenced(&mut self) -> Result<(), BackupError> {
        self.state = self.repository.refresh()?;
        let session = self.id.to_string();
        if self.state.is_fenced(&session) {
            Err(BackupError::Fenced { session })
        } else {
            Ok(())
        }
    }

    /// Takes the announcement away.
    pub fn end(mut self) -> Result<(), BackupError> {
        self.is_over = true;
        self.withdraw()
    }

    fn withdraw(&self) -> Result<(), BackupError> {
        if self.stays {
            return Ok(());
        }
        let name = ObjectName::Session(self.id).to_string();
        self.repository
            .objects()
            .delete(&name)
            .map_err(|source| self.repository.failed(source))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // The caller of a dropped session has an error already; a session that stays announced
            // only keeps collections waiting.
            let _ = self.withdraw();
        }
    }
}

/// The past of a record, with lost records that the person said to go on without: it stands for
/// them, so nobody misses them from then on.
fn with_written_off(past: Option<Past>, lost: &[RecordName]) -> Option<Past> {
    if lost.is_empty() {
        return past;
    }
    let mut past = past.unwrap_or_default();
    past.ids.extend(lost.iter().map(RecordName::short));
    Some(past)
}

/// The sessions that are announced now.
pub fn open_sessions(repository: &Repository) -> Result<Vec<OpenSession>, BackupError> {
    let names = repository.list(ObjectKind::Session)?;
    let mut sessions = Vec::new();
    for (name, _) in names {
        let ObjectName::Session(id) = name else {
            continue;
        };
        match repository.objects().get(&name.to_string()) {
            Ok(stored) => sessions.push(OpenSession {
                id,
                file: read(repository, &stored),
            }),
            Err(error) if error.kind == ObjectErrorKind::Missing => {}
            Err(error) => return Err(repository.failed(error)),
        }
    }
    sessions.sort_by_key(|session| session.id);
    Ok(sessions)
}

/// Removes what interrupted puts left, as far as nobody can be writing it; `own` is this process's
/// session. The number of files that are gone.
pub fn remove_leftovers(
    repository: &Repository,
    own: Option<SessionId>,
) -> Result<u64, BackupError> {
    let fail = |error| repository.failed(error);
    let left = repository.objects().leftovers().map_err(fail)?;
    if left.is_empty() {
        return Ok(0);
    }
    // Only now: whoever wrote one of them was announced, or is over.
    let is_alone = open_sessions(repository)?
        .iter()
        .all(|session| Some(session.id) == own);
    let mut count = 0;
    for name in &left {
        // One that stays is in nobody's way, so it is no reason to stop.
        let removed = repository.objects().remove_leftover(name, is_alone);
        count += u64::from(removed.unwrap_or(false));
    }
    Ok(count)
}

fn read(repository: &Repository, stored: &[u8]) -> Option<SessionFile> {
    let plain = repository
        .sealer()
        .open(SealedKind::Record, &ObjectId::of(stored), stored)
        .ok()?;
    serde_json::from_slice(&plain).ok()
}
