//! Reads the disk content of a repository's contents: their maps laid over each other, and the
//! chunks that they name.
//!
//! It does not know the store. Addresses are [`ChunkId`]s as the catalog numbers them, so pages are
//! a store's pages. A collection may move objects during a read: if one is missing, the journal is
//! read again and the lookup repeated, a few times if collections follow each other.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry};
use vellum_core::tree::{PageSet, page_start, pages_for};
use vellum_core::units::{ChunkId, ChunkLen, IMAGE_LEN_MAX, PageIndex};

use crate::catalog::{
    Catalog, CatalogError, Copies, FRAMES_CACHE_LEN, Place, PlainFrame, WholeFrame, share_out,
};
use crate::error::BackupError;
use crate::format::{MapBlob, split_address};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectId, ObjectName};
use crate::record::{Content, MapPart};
use crate::repository::Repository;
use crate::seal::SealedKind;

/// Memory for pages of maps.
const BLOBS_CACHE_LEN: u64 = 64 << 20;
/// The longest stored blob that is fetched: its content is bounded by its sealing.
const BLOB_LEN_MAX: u64 = 80 << 20;
/// Frames that are fetched and decoded together: 8 MiB at 128 KiB each.
const FRAMES_TOGETHER: usize = 64;
/// Neighbours in a pack that are fetched and decoded together: 16 MiB at 128 KiB each.
const NEIGHBOURS_TOGETHER: usize = 128;
/// Contents on top of each other: a collection keeps chains far shorter.
const CHAIN_LEN_MAX: usize = 1 << 20;

/// The number of times that something is looked up anew because it is not where it was.
const MOVES_MAX: usize = 5;

/// The pages of a blob.
type Pages = Arc<Vec<(PageIndex, Page)>>;

/// Reads frames of one pack.
type ReadFrames<'f, T> = dyn Fn(&[Place]) -> Result<Vec<T>, CatalogError> + 'f;

/// Cache limits of a reader. Lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Parts of packs and maps as they are stored, in the client's folder, for each repository;
    /// nothing is kept there if this is 0.
    pub disk_len: u64,
    /// Decoded chunks in memory.
    pub memory_len: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            disk_len: 4 << 30,
            memory_len: FRAMES_CACHE_LEN,
        }
    }
}

/// Reads contents of a repository. Shared by threads.
pub struct Reader<'r> {
    repository: &'r Repository,
    catalog: Arc<Catalog>,
    blobs: Arc<Cache<(ObjectId, u64), Pages, ByRuns>>,
}

/// The caches of a reader, for another one of the same repository.
pub(crate) struct Held {
    catalog: Arc<Catalog>,
    blobs: Arc<Cache<(ObjectId, u64), Pages, ByRuns>>,
}

/// One content.
pub struct ContentView<'r> {
    reader: &'r Reader<'r>,
    /// The content that it shows.
    pub id: ContentId,
    /// Its length in bytes.
    pub len: u64,
    /// Its maps, top first, down to one that is relative to nothing or to `base`.
    chain: Vec<Arc<Content>>,
    /// The content that the last map is relative to.
    pub base: Option<ContentId>,
}

#[derive(Clone)]
struct ByRuns;

impl Weighter<(ObjectId, u64), Pages> for ByRuns {
    fn weight(&self, _: &(ObjectId, u64), pages: &Pages) -> u64 {
        64 + pages
            .iter()
            .map(|(_, page)| 48 + size_of_val(page.runs()) as u64)
            .sum::<u64>()
    }
}

/// A failure met while reading the repository.
pub(crate) enum Fault {
    /// An object is gone: it may have been moved.
    Missing(BackupError),
    /// Anything else.
    Other(BackupError),
}

impl Fault {
    fn into_error(self) -> BackupError {
        match self {
            Self::Missing(error) | Self::Other(error) => error,
        }
    }
}

impl<'r> Reader<'r> {
    /// A reader that knows no index yet: see [`Reader::load_indexes`].
    #[must_use]
    pub fn new(repository: &'r Repository) -> Self {
        Self::over(repository, Self::new_catalog(repository))
    }

