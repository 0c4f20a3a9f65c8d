//! Checks a store: that every record holds together, and that every chunk has the bytes of its
//! name.
//!
//! Faults that opening the store has found are reported first. Then follow: records and their
//! copies (`twins`), headers and payloads (`frames`), names (`index`), maps (`maps`), and, if
//! content is lost, the images that show it (`hits`). So every family is read from end to end. A
//! record that cannot be read is a finding, and the check goes on after it (`walk`).
//!
//! A check changes nothing but the damage ledger. It keeps collections off meanwhile, but not
//! imports: chunks that they add lie past the horizon and are not looked at.

mod earlier;
mod frames;
mod hits;
mod index;
mod maps;
#[cfg(test)]
mod tests;
mod twins;
mod walk;

use std::collections::{BTreeSet, HashMap};

use vellum_core::id_set::IdSet;
use vellum_core::units::{ChunkId, LayerId, PageIndex, SolidNumber};

use crate::chunks::DamageKind;
use crate::error::StoreError;
use crate::parity::ParityStatus;
use crate::store::{Access, Store};
use crate::watch::Watch;
pub(crate) use walk::next_readable_key;

/// Findings that a report holds at most: beyond that, the store is lost rather than damaged.
const FINDINGS_MAX: usize = 10_000;

/// Extent of a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Also read every chunk and hold it against its name.
    pub read_data: bool,
    /// Restricts the check to every `of`-th frame, beginning with number `part` (1 to `of`): all
    /// parts together read everything once.
    pub subset: Option<(u64, u64)>,
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFinding {
    /// The record or chunk.
    pub record: String,
    /// The fault, in words for the user.
    pub reason: String,
    /// True if content is lost; otherwise only space is (a leak), which a collection gives back.
    pub is_damage: bool,
    /// The images and snapshots that it hits, with the byte ranges, as far as they were found. A
    /// range that ends at `u64::MAX` is all of one.
    pub images: Vec<(String, std::ops::Range<u64>)>,
}

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Layers looked at.
    pub layers: u64,
    /// Pages decoded.
    pub pages: u64,
    /// Frame headers decoded.
    pub frames: u64,
    /// Chunks whose headers were seen.
    pub chunks: u64,
    /// Chunks whose bytes were read and verified against their hashes.
    pub chunks_read: u64,
    /// Chunks that no map refers to: not a fault, `vellum gc` gives them back.
    pub chunks_unreferenced: u64,
    /// State of the store's parity, if it is on.
    pub parity: Option<ParityStatus>,
    /// Everything that is wrong.
    pub findings: Vec<CheckFinding>,
}

/// A check that is going on.
struct CheckRun<'s> {
    store: &'s Store,
    options: CheckOptions,
    watch: &'s dyn Watch,
    /// Chunks from here on are newer than the check.
    horizon: ChunkId,
    /// Chunks that have a header.
    present: IdSet,
    /// Solid blocks that headers name.
    named_blocks: BTreeSet<SolidNumber>,
    /// Chunks whose content is lost.
    lost: IdSet,
    report: CheckReport,
    /// Content that each finding takes away.
    losses: Vec<ContentLoss>,
    /// Findings reported already, by record and reason, with their numbers: one damage is met by
    /// many.
    told: HashMap<(String, String), usize>,
}

/// Content that a finding takes away.
enum ContentLoss {
    Nothing,
    Chunks(Vec<ChunkId>),
    Page(LayerId, PageIndex),
}

impl ContentLoss {
    /// True if one finding can report both losses.
    fn can_absorb(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Nothing) | (Self::Nothing, _) => true,
            (Self::Chunks(_), Self::Chunks(_)) => true,
            (Self::Chunks(_) | Self::Page(..), _) => false,
        }
    }

    fn absorb_loss(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::Nothing) => {}
            (Self::Chunks(ids), Self::Chunks(more)) => ids.extend(more),
            (_, other) => *self = other,
        }
    }
}

/// Keeps collections off.
struct CollectionBlocker<'s>(&'s Store);

impl Store {
    /// Checks the store. Damage is in the report, not an error; an error is what keeps the check
    /// from going on.
    pub fn check(
        &self,
        options: CheckOptions,
        watch: &dyn Watch,
    ) -> Result<CheckReport, StoreError> {
        let _quiet = (self.access_mode() == Access::ReadWrite)
            .then(|| CollectionBlocker::block_collections(self))
            .transpose()?;
        let horizon = match self.access_mode() {
            Access::ReadWrite => self.inner.chunks.wait_for_all()?,
            Access::ReadOnly => ChunkId(u64::MAX),
        };
        let mut check = CheckRun::new(self, options, watch, horizon);
        check.report_open_faults();
        check.check_parity()?;
        check.report_hidden_changes()?;
        check.check_copies()?;
        let names = check.check_frames()?;
        check.check_index(&names)?;
        check.check_maps()?;
        if check
            .report
            .findings
            .iter()
            .any(|finding| finding.is_damage)
        {
            check.find_affected_nodes()?;
        }
        Ok(check.report)
    }
}

impl CollectionBlocker<'_> {
    /// A collection that considers nothing: while it is there, no other can begin.
    fn block_collections(store: &Store) -> Result<CollectionBlocker<'_>, StoreError> {
        let begun = store.inner.chunks.claims.begin_collection(ChunkId(0));
        if begun {
            Ok(CollectionBlocker(store))
        } else {
            Err(StoreError::Busy("the store".to_owned()))
        }
    }
}

