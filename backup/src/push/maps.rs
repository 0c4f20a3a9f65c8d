//! Writes the maps of new contents: the entries that differ from their base, with addresses, as
//! blobs of a few objects.

use vellum_core::identity::ContentId;
use vellum_core::page::Page;
use vellum_core::tree::PageSet;
use vellum_core::units::{ChunkId, PageIndex};
use vellum_store::transfer::{PointInTime, RelativeMap};

use super::selection::{Base, NewContent};
use crate::error::BackupError;
use crate::format::{MAP_BLOB_LEN_TARGET, MapBlob, MapsWriter};
use crate::objects::ObjectName;
use crate::reader::{ContentView, Reader};
use crate::record::{Content, MapPart};

/// Bytes of blobs that one object holds, about.
const MAPS_LEN_TARGET: usize = 16 << 20;
/// The greatest length of a run in a blob, about, in bytes; and that of a page beside its runs.
const RUN_LEN: usize = 10;
const PAGE_LEN: usize = 8;

/// A content's map on its way into a repository.
pub(crate) trait ToldMap {
    /// The content whose map it is.
    fn content(&self) -> ContentId;
    /// The content that it is relative to, and the number of positions at which that is visible.
    fn parent(&self) -> Option<(ContentId, u64)>;
    /// The content's length in bytes.
    fn len(&self) -> u64;
    /// The pages that may have entries.
    fn pages(&self) -> &PageSet;
    /// The page `index` of it: `translate` gives a chunk's address, and the number of chunks at the
    /// same distance.
    fn page(
        &self,
        index: PageIndex,
        translate: &dyn Fn(ChunkId, u64) -> Option<(ChunkId, u64)>,
    ) -> Result<Page, BackupError>;
}

/// A new content's map, before its addresses are known.
pub(super) struct NewMap<'m> {
    pub(super) new: NewContent,
    own: RelativeMap<'m>,
    /// The content that it is relative to, where that is not a layer below.
    base: Option<ContentView<'m>>,
    pub(super) pages: PageSet,
    len: u64,
    parent_visible: u64,
}

impl<'m> NewMap<'m> {
    /// The map of `new`: no chunk is read, and of maps only those above what both have in common.
    pub(super) fn open(
        moment: &'m PointInTime,
        reader: &'m Reader<'m>,
        new: NewContent,
    ) -> Result<Self, BackupError> {
        let layer = moment.layer_by_id(new.layer)?;
        let below = match new.base {
            Base::None => None,
            Base::Layer(layer, _) => Some(layer),
            Base::Content { common, .. } => common,
        };
        let own = moment.relative_map(new.layer, below)?;
        let Base::Content { content, .. } = new.base else {
            let (pages, parent_visible) = (own.mapped_pages(), own.parent_visible.0);
            return Ok(Self {
                new,
                own,
                base: None,
                pages,
                len: layer.len,
                parent_visible,
            });
        };
        let common = below.and_then(|below| moment.tree().layer(below)?.content);
        let base = reader.content(content)?;
        let differing = reader.content_over(content, |other| Some(other) == common)?;
        let chunk_len = moment.store().parameters().chunk_len;
        let end = PageIndex(vellum_core::tree::pages_for(chunk_len.count_for(layer.len)));
        let pages = own
            .mapped_pages()
            .union_with(&differing.pages()?.pages_within(PageIndex(0), end));
        let parent_visible = chunk_len.count_for(base.len.min(layer.len)).0;
        // Layers that hide something of the layer below both differ on pages where neither has an
        // entry.
        let all = chunk_len.count_for(layer.len).0;
        let hides_nothing =
            base.len == layer.len && own.parent_visible.0 >= all && differing.base_visible() >= all;
        let pages = if common.is_none() || hides_nothing {
            pages
        } else {
            moment
                .relative_map(new.layer, None)?
                .mapped_pages()
                .union_with(&pages)
        };
        Ok(Self {
            new,
            own,
            base: Some(base),
            pages,
            len: layer.len,
            parent_visible,
        })
    }

    /// The page `index` in the store's ids: with all layers below, if it is to be compared.
    pub(super) fn local(&self, index: PageIndex) -> Result<Page, BackupError> {
        Ok(if self.base.is_some() {
            self.own.visible_page(index)?
        } else {
            self.own.relative_page(index)?
        })
    }
}