    /// The same for a random-access reader that lives long, within `limits`: fetched parts stay in
    /// the client's folder.
    #[must_use]
    pub(crate) fn for_guests(repository: &'r Repository, limits: CacheLimits) -> Self {
        let folder = repository.cache_folder().filter(|_| limits.disk_len > 0);
        let copies = folder.map(|folder| Copies::new(folder.join("parts"), limits.disk_len));
        Self::over(
            repository,
            Self::new_catalog(repository).read_here_and_there(copies, limits.memory_len),
        )
    }

    fn over(repository: &'r Repository, catalog: Catalog) -> Self {
        Self::on(repository, Arc::new(catalog))
    }

    /// A reader by a catalog that is there.
    pub(crate) fn on(repository: &'r Repository, catalog: Arc<Catalog>) -> Self {
        Self {
            repository,
            catalog,
            blobs: Arc::new(Cache::with_weighter(1024, BLOBS_CACHE_LEN, ByRuns)),
        }
    }

    fn new_catalog(repository: &Repository) -> Catalog {
        let folder = repository.cache_folder().map(|folder| folder.join("index"));
        Catalog::new(
            repository.objects().clone(),
            repository.sealer().clone(),
            repository.file().chunk_len,
            folder,
        )
    }

    /// Its caches, shared.
    pub(crate) fn held(&self) -> Held {
        Held {
            catalog: Arc::clone(&self.catalog),
            blobs: Arc::clone(&self.blobs),
        }
    }