impl Drop for CollectionBlocker<'_> {
    fn drop(&mut self) {
        self.0.inner.chunks.claims.end_collection();
    }
}

impl<'s> CheckRun<'s> {
    fn new(
        store: &'s Store,
        options: CheckOptions,
        watch: &'s dyn Watch,
        horizon: ChunkId,
    ) -> Self {
        Self {
            store,
            options,
            watch,
            horizon,
            present: IdSet::new(),
            named_blocks: BTreeSet::new(),
            lost: IdSet::new(),
            report: CheckReport::default(),
            losses: Vec::new(),
            told: HashMap::new(),
        }
    }
}

/// Names, in each of `findings`, the images and snapshots that show one of the chunks that it takes
/// away. Walks every map.
pub(crate) fn name_images(
    store: &Store,
    findings: &mut Vec<CheckFinding>,
    lost: Vec<Vec<ChunkId>>,
    watch: &dyn Watch,
) -> Result<(), StoreError> {
    let mut check = CheckRun::new(store, CheckOptions::default(), watch, ChunkId(u64::MAX));
    check.report.findings = std::mem::take(findings);
    check.losses = lost.into_iter().map(ContentLoss::Chunks).collect();
    let named = check.find_affected_nodes();
    *findings = check.report.findings;
    named
}

impl CheckRun<'_> {
    /// Reports the faults that were found when the store was opened.
    fn report_open_faults(&mut self) {
        let store = self.store;
        for fault in store.all_faults() {
            let StoreError::Damaged(damage) = fault else {
                self.report_damage("the log of the database", fault, ContentLoss::Nothing);
                continue;
            };
            let told = self.report.findings.len();
            self.report_damage(damage.record.clone(), &damage.reason, ContentLoss::Nothing);
            if let Some(finding) = self.report.findings.get_mut(told) {
                finding.images.extend(damage.image.clone());
            }
        }
    }

    /// Parity is no content: what is wrong with it hits no image.
    fn check_parity(&mut self) -> Result<(), StoreError> {
        let status = self.store.parity_status()?;
        if status.groups_damaged > 0 {
            let groups = status.groups_damaged;
            self.report_leak(
                "parity",
                format!("{groups} groups are damaged and protect nothing"),
            );
        }
        if self.options.read_data && self.options.subset.is_none() && status.groups > 0 {
            self.check_healable()?;
        }
        self.report.parity = status.share.is_some().then_some(status);
        Ok(())
    }

    /// Reports damage to files that parity would heal, also where no read meets it.
    fn check_healable(&mut self) -> Result<(), StoreError> {
        let found = self.store.tell_healable(self.watch)?;
        if found.parity_blocks_healed > 0 {
            let blocks = found.parity_blocks_healed;
            self.report_leak("parity", format!("{blocks} blocks of it are damaged"));
        }
        for (names, what) in [
            (&found.files_restored, "it is gone; parity can restore it"),
            (
                &found.files_lost,
                "it is damaged beyond what parity can heal",
            ),
        ] {
            for name in names {
                self.report_damage(name, what, ContentLoss::Nothing);
            }
        }
        if found.blocks_healed > 0 {
            let blocks = found.blocks_healed;
            self.report_damage(
                "tables of the database",
                format!("{blocks} blocks are damaged; parity can heal them"),
                ContentLoss::Nothing,
            );
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), StoreError> {
        if self.watch.is_cancelled() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    }

    fn report_damage(
        &mut self,
        record: impl Into<String>,
        reason: impl std::fmt::Display,
        loss: ContentLoss,
    ) {
        if let ContentLoss::Chunks(ids) = &loss {
            ids.iter().for_each(|id| self.lost.insert(*id));
            // Remembered, so that the same bytes heal them when they come again.
            let ledger = &self.store.inner.chunks.ledger;
            ledger.note_damage(ids.iter().copied(), DamageKind::Damaged);
        }
        self.add_finding(record.into(), reason.to_string(), true, loss);
    }

    fn report_leak(&mut self, record: impl Into<String>, reason: impl std::fmt::Display) {
        self.add_finding(
            record.into(),
            reason.to_string(),
            false,
            ContentLoss::Nothing,
        );
    }

    fn add_finding(&mut self, record: String, reason: String, is_damage: bool, loss: ContentLoss) {
        let place = (record, reason);
        if let Some(at) = self.told.get(&place)
            && self.losses[*at].can_absorb(&loss)
        {
            self.losses[*at].absorb_loss(loss);
            return;
        }
        if self.report.findings.len() < FINDINGS_MAX {
            self.told.insert(place.clone(), self.report.findings.len());
            let (record, reason) = place;
            self.report.findings.push(CheckFinding {
                record,
                reason,
                is_damage,
                images: Vec::new(),
            });
            self.losses.push(loss);
        }
    }

    /// Notes an error that is about stored bytes, so that the check goes on; other errors are
    /// returned.
    fn report_read_error(
        &mut self,
        error: StoreError,
        loss: ContentLoss,
    ) -> Result<(), StoreError> {
        match error {
            StoreError::Damaged(damage) => self.report_damage(damage.record, damage.reason, loss),
            StoreError::Database { what, message } => self.report_damage(what, message, loss),
            other => return Err(other),
        }
        Ok(())
    }
}
