//! A repository as a chunk source of a store: chunks by their names.
//!
//! The repository is opened at the first request. The names of its chunks are then read from its
//! index objects, and the first bytes of each are kept in memory, for up to [`NAMES_MAX`] chunks;
//! of a larger repository the index is read for each request. A chunk that is not found is looked
//! for once more in what was pushed since, but not at every request.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::page::{PAGE_SPAN, PageEntry};
use vellum_core::tree::page_start;
use vellum_core::units::{ChunkId, ChunkLen};
use vellum_store::{ChunkSource, WantedChunks, WantedPage};

use crate::error::BackupError;
use crate::format::address;
use crate::reader::{Held, Reader};
use crate::repository::Repository;

/// Names whose addresses are kept in memory: 128 MiB, for 32 GiB of chunks of 4 KiB.
const NAMES_MAX: usize = 8 << 20;
/// The greatest age of a reading of the journal: if a wanted chunk is missing in an older one, the
/// journal is read again.
const LOOK_AGE_MAX: Duration = Duration::from_mins(1);

/// Opens a repository; the error is a sentence.
pub type OpenRepository = Box<dyn Fn() -> Result<Repository, String> + Send + Sync>;

/// A repository that is asked for chunks.
pub struct RepositorySource {
    place: String,
    open: OpenRepository,
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    repository: Repository,
    held: Held,
    addresses: Addresses,
    looked: Instant,
}

/// The addresses of chunks, by the first bytes of their names.
enum Addresses {
    /// All of them, in order.
    All(Vec<(u64, ChunkId)>),
    /// More names than fit into memory.
    TooMany,
}

impl RepositorySource {
    /// The repository at `place`, which `open` opens.
    #[must_use]
    pub fn new(place: String, open: OpenRepository) -> Self {
        Self {
            place,
            open,
            opened: Mutex::default(),
        }
    }
}

impl RepositorySource {
    /// Asks the repository, which is opened if it is not.
    fn ask<T>(
        &self,
        question: impl FnOnce(&mut Opened) -> Result<T, BackupError>,
    ) -> Result<T, String> {
        let mut slot = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match &mut *slot {
            Some(opened) => opened,
            empty => {
                let opened = Opened::of((self.open)()?).map_err(|error| error.to_string())?;
                empty.insert(opened)
            }
        };
        let answer = question(opened);
        if answer.is_err() {
            // The next question begins afresh.
            *slot = None;
        }
        answer.map_err(|error| error.to_string())
    }
}

impl ChunkSource for RepositorySource {
    fn source_name(&self) -> String {
        format!("the repository {}", self.place)
    }

    fn fetch_chunks(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
        self.ask(|opened| opened.fetch(wanted))
    }

    fn names_on(&self, wanted: WantedPage) -> Result<Option<Vec<Option<ChunkHash>>>, String> {
        self.ask(|opened| opened.names_on(wanted))
    }
}

impl Opened {
    fn of(repository: Repository) -> Result<Self, BackupError> {
        let (held, addresses) = {
            let reader = Reader::new(&repository);
            reader.load_indexes()?;
            (reader.held(), Addresses::of(&reader)?)
        };
        Ok(Self {
            repository,
            held,
            addresses,
            looked: Instant::now(),
        })
    }

    fn names_on(&self, wanted: WantedPage) -> Result<Option<Vec<Option<ChunkHash>>>, BackupError> {
        let reader = Reader::with(&self.repository, &self.held);
        refuse_other_chunks(wanted.chunk_len, &reader)?;
        if self.repository.state().content(wanted.content).is_none() {
            return Ok(None);
        }
        let content = reader.content(wanted.content)?;
        let count = wanted.chunk_len.count_for(content.len).0;
        let inside = count.saturating_sub(page_start(wanted.index).0);
        let mut names = vec![None; inside.min(PAGE_SPAN.into()) as usize];
        for run in content.page(wanted.index)?.runs() {
            let PageEntry::Chunk(first) = run.slot else {
                continue;
            };
            for nth in 0..run.len {
                let name = reader.name_of(first.advance_by(nth.into()))?;
                names[usize::from(run.start + nth)] = Some(name);
            }
        }
        Ok(Some(names))
    }