    /// A reader that goes on where another one, whose `held` this is, is. Cost: nothing.
    pub(crate) fn with(repository: &'r Repository, held: &Held) -> Self {
        Self {
            repository,
            catalog: Arc::clone(&held.catalog),
            blobs: Arc::clone(&held.blobs),
        }
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// The chunk index.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The length of every chunk.
    pub fn chunk_len(&self) -> Result<ChunkLen, BackupError> {
        let len = self.repository.file().chunk_len;
        ChunkLen::new(len).ok_or_else(|| {
            BackupError::Parameter(format!(
                "the repository says that its chunks have {len} bytes"
            ))
        })
    }

    /// Learns which index objects count now. One that is damaged keeps nobody from what the others
    /// know: see [`Reader::refuse_lost_indexes`]. Cost: fetching those that are not in the cache
    /// and of which no record tells the parts; parts are fetched where they are needed.
    pub fn load_indexes(&self) -> Result<(), BackupError> {
        let load = || crate::prune::refresh_on_demand(self.repository, &self.catalog);
        let is_missing = |error: &BackupError| match error {
            BackupError::Objects { source, .. } => source.kind == ObjectErrorKind::Missing,
            _ => false,
        };
        let mut done = load();
        if done.as_ref().is_err_and(is_missing) {
            // A collection took it away since the journal was read.
            self.repository.refresh()?;
            done = load();
        }
        match done {
            Err(error) if is_missing(&error) || matches!(error, BackupError::Damaged { .. }) => {
                let state = self.repository.state();
                let condemned = state.doubtful_packs().into_iter().collect();
                let whole = self
                    .catalog
                    .refresh_with_what_is_whole(state.indexes().keys().copied(), condemned);
                whole.map_err(|error| self.told(error))
            }
            done => done,
        }
    }

    /// Loads what the index has of the segments of `wanted`: several requests at once. A part that
    /// is gone is looked for with the first chunk that needs it.
    fn load_segments(&self, wanted: &IdSet) -> Result<(), BackupError> {
        let (mut numbers, mut next) = (Vec::new(), wanted.next_from(ChunkId(0)));
        while let Some(address) = next {
            let (number, _) = split_address(address);
            numbers.push(number);
            let behind = number
                .checked_add(1)
                .map(|number| crate::format::address(number, 0));
            next = behind.and_then(|behind| wanted.next_from(behind));
        }
        match self.catalog.load_segments(&numbers) {
            Err(error) if error.is_missing() => Ok(()),
            done => done.map_err(|error| self.told(error)),
        }
    }

    /// The frame that holds the chunk at `address`.
    pub(crate) fn place(&self, address: ChunkId) -> Result<Place, BackupError> {
        let mut found = self.catalog.find(address);
        if found.as_ref().is_err_and(CatalogError::is_missing) {
            // A collection took the index object away since the journal was read.
            self.repository.refresh()?;
            self.load_indexes()?;
            found = self.catalog.find(address);
        }
        while let Err(error) = &found
            && error.is_missing()
            && self.catalog.lose_index(error)
        {
            found = self.catalog.find(address);
        }
        let place = found.map_err(|error| self.told(error))?;
        place.ok_or_else(|| self.told(self.catalog.unknown(address)))
    }

    /// Refuses to go on if an index object is damaged: for a session that builds on what is there.
    pub fn refuse_lost_indexes(&self) -> Result<(), BackupError> {
        self.catalog
            .lost_index()
            .map_or(Ok(()), |(object, reason)| Err(self.damaged(object, reason)))
    }

    /// A content as the repository has it.
    pub fn content(&'r self, id: ContentId) -> Result<ContentView<'r>, BackupError> {
        self.content_over(id, |_| false)
    }

    /// A content as a map relative to the first below it that `is_there`, or to nothing.
    pub fn content_over(
        &'r self,
        id: ContentId,
        is_there: impl Fn(ContentId) -> bool,
    ) -> Result<ContentView<'r>, BackupError> {
        let state = self.repository.state();
        let unknown = |id: ContentId| {
            self.damaged(
                format!("content {id}"),
                "no record says what it is".to_owned(),
            )
        };
        let (mut chain, mut seen, mut next) = (Vec::new(), HashSet::new(), Some(id));
        while let Some(id) = next.filter(|id| chain.is_empty() || !is_there(*id)) {
            let entry = state.content(id).ok_or_else(|| unknown(id))?;
            if !seen.insert(id) || chain.len() >= CHAIN_LEN_MAX {
                return Err(self.damaged(
                    format!("content {id}"),
                    "it is relative to itself".to_owned(),
                ));
            }
            self.check(&entry.content)?;
            next = match &entry.content.parent {
                Some(text) => Some(ContentId::parse(text).ok_or_else(|| unknown(id))?),
                None => None,
            };
            chain.push(entry.content.clone());
        }
        let len = chain.first().ok_or_else(|| unknown(id))?.len;
        Ok(ContentView {
            reader: self,
            id,
            len,
            chain,
            base: next,
        })
    }

    /// A content, what it is relative to, and so on: down to the first that no record knows.
    #[must_use]
    pub fn ancestry(&self, id: ContentId) -> Vec<ContentId> {
        let state = self.repository.state();
        let (mut ids, mut seen, mut next) = (Vec::new(), HashSet::new(), Some(id));
        while let Some(id) = next.filter(|id| seen.insert(*id)) {
            ids.push(id);
            next = state
                .content(id)
                .and_then(|entry| ContentId::parse(entry.content.parent.as_deref()?));
        }
        ids
    }

    fn check(&self, content: &Content) -> Result<(), BackupError> {
        let fits =
            content.chunk_len == self.repository.file().chunk_len && content.len <= IMAGE_LEN_MAX;
        let ordered = content
            .parts
            .iter()
            .all(|part| part.pages.0 <= part.pages.1);
        let ordered = ordered
            && content
                .parts
                .windows(2)
                .all(|pair| pair[0].pages.1 < pair[1].pages.0);
        if fits && ordered {
            Ok(())
        } else {
            Err(self.damaged(
                format!("content {}", content.id),
                "its record makes no sense".to_owned(),
            ))
        }
    }

    /// The pages of one part of a map.
    fn part(&self, content: &Content, part: &MapPart) -> Result<Pages, Fault> {
        let object = &part.object;
        let damaged = |reason: String| Fault::Other(self.damaged(object.clone(), reason));
        let name =
            ObjectName::parse(object).or_else(|| ObjectId::parse(object).map(ObjectName::Maps));
        let Some(ObjectName::Maps(id)) = name else {
            return Err(damaged("it cannot hold a map".to_owned()));
        };
        let (offset, len) = part.range;
        if let Some(pages) = self.blobs.get(&(id, offset)) {
            return Ok(pages);
        }
        let end = offset
            .checked_add(len)
            .filter(|_| len <= BLOB_LEN_MAX)
            .ok_or_else(|| damaged("a map that is too long".to_owned()))?;
        let blob = self.blob(content, part, &id, offset..end)?;
        let pages: Pages = Arc::new(
            blob.into_pages(|segment| self.catalog.number_of(segment))
                .collect(),
        );
        self.blobs.insert((id, offset), pages.clone());
        Ok(pages)
    }

    /// One part of a map, from the client's folder if it is there, and is that.
    fn blob(
        &self,
        content: &Content,
        part: &MapPart,
        id: &ObjectId,
        range: Range<u64>,
    ) -> Result<MapBlob, Fault> {
        let copies = self.catalog.copies();
        let kept = copies.and_then(|copies| copies.take(id, range.clone()));
        if let Some(blob) = kept.and_then(|stored| self.opened(content, part, &stored).ok()) {
            return Ok(blob);
        }
        let (blob, stored) = self.repository.twice().read_part(
            &ObjectName::Maps(*id).to_string(),
            range.clone(),
            |fetched| {
                let stored = fetched.map_err(|error| self.fault(error))?;
                let opened = self.opened(content, part, &stored);
                Ok((
                    opened.map_err(|reason| {
                        Fault::Other(self.damaged(part.object.clone(), reason))
                    })?,
                    stored,
                ))
            },
        )?;
        if let Some(copies) = copies {
            copies.keep(id, range.start, &stored);
        }
        Ok(blob)
    }

    /// The map that `stored` is, if it is that part of the content's; why not, if not.
    fn opened(&self, content: &Content, part: &MapPart, stored: &[u8]) -> Result<MapBlob, String> {
        let plain = self
            .repository
            .sealer()
            .open_blob(SealedKind::Maps, stored)
            .map_err(|error| error.to_string())?;
        let blob = MapBlob::decode(&plain).map_err(|error| error.to_string())?;
        let (own, parent) = (
            ContentId::parse(&content.id),
            content.parent.as_deref().and_then(ContentId::parse),
        );
        let is_it =
            own.is_some_and(|own| blob.is_of(own, parent, content.parent_visible, part.pages));
        if is_it {
            Ok(blob)
        } else {
            Err("the map of another content stands there".to_owned())
        }
    }

    fn fault(&self, error: ObjectError) -> Fault {
        let is_missing = error.kind == ObjectErrorKind::Missing;
        let error = self.repository.failed(error);
        if is_missing {
            Fault::Missing(error)
        } else {
            Fault::Other(error)
        }
    }

    /// The frames that hold the chunks of `wanted`, in order of addresses, a few of one pack
    /// together.
    pub fn places(&self, wanted: &IdSet) -> Result<Vec<Vec<Place>>, BackupError> {
        let mut groups: Vec<Vec<Place>> = Vec::new();
        self.load_segments(wanted)?;
        let mut next = wanted.next_from(ChunkId(0));
        while let Some(address) = next {
            let place = self.place(address)?;
            let is_here = |address: ChunkId| {
                let (segment, ordinal) = split_address(address);
                segment == place.segment
                    && ordinal
                        .checked_sub(place.first)
                        .is_some_and(|at| place.presence.has(at))
            };
            next = wanted.next_from(address.advance_by(1));
            while let Some(address) = next.filter(|address| is_here(*address)) {
                next = wanted.next_from(address.advance_by(1));
            }
            match groups.last_mut() {
                Some(group) if group.len() < FRAMES_TOGETHER && group[0].pack == place.pack => {
                    group.push(place);
                }
                _ => groups.push(vec![place]),
            }
        }
        Ok(groups)
    }

    /// The same in the order of packs: what lies side by side there comes with one request, and in
    /// an encrypted repository that is not what follows each other on a disk.
    pub(crate) fn places_by_pack(&self, wanted: &IdSet) -> Result<Vec<Vec<Place>>, BackupError> {
        let mut places: Vec<Place> = self.places(wanted)?.into_iter().flatten().collect();
        places.sort_by_key(|place| (place.pack, place.offset));
        places.dedup_by_key(|place| (place.pack, place.offset));
        let packs = places.chunk_by(|a, b| a.pack == b.pack);
        Ok(packs
            .flat_map(|pack| pack.chunks(NEIGHBOURS_TOGETHER))
            .map(<[Place]>::to_vec)
            .collect())
    }

    /// The chunks of frames of one pack, verified. If the pack is gone, wherever they are now.
    pub fn frames(&self, places: &[Place]) -> Result<Vec<(u32, PlainFrame)>, BackupError> {
        self.frames_by(places, &|places| self.catalog.read_frames(places))
    }

    /// Visits the frames of each group, in any order: as many groups are under way as the place
    /// answers requests at once, or as there are cores. Memory: so many groups.
    pub(crate) fn each_group(
        &self,
        groups: &[Vec<Place>],
        visit: &(dyn Fn(Vec<(u32, PlainFrame)>) -> Result<(), BackupError> + Sync),
    ) -> Result<(), BackupError> {
        let requests = self.repository.objects().requests_together();
        let at_once = requests.max(rayon::current_num_threads());
        share_out(groups.len(), at_once, &|nth| {
            visit(self.frames(&groups[nth])?)
        })
    }

    /// The same with their parts as they are stored. Groups whose pack is gone are left out.
    pub(crate) fn each_group_sealed(
        &self,
        groups: &[Vec<Place>],
        visit: &(dyn Fn(&[Place], Vec<Vec<u8>>) -> Result<(), BackupError> + Sync),
    ) -> Result<(), BackupError> {
        let requests = self.repository.objects().requests_together();
        share_out(groups.len(), requests.max(1), &|nth| match self
            .catalog
            .sealed_parts(&groups[nth])
        {
            Ok(parts) => visit(&groups[nth], parts),
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(self.told(error)),
        })
    }

    /// The frames of a group, each with its payload.
    pub(crate) fn whole_frames(
        &self,
        places: &[Place],
    ) -> Result<Vec<(u32, WholeFrame)>, BackupError> {
        self.frames_by(places, &|places| self.catalog.read_whole_frames(places))
    }

    fn frames_by<T>(
        &self,
        places: &[Place],
        read: &ReadFrames<'_, T>,
    ) -> Result<Vec<(u32, T)>, BackupError> {
        match read(places) {
            Ok(frames) => Ok(places
                .iter()
                .map(|place| place.segment)
                .zip(frames)
                .collect()),
            Err(error) if error.is_missing() => self.moved_frames(places, error, read, MOVES_MAX),
            Err(error) => Err(self.told(error)),
        }
    }

    /// The name of the chunk at `address`.
    pub(crate) fn name_of(&self, address: ChunkId) -> Result<ChunkHash, BackupError> {
        let (number, ordinal) = split_address(address);
        let names = self
            .catalog
            .names(number)
            .map_err(|error| self.told(error))?;
        names
            .hash(ordinal)
            .copied()
            .ok_or_else(|| self.told(self.catalog.unknown(address)))
    }

    /// The frame that holds the chunk at `address`, from memory if it was read a moment ago.
    pub(crate) fn frame(
        &self,
        address: vellum_core::units::ChunkId,
    ) -> Result<Arc<PlainFrame>, BackupError> {
        self.again_if_missing(|| {
            let place = self.place(address)?;
            self.catalog
                .read_frame(&place)
                .map_err(|error| self.told(error))
        })
    }

    /// The frames with the chunks of `places`, which are not there any more; `moves` more moves of
    /// them are borne.
    fn moved_frames<T>(
        &self,
        places: &[Place],
        error: CatalogError,
        read: &ReadFrames<'_, T>,
        moves: usize,
    ) -> Result<Vec<(u32, T)>, BackupError> {
        self.repository.refresh()?;
        self.load_indexes()?;
        let mut wanted = IdSet::new();
        for place in places {
            let first = crate::format::address(place.segment, place.first);
            for address in place
                .presence
                .offsets()
                .map(|at| first.advance_by(at.into()))
            {
                let found = self
                    .catalog
                    .find(address)
                    .map_err(|error| self.told(error))?;
                // Dead chunks may be gone by now, and are not missed.
                if found.is_some() {
                    wanted.insert(address);
                }
            }
        }
        let groups = self.places(&wanted)?;
        if groups.is_empty()
            || groups
                .iter()
                .flatten()
                .any(|place| places.iter().any(|old| old == place))
        {
            return Err(self.told(error));
        }
        let mut frames = Vec::new();
        for group in groups {
            match read(&group) {
                Ok(found) => frames.extend(group.iter().map(|place| place.segment).zip(found)),
                Err(error) if error.is_missing() && moves > 1 => {
                    frames.extend(self.moved_frames(&group, error, read, moves - 1)?);
                }
                Err(error) => return Err(self.told(error)),
            }
        }
        Ok(frames)
    }

    /// Runs `read`; if an object is gone, again after reading the journal again, as long as that
    /// tells something new.
    pub(crate) fn again_if_missing<T>(
        &self,
        read: impl Fn() -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        for _ in 0..MOVES_MAX {
            // What another thread read meanwhile is new to this one, too.
            let before = self.repository.state();
            match read() {
                Err(BackupError::Objects { source, .. })
                    if source.kind == ObjectErrorKind::Missing =>
                {
                    self.repository.refresh()?;
                    self.load_indexes()?;
                    if self.repository.state().heads() == before.heads() {
                        break;
                    }
                }
                other => return other,
            }
        }
        read()
    }

    /// An error of the catalog, as one of this repository.
    pub(crate) fn told(&self, error: CatalogError) -> BackupError {
        match error {
            CatalogError::Objects(error) => self.repository.failed(error),
            CatalogError::Seal { object, source } => self.damaged(object, source.to_string()),
            CatalogError::Frame {
                object,
                offset,
                source,
            } => self.damaged(format!("{object}, frame at {offset}"), source.to_string()),
            CatalogError::Unknown { ref lost, .. } => {
                let object = lost.clone().unwrap_or_else(|| "the index".to_owned());
                self.damaged(object, error.to_string())
            }
        }
    }

    /// An object that is not what it must be.
    pub(crate) fn damaged(&self, object: String, reason: String) -> BackupError {
        let object = format!("{object} in {}", self.repository.place());
        BackupError::Damaged {
            object,
            reason,
            points: Vec::new(),
        }
    }
}

impl ContentView<'_> {
    /// The number of positions at which the base is visible.
    #[must_use]
    pub fn base_visible(&self) -> u64 {
        self.chain
            .iter()
            .map(|content| content.parent_visible)
            .min()
            .filter(|_| self.base.is_some())
            .unwrap_or(0)
    }

