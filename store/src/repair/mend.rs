//! Mends the records of the repaired database from each other.

use std::collections::BTreeMap;
use std::path::Path;

use vellum_core::frame::{FrameHeader, StoredPayload, frame_key, parse_frame_key};
use vellum_core::units::{ChunkId, ChunkLen};

use super::block::EntryKind;
use super::content::{ContentMends, HurtFamilies, mend_headers, mend_index};
use super::earlier::fallen_back;
use super::history::FamilyHistory;
use super::inventory::DatabaseSurvey;
use super::maps::{MapMends, RecordCatalog, read_meta};
use super::twins::mend_twins;
use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::keys::{COMMITS_KEY, COUNTERS_KEY, PARAMETERS_KEY};
use crate::records::{Commits, Counters, StoreParameters};
use crate::reserve::Reserve;
use crate::sizes::Sizes;
use crate::stored_records::put_record;

/// Bytes of records that are put back in one batch.
const BATCH_LEN_MAX: usize = 8 << 20;
/// Numbers that are passed over when the end of a log is given up: what it gave is not known.
const NUMBERS_SKIPPED: u64 = 1 << 20;

/// Counts of the records that were mended, and of those that were lost.
#[derive(Default)]
pub(super) struct MendReport {
    put_back: BTreeMap<&'static str, u64>,
    twins: BTreeMap<&'static str, u64>,
    content: ContentMends,
    /// True if a header may be lost of which nothing else is left.
    pub(super) may_miss_headers: bool,
    pub(super) pages_lost: u64,
    pub(super) names_lost: Vec<String>,
    pub(super) earlier: Vec<String>,
    parameters_guessed: bool,
    numbers_recounted: bool,
    commits_rewritten: bool,
    pub(super) commits: u64,
}

impl MendReport {
    /// Describes the mends for the user.
    pub(super) fn describe_mends(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let count = |count: u64| {
            if count == 1 {
                "1 record".to_owned()
            } else {
                format!("{count} records")
            }
        };
        for (family, number) in &self.put_back {
            lines.push(format!(
                "{} of {family} put back from a damaged table",
                count(*number)
            ));
        }
        for (family, number) in &self.twins {
            lines.push(format!(
                "{} of {family} brought back from the other place",
                count(*number)
            ));
        }
        for (number, what) in [
            (self.content.headers, "of headers made anew from frames"),
            (
                self.content.headers_lost,
                "of headers cannot be read and go",
            ),
            (
                self.content.headers_stale,
                "of headers of deleted frames go again",
            ),
            (
                self.content.index_entries,
                "of index made anew from headers",
            ),
            (self.pages_lost, "of pages are lost and say so from now on"),
        ] {
            if number > 0 {
                lines.push(format!("{} {what}", count(number)));
            }
        }
        lines.extend(self.names_lost.iter().cloned());
        for (is_so, what) in [
            (
                self.parameters_guessed,
                "the store's parameters are found out from its frames",
            ),
            (
                self.numbers_recounted,
                "the numbers to give next are counted anew",
            ),
            (
                self.commits_rewritten,
                "the count of commits is written anew",
            ),
        ] {
            if is_so {
                lines.push(what.to_owned());
            }
        }
        lines
    }
}

/// Mends the records of the database in `target`, which was made of what `survey` found in
/// `source`.
pub(super) fn mend_records(
    survey: &DatabaseSurvey,
    source: &Path,
    target: &Path,
    (sizes, reserve): &(Sizes, Reserve),
    acknowledged: u64,
) -> Result<MendReport, StoreError> {
    let histories = read_histories(survey, source)?;
    let database = Database::open_quietly(target, sizes, reserve)?;
    let mut mended = MendReport::default();
    put_back(&database, &histories, &mut mended)?;
    let twins = mend_twins(&database, &histories, &survey.doubtful)?;
    database.write_batch(twins.batch, Durability::Logged)?;
    mended.twins = twins.mended;
    let parameters = mend_parameters(&database, &mut mended)?;
    let books = mend_books(&database, survey, &histories, parameters, &mut mended)?;
    let told = twins.earlier.iter().map(|(family, key)| {
        format!(
            "the record {} of {} may be an older one",
            key.escape_ascii(),
            family.family_name()
        )
    });
    mended.earlier = fallen_back(&survey.later, &survey.manifest, &books);
    mended.earlier.extend(told);
    let commits = read_meta::<Commits>(&database, COMMITS_KEY)?;
    mended.commits_rewritten = commits.is_none() && acknowledged > 0;
    mended.commits = commits.map_or(acknowledged, |commits| commits.0);
    if mended.commits_rewritten {
        let mut batch = Batch::default();
        put_record(
            &mut batch,
            Family::Meta,
            COMMITS_KEY,
            &Commits(acknowledged),
        );
        database.write_batch(batch, Durability::Logged)?;
    }
    database.flush_bulk(database.write_generation())?;
    Ok(mended)
}

fn read_histories(
    survey: &DatabaseSurvey,
    source: &Path,
) -> Result<BTreeMap<&'static str, FamilyHistory>, StoreError> {
    let mut histories = BTreeMap::new();
    // The index is made anew from the headers: what is left of it need not be looked for.
    for family in Family::ALL
        .into_iter()
        .filter(|family| *family != Family::Index)
    {
        let history = FamilyHistory::read_family(survey, source, family)?;
        histories.extend(history.map(|history| (family.family_name(), history)));
    }
    Ok(histories)
}