    fn fetch(&mut self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, BackupError> {
        {
            let reader = Reader::with(&self.repository, &self.held);
            refuse_other_chunks(wanted.chunk_len, &reader)?;
            let found = self.addresses.find(&reader, wanted.names)?;
            let is_young = self.looked.elapsed() < LOOK_AGE_MAX;
            if is_young || wanted.names.iter().all(|name| found.contains_key(name)) {
                return bytes(&reader, wanted.names, &found);
            }
        }
        self.repository.refresh()?;
        let reader = Reader::with(&self.repository, &self.held);
        reader.load_indexes()?;
        self.addresses = Addresses::of(&reader)?;
        self.looked = Instant::now();
        let found = self.addresses.find(&reader, wanted.names)?;
        bytes(&reader, wanted.names, &found)
    }
}

fn refuse_other_chunks(own: ChunkLen, reader: &Reader<'_>) -> Result<(), BackupError> {
    let there = reader.chunk_len()?;
    if own == there {
        return Ok(());
    }
    Err(BackupError::Parameter(format!(
        "it has chunks of {} bytes, not of {}",
        there.byte_len(),
        own.byte_len()
    )))
}

impl Addresses {
    fn of(reader: &Reader<'_>) -> Result<Self, BackupError> {
        let mut all = Vec::new();
        each_name(reader, &mut |name, address| {
            if all.len() <= NAMES_MAX {
                all.push((u64::from_be_bytes(name.index_prefix()), address));
            }
        })?;
        if all.len() > NAMES_MAX {
            return Ok(Self::TooMany);
        }
        all.sort_unstable();
        Ok(Self::All(all))
    }

    /// The address of a chunk for each of `names` that the repository has.
    fn find(
        &self,
        reader: &Reader<'_>,
        names: &[ChunkHash],
    ) -> Result<HashMap<ChunkHash, ChunkId>, BackupError> {
        let mut found = HashMap::new();
        match self {
            Self::All(all) => {
                for name in names {
                    let prefix = u64::from_be_bytes(name.index_prefix());
                    let from = all.partition_point(|(other, _)| *other < prefix);
                    for (_, address) in all[from..].iter().take_while(|(other, _)| *other == prefix)
                    {
                        if reader.name_of(*address)? == *name {
                            found.insert(*name, *address);
                        }
                    }
                }
            }
            Self::TooMany => {
                let wanted: HashSet<&ChunkHash> = names.iter().collect();
                each_name(reader, &mut |name, address| {
                    if wanted.contains(name) {
                        found.insert(*name, address);
                    }
                })?;
            }
        }
        Ok(found)
    }
}

/// Visits the names of all chunks.
fn each_name(
    reader: &Reader<'_>,
    visit: &mut dyn FnMut(&ChunkHash, ChunkId),
) -> Result<(), BackupError> {
    let catalog = reader.catalog();
    let visited = catalog.for_each_segment(|number, _, entry| {
        for (ordinal, name) in entry.chunks() {
            visit(name, address(number, ordinal));
        }
        Ok::<_, crate::catalog::CatalogError>(())
    });
    visited.map_err(|error| reader.told(error))
}

/// The bytes of each of `names`, where they are found and can be read.
fn bytes(
    reader: &Reader<'_>,
    names: &[ChunkHash],
    found: &HashMap<ChunkHash, ChunkId>,
) -> Result<Vec<Option<Vec<u8>>>, BackupError> {
    let mut wanted = IdSet::new();
    found.values().for_each(|address| wanted.insert(*address));
    let mut plain: HashMap<ChunkId, Vec<u8>> = HashMap::new();
    for group in reader.places_by_pack(&wanted)? {
        // A frame that is damaged there keeps nobody from the others.
        let frames = match reader.frames(&group) {
            Err(BackupError::Damaged { .. }) => continue,
            frames => frames?,
        };
        for (number, frame) in frames {
            for (ordinal, bytes) in frame.chunks() {
                let address = address(number, ordinal);
                if wanted.contains(address) {
                    plain.insert(address, bytes.to_vec());
                }
            }
        }
    }
    let of = |name| plain.get(found.get(name)?).cloned();
    Ok(names.iter().map(of).collect())
}