    /// This content, then its parent, and so on down to the base.
    pub fn contents(&self) -> impl Iterator<Item = ContentId> + '_ {
        self.chain
            .iter()
            .filter_map(|content| ContentId::parse(&content.id))
    }

    /// The pages inside the disk that may have entries. Cost: fetching the maps that are not in
    /// memory.
    pub fn pages(&self) -> Result<PageSet, BackupError> {
        let mut all = Vec::with_capacity(self.chain.len());
        for content in &self.chain {
            let mut set = PageSet::new();
            for part in &content.parts {
                let pages = self.reader.part(content, part).map_err(Fault::into_error)?;
                pages.iter().for_each(|(index, _)| set.insert(*index));
            }
            all.push(set);
        }
        let end = pages_for(self.reader.chunk_len()?.count_for(self.len));
        Ok(PageSet::union_of(&all).pages_within(PageIndex(0), PageIndex(end)))
    }

    /// The map page `index`, merged from the maps down to the base; explicit zeros are kept if
    /// there is a base.
    pub fn page(&self, index: PageIndex) -> Result<Page, BackupError> {
        let (mut seen, mut visible) = (Page::new(), PAGE_SPAN);
        let first = page_start(index).0;
        for content in &self.chain {
            let at = content.parts.partition_point(|part| part.pages.1 < index.0);
            if let Some(part) = content.parts.get(at).filter(|part| part.pages.0 <= index.0) {
                let pages = self.reader.part(content, part).map_err(Fault::into_error)?;
                if let Ok(place) = pages.binary_search_by_key(&index, |(index, _)| *index) {
                    seen = seen.overlay_on(&pages[place].1, visible);
                }
            }
            visible = visible.min(
                content
                    .parent_visible
                    .saturating_sub(first)
                    .min(PAGE_SPAN.into()) as u16,
            );
            if seen.covers_up_to(visible) {
                break;
            }
        }
        let inside = self
            .reader
            .chunk_len()?
            .count_for(self.len)
            .0
            .saturating_sub(first)
            .min(PAGE_SPAN.into()) as u16;
        let seen = seen.clipped_to(inside);
        Ok(if self.base.is_none() {
            seen.resolved_at_root()
        } else {
            seen
        })
    }

    /// The addresses of all chunks that it names down to the base.
    pub fn addresses(&self) -> Result<IdSet, BackupError> {
        let mut wanted = IdSet::new();
        for index in self.pages()?.iter() {
            for run in self.page(index)?.runs() {
                if let PageEntry::Chunk(first) = run.slot {
                    wanted.insert_run(first, run.len.into());
                }
            }
        }
        Ok(wanted)
    }
}