/// Puts what is left of damaged tables back where nothing newer is known. What is kept twice is
/// not: see `twins`.
fn put_back(
    database: &Database,
    histories: &BTreeMap<&'static str, FamilyHistory>,
    mended: &mut MendReport,
) -> Result<(), StoreError> {
    for family in [Family::Frames, Family::Headers, Family::Pages] {
        let (mut batch, mut count) = (Batch::default(), 0);
        let history = histories.get(family.family_name());
        for entry in history.into_iter().flat_map(FamilyHistory::winning_records) {
            match entry.kind {
                EntryKind::Put => batch.put_record(family, &entry.key, &entry.value),
                EntryKind::Delete => batch.delete_record(family, &entry.key),
            }
            count += 1;
            if batch.len() > BATCH_LEN_MAX {
                database.write_batch(std::mem::take(&mut batch), Durability::Bulk)?;
            }
        }
        database.write_batch(batch, Durability::Bulk)?;
        if count > 0 {
            mended.put_back.insert(family.family_name(), count);
        }
    }
    database.flush_bulk(database.write_generation())
}

/// The store's parameters; found out from a frame if their record is lost twice.
fn mend_parameters(
    database: &Database,
    mended: &mut MendReport,
) -> Result<StoreParameters, StoreError> {
    if let Some(parameters) = read_meta(database, PARAMETERS_KEY)? {
        return Ok(parameters);
    }
    let gone = || {
        StoreError::damaged_record(
            "the store's parameters",
            "they are gone, and no frame tells them",
        )
    };
    let parameters = StoreParameters {
        chunk_len: chunk_len(database)?.ok_or_else(gone)?,
        ..StoreParameters::DEFAULT
    };
    parameters.check_valid()?;
    let mut batch = Batch::default();
    put_record(&mut batch, Family::Meta, PARAMETERS_KEY, &parameters);
    database.write_batch(batch, Durability::Logged)?;
    mended.parameters_guessed = true;
    Ok(parameters)
}

/// The length of the chunks of the first frame that can be read.
fn chunk_len(database: &Database) -> Result<Option<ChunkLen>, StoreError> {
    let mut scan = database.scan_from(Family::Headers, &[]);
    while let Some((key, value)) = scan.next()? {
        let Ok(first) = parse_frame_key(key) else {
            continue;
        };
        let Ok(header) = FrameHeader::decode(first, value) else {
            continue;
        };
        let Some(payload) = database.get(Family::Frames, &frame_key(first))? else {
            continue;
        };
        let Ok(payload) = StoredPayload::decode(first, &payload) else {
            continue;
        };
        let count = u32::try_from(header.chunk_count()).unwrap_or(u32::MAX);
        return Ok(ChunkLen::new(payload.plain_len() / count));
    }
    Ok(None)
}

/// Makes content and maps hold together, and counts the numbers to give next anew.
fn mend_books(
    database: &Database,
    survey: &DatabaseSurvey,
    histories: &BTreeMap<&'static str, FamilyHistory>,
    parameters: StoreParameters,
    mended: &mut MendReport,
) -> Result<RecordCatalog, StoreError> {
    let stored = read_meta::<Counters>(database, COUNTERS_KEY)?;
    let mut numbers = stored.unwrap_or_default();
    let is_hurt = |family: Family| survey.damaged.iter().any(|table| table.family == family);
    // Known before the headers are complete: it only bounds the last frame.
    let next_chunk = ChunkId(stored.map_or(u64::MAX, |numbers| numbers.next_chunk));
    let hurt = HurtFamilies {
        headers: is_hurt(Family::Headers) || survey.is_loose,
        frames: is_hurt(Family::Frames) || survey.is_loose,
    };
    mended.may_miss_headers = hurt.headers;
    mend_headers(database, parameters, next_chunk, hurt, &mut mended.content)?;
    if is_hurt(Family::Index) || survey.is_loose || mended.content.headers > 0 {
        mend_index(database, &mut mended.content)?;
    }
    if let Some((key, value)) = database.last_at_or_before(Family::Headers, &[0xff; 8])?
        && let Ok(header) =
            parse_frame_key(&key).and_then(|first| FrameHeader::decode(first, &value))
    {
        numbers.next_chunk = numbers.next_chunk.max(header.end_id().0);
    }
    let (mut books, mut mends) = (RecordCatalog::read_all(database)?, MapMends::default());
    let batch = books.mend_references(parameters, &mut numbers, &mut mends);
    database.write_batch(batch, Durability::Logged)?;
    let pages = histories.get(Family::Pages.family_name());
    if stored.is_none() || survey.is_cut {
        numbers.next_chunk += NUMBERS_SKIPPED;
        numbers.next_id += NUMBERS_SKIPPED;
    }
    books.mend_pages(database, parameters, pages, &mut numbers, &mut mends)?;
    mended.pages_lost = mends.pages_lost;
    mended.names_lost = mends.names_lost;
    mended.numbers_recounted = stored.is_none() && !books.layers.is_empty();
    if stored.is_none_or(|stored| {
        stored.next_id < numbers.next_id || stored.next_chunk < numbers.next_chunk
    }) {
        let mut batch = Batch::default();
        put_record(&mut batch, Family::Meta, COUNTERS_KEY, &numbers);
        database.write_batch(batch, Durability::Logged)?;
    }
    Ok(books)
}
