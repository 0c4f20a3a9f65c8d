//! Chunk sources: other holders of chunks, asked by name for those that are missing or damaged
//! here.
//!
//! A source may be far away, slow or gone. Each is asked in a thread of its own, one question at a
//! time, and the caller waits [`PATIENCE`] at most; a source that did not answer in time, or
//! failed, is not asked again for [`PAUSE`]. So a guest that reads a damaged chunk waits that long
//! for each source once, not for each chunk. An answer is not trusted: every chunk is verified
//! against its hash.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use vellum_core::hash::ChunkHash;
use vellum_core::identity::ContentId;
use vellum_core::units::{ChunkLen, PageIndex};

use super::sync::lock_unpoisoned;

/// Longest wait for an answer: a guest's own patience is 30 s and more.
pub(crate) const PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(500)
} else {
    Duration::from_secs(12)
};
/// Pause before a source that failed is asked again.
const PAUSE: Duration = Duration::from_mins(1);

/// Holder of chunks, asked by name.
pub trait ChunkSource: Send + Sync {
    /// Name of the source, for people.
    fn source_name(&self) -> String;

    /// The bytes of each of the wanted chunks, in their order, as far as it has them. They need not
    /// be right: each is verified against its hash by the caller. Fails, in words for people, if it
    /// cannot be asked now.
    fn fetch_chunks(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String>;

    /// The names of the chunks that the wanted page of a content shows, by position; none where it
    /// shows zeros. `None` if the source does not know that content, as is so of most kinds. Fails
    /// as [`ChunkSource::fetch_chunks`] does.
    fn names_on(&self, _: WantedPage) -> Result<Option<Vec<Option<ChunkHash>>>, String> {
        Ok(None)
    }
}

/// A page of a content whose own map is lost.
#[derive(Clone, Copy, Debug)]
pub struct WantedPage {
    /// The identity of the content.
    pub content: ContentId,
    /// The page of its map.
    pub index: PageIndex,
    /// The length of a position.
    pub chunk_len: ChunkLen,
}

/// Chunks that are looked for.
#[derive(Clone, Copy)]
pub struct WantedChunks<'w> {
    /// Their names, each once.
    pub names: &'w [ChunkHash],
    /// Their length.
    pub chunk_len: ChunkLen,
    /// Tells for each name whether the store that asks has the chunk, readable or not: for sources
    /// that have to find out where in them chunks begin.
    pub known: &'w (dyn Fn(&[ChunkHash]) -> Vec<bool> + Sync),
}

/// Tells which of some names the store has, readable or not.
pub(crate) trait KnownNames: Send + Sync {
    /// For each of `names` whether the store has it.
    fn are_known(&self, names: &[ChunkHash]) -> Vec<bool>;
}

/// The sources of a store, in the order in which they are asked.
#[derive(Default)]
pub(crate) struct ChunkSources(RwLock<Vec<Arc<AskedSource>>>);

/// A source and the thread that asks it.
pub(crate) struct AskedSource {
    source: Arc<dyn ChunkSource>,
    questions: Mutex<Option<Sender<Question>>>,
    /// Time until which it is left alone.
    paused: Mutex<Option<Instant>>,
}

/// Asks a source, and sends the answer to the caller that waits for it.
type Question = Box<dyn FnOnce(&dyn ChunkSource) + Send>;

/// Answer of a source, or the reason that there is none.
pub(crate) enum SourceReply<T> {
    /// The answer, unverified.
    Answer(T),
    /// It failed or did not answer in time: why. It is left alone for a while.
    Failed(String),
    /// It failed lately.
    Paused,
}

impl ChunkSources {
    pub(crate) fn set_sources(&self, sources: Vec<Arc<dyn ChunkSource>>) {
        let asked = sources
            .into_iter()
            .map(|source| Arc::new(AskedSource::new(source)));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = asked.collect();
    }