impl ToldMap for NewMap<'_> {
    fn content(&self) -> ContentId {
        self.new.content
    }

    fn parent(&self) -> Option<(ContentId, u64)> {
        match self.new.base {
            Base::None => None,
            Base::Layer(_, content) | Base::Content { content, .. } => {
                Some((content, self.parent_visible))
            }
        }
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn pages(&self) -> &PageSet {
        &self.pages
    }

    fn page(
        &self,
        index: PageIndex,
        translate: &dyn Fn(ChunkId, u64) -> Option<(ChunkId, u64)>,
    ) -> Result<Page, BackupError> {
        let page = translated(&self.local(index)?, translate)?;
        let Some(base) = &self.base else {
            return Ok(page);
        };
        let first = vellum_core::tree::page_start(index).0;
        let visible = self
            .parent_visible
            .saturating_sub(first)
            .min(vellum_core::page::PAGE_SPAN.into()) as u16;
        Ok(page.relative_to(&base.page(index)?, visible))
    }
}

/// A page with the addresses of chunks that are all there by now.
pub(crate) fn translated(
    page: &Page,
    translate: &dyn Fn(ChunkId, u64) -> Option<(ChunkId, u64)>,
) -> Result<Page, BackupError> {
    let page = page.with_translated_ids(translate);
    page.ok_or_else(|| {
        BackupError::Parameter(
            "a chunk was neither known nor sent: this is a mistake of this program".to_owned(),
        )
    })
}

/// Writes maps into objects.
pub(crate) struct Maps<'r> {
    reader: &'r Reader<'r>,
    chunk_len: u32,
    writer: MapsWriter,
    /// Contents, each with the places of its parts: in an object that is there, or in the one that
    /// is being filled.
    contents: Vec<Content>,
    /// Parts that wait for their object: the content's place, the part's place, the place in the
    /// object.
    waiting: Vec<(usize, usize, usize)>,
    bytes: u64,
}

impl<'r> Maps<'r> {
    pub(crate) fn new(reader: &'r Reader<'r>) -> Self {
        let chunk_len = reader.repository().file().chunk_len;
        Self {
            reader,
            chunk_len,
            writer: MapsWriter::default(),
            contents: Vec::new(),
            waiting: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds the map of a content.
    pub(crate) fn add(
        &mut self,
        map: &dyn ToldMap,
        translate: &dyn Fn(ChunkId, u64) -> Option<(ChunkId, u64)>,
    ) -> Result<(), BackupError> {
        let (mut pages, mut len) = (Vec::new(), 0);
        self.contents.push(Content {
            id: map.content().to_string(),
            parent: map.parent().map(|(parent, _)| parent.to_string()),
            len: map.len(),
            parent_visible: map.parent().map_or(0, |(_, visible)| visible),
            chunk_len: self.chunk_len,
            parts: Vec::new(),
        });
        for index in map.pages().iter() {
            let page = map.page(index, translate)?;
            if page.is_empty() {
                continue;
            }
            len += PAGE_LEN + RUN_LEN * page.runs().len();
            pages.push((index, page));
            if len >= MAP_BLOB_LEN_TARGET {
                self.add_blob(map, &std::mem::take(&mut pages))?;
                len = 0;
            }
        }
        if pages.is_empty() {
            Ok(())
        } else {
            self.add_blob(map, &pages)
        }
    }

    fn add_blob(
        &mut self,
        map: &dyn ToldMap,
        pages: &[(PageIndex, Page)],
    ) -> Result<(), BackupError> {
        let segment_of = |number| {
            self.reader
                .catalog()
                .segment_of(number)
                .expect("an address has a segment")
        };
        let blob = MapBlob::from_pages(map.content(), map.parent(), pages, segment_of);
        let place = self.writer.add(self.reader.repository().sealer(), &blob)?;
        let content = self.contents.len() - 1;
        let parts = &mut self.contents[content].parts;
        parts.push(MapPart {
            pages: (pages[0].0.0, pages[pages.len() - 1].0.0),
            object: String::new(),
            range: (0, 0),
        });
        self.waiting.push((content, parts.len() - 1, place));
        if self.writer.len() >= MAPS_LEN_TARGET {
            self.put()
        } else {
            Ok(())
        }
    }

    fn put(&mut self) -> Result<(), BackupError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let sealed = std::mem::take(&mut self.writer).finish(self.reader.repository().sealer())?;
        let name = ObjectName::Maps(sealed.object.id);
        self.reader.repository().put(&name, &sealed.object.bytes)?;
        self.bytes += sealed.object.bytes.len() as u64;
        for (content, part, place) in std::mem::take(&mut self.waiting) {
            let part = &mut self.contents[content].parts[part];
            (part.object, part.range) = (name.to_string(), sealed.ranges[place]);
        }
        Ok(())
    }

    /// The contents, whose maps are all there now; and how many bytes of maps were put.
    pub(crate) fn finish(mut self) -> Result<(Vec<Content>, u64), BackupError> {
        self.put()?;
        Ok((self.contents, self.bytes))
    }
}