    /// Asks `source` before all others, until it is taken away again.
    pub(crate) fn add_first(&self, source: Arc<dyn ChunkSource>) -> Arc<AskedSource> {
        let asked = Arc::new(AskedSource::new(source));
        let mut sources = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sources.insert(0, Arc::clone(&asked));
        asked
    }

    pub(crate) fn remove_source(&self, asked: &Arc<AskedSource>) {
        let mut sources = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|other| !Arc::ptr_eq(other, asked));
    }

    pub(crate) fn list_sources(&self) -> Vec<Arc<AskedSource>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl AskedSource {
    fn new(source: Arc<dyn ChunkSource>) -> Self {
        Self {
            source,
            questions: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    pub(crate) fn source_name(&self) -> String {
        self.source.source_name()
    }

    /// Asks for the bytes of each of `names`; waits [`PATIENCE`] at most.
    pub(crate) fn ask_chunks(
        &self,
        names: &[ChunkHash],
        chunk_len: ChunkLen,
        known: Weak<dyn KnownNames>,
    ) -> SourceReply<Vec<Option<Vec<u8>>>> {
        let names = names.to_vec();
        self.wait_for(move |source| {
            let known = |names: &[ChunkHash]| match known.upgrade() {
                Some(known) => known.are_known(names),
                None => vec![false; names.len()],
            };
            let found = source.fetch_chunks(&WantedChunks {
                names: &names,
                chunk_len,
                known: &known,
            })?;
            if found.len() == names.len() {
                Ok(found)
            } else {
                Err("it answered something else".to_owned())
            }
        })
    }

    /// Asks for the names on a page; waits [`PATIENCE`] at most.
    pub(crate) fn ask_for_page(
        &self,
        page: WantedPage,
    ) -> SourceReply<Option<Vec<Option<ChunkHash>>>> {
        self.wait_for(move |source| source.names_on(page))
    }

    fn wait_for<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn ChunkSource) -> Result<T, String> + Send + 'static,
    ) -> SourceReply<T> {
        if lock_unpoisoned(&self.paused).is_some_and(|until| Instant::now() < until) {
            return SourceReply::Paused;
        }
        let (answer, answers) = channel();
        let question = Box::new(move |source: &dyn ChunkSource| {
            // The caller may have stopped waiting.
            let _ = answer.send(ask(source));
        });
        let outcome =
            self.send_question(question)
                .and_then(|()| match answers.recv_timeout(PATIENCE) {
                    Ok(answer) => answer,
                    Err(RecvTimeoutError::Timeout) => {
                        Err(format!("no answer within {} s", PATIENCE.as_secs()))
                    }
                    Err(RecvTimeoutError::Disconnected) => Err("it ended".to_owned()),
                });
        match outcome {
            Ok(found) => SourceReply::Answer(found),
            Err(reason) => {
                *lock_unpoisoned(&self.paused) = Some(Instant::now() + PAUSE);
                SourceReply::Failed(reason)
            }
        }
    }

    /// Gives the question to the thread, which is started if there is none.
    fn send_question(&self, question: Question) -> Result<(), String> {
        let mut questions = lock_unpoisoned(&self.questions);
        let question = match &*questions {
            Some(sender) => match sender.send(question) {
                Ok(()) => return Ok(()),
                // It panicked; that was reported when it happened.
                Err(back) => back.0,
            },
            None => question,
        };
        let (sender, receiver) = channel();
        let source = Arc::clone(&self.source);
        let thread = thread::Builder::new().name("chunk source".to_owned());
        // Not waited for by anybody: it may hang as long as what it asks, and holds no store.
        thread
            .spawn(move || answer_all(&*source, &receiver))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let sent = sender.send(question);
        *questions = Some(sender);
        sent.map_err(|_| "it ended".to_owned())
    }
}

fn answer_all(source: &dyn ChunkSource, questions: &Receiver<Question>) {
    for question in questions {
        question(source);
    }
}
