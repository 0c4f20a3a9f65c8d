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

use std::collections::HashMap;

use vellum_core::id_set::IdSet;
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use crate::chunks::DamageKind;
use crate::error::StoreError;
use crate::parity::ParityStatus;
use crate::store::{Access, Store};
use crate::watch::Watch;
pub(crate) use walk::resumed;

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
pub struct Finding {
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
    pub findings: Vec<Finding>,
}

/// A check that is going on.
struct Check<'s> {
    store: &'s Store,
    options: CheckOptions,
    watch: &'s dyn Watch,
    /// Chunks from here on are newer than the check.
    horizon: ChunkId,
    /// Chunks that have a header.
    present: IdSet,
    /// Chunks whose content is lost.
    lost: IdSet,
    report: CheckReport,
    /// Content that each finding takes away.
    losses: Vec<Loss>,
    /// Findings reported already, by record and reason, with their numbers: one damage is met by
    /// many.
    told: HashMap<(String, String), usize>,
}

/// Content that a finding takes away.
enum Loss {
    Nothing,
    Chunks(Vec<ChunkId>),
    Page(LayerId, PageIndex),
}

impl Loss {
    /// True if one finding can report both losses.
    fn absorbs(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Nothing) | (Self::Nothing, _) => true,
            (Self::Chunks(_), Self::Chunks(_)) => true,
            (Self::Chunks(_) | Self::Page(..), _) => false,
        }
    }

    fn absorb(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::Nothing) => {}
            (Self::Chunks(ids), Self::Chunks(more)) => ids.extend(more),
            (_, other) => *self = other,
        }
    }
}

/// Keeps collections off.
struct Quiet<'s>(&'s Store);

impl Store {
    /// Checks the store. Damage is in the report, not an error; an error is what keeps the check
    /// from going on.
    pub fn check(
        &self,
        options: CheckOptions,
        watch: &dyn Watch,
    ) -> Result<CheckReport, StoreError> {
        let _quiet = (self.access() == Access::ReadWrite)
            .then(|| Quiet::begin(self))
            .transpose()?;
        let horizon = match self.access() {
            Access::ReadWrite => self.inner.chunks.barrier()?,
            Access::ReadOnly => ChunkId(u64::MAX),
        };
        let mut check = Check::new(self, options, watch, horizon);
        check.faults();
        check.parity()?;
        check.earlier()?;
        check.twins()?;
        let names = check.frames()?;
        check.index(&names)?;
        check.maps()?;
        if check
            .report
            .findings
            .iter()
            .any(|finding| finding.is_damage)
        {
            check.hits()?;
        }
        Ok(check.report)
    }
}

impl Quiet<'_> {
    /// A collection that considers nothing: while it is there, no other can begin.
    fn begin(store: &Store) -> Result<Quiet<'_>, StoreError> {
        let begun = store.inner.chunks.claims.begin_collection(ChunkId(0));
        if begun {
            Ok(Quiet(store))
        } else {
            Err(StoreError::Busy("the store".to_owned()))
        }
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        self.0.inner.chunks.claims.end_collection();
    }
}

impl<'s> Check<'s> {
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
    findings: &mut Vec<Finding>,
    lost: Vec<Vec<ChunkId>>,
    watch: &dyn Watch,
) -> Result<(), StoreError> {
    let mut check = Check::new(store, CheckOptions::default(), watch, ChunkId(u64::MAX));
    check.report.findings = std::mem::take(findings);
    check.losses = lost.into_iter().map(Loss::Chunks).collect();
    let named = check.hits();
    *findings = check.report.findings;
    named
}

impl Check<'_> {
    /// Reports the faults that were found when the store was opened.
    fn faults(&mut self) {
        let store = self.store;
        for fault in store.faults() {
            let StoreError::Damaged(damage) = fault else {
                self.damage("the log of the database", fault, Loss::Nothing);
                continue;
            };
            let told = self.report.findings.len();
            self.damage(damage.record.clone(), &damage.reason, Loss::Nothing);
            if let Some(finding) = self.report.findings.get_mut(told) {
                finding.images.extend(damage.image.clone());
            }
        }
    }

    /// Parity is no content: what is wrong with it hits no image.
    fn parity(&mut self) -> Result<(), StoreError> {
        let status = self.store.parity_status()?;
        if status.groups_damaged > 0 {
            let groups = status.groups_damaged;
            self.leak(
                "parity",
                format!("{groups} groups are damaged and protect nothing"),
            );
        }
        if self.options.read_data && self.options.subset.is_none() && status.groups > 0 {
            self.healable()?;
        }
        self.report.parity = status.share.is_some().then_some(status);
        Ok(())
    }

    /// Reports damage to files that parity would heal, also where no read meets it.
    fn healable(&mut self) -> Result<(), StoreError> {
        let found = self.store.tell_healable(self.watch)?;
        if found.parity_blocks_healed > 0 {
            let blocks = found.parity_blocks_healed;
            self.leak("parity", format!("{blocks} blocks of it are damaged"));
        }
        for (names, what) in [
            (&found.files_restored, "it is gone; parity can restore it"),
            (
                &found.files_lost,
                "it is damaged beyond what parity can heal",
            ),
        ] {
            for name in names {
                self.damage(name, what, Loss::Nothing);
            }
        }
        if found.blocks_healed > 0 {
            let blocks = found.blocks_healed;
            self.damage(
                "tables of the database",
                format!("{blocks} blocks are damaged; parity can heal them"),
                Loss::Nothing,
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

    fn damage(&mut self, record: impl Into<String>, reason: impl std::fmt::Display, loss: Loss) {
        if let Loss::Chunks(ids) = &loss {
            ids.iter().for_each(|id| self.lost.insert(*id));
            // Remembered, so that the same bytes heal them when they come again.
            let ledger = &self.store.inner.chunks.ledger;
            ledger.note(ids.iter().copied(), DamageKind::Damaged);
        }
        self.find(record.into(), reason.to_string(), true, loss);
    }

    fn leak(&mut self, record: impl Into<String>, reason: impl std::fmt::Display) {
        self.find(record.into(), reason.to_string(), false, Loss::Nothing);
    }

    fn find(&mut self, record: String, reason: String, is_damage: bool, loss: Loss) {
        let place = (record, reason);
        if let Some(at) = self.told.get(&place)
            && self.losses[*at].absorbs(&loss)
        {
            self.losses[*at].absorb(loss);
            return;
        }
        if self.report.findings.len() < FINDINGS_MAX {
            self.told.insert(place.clone(), self.report.findings.len());
            let (record, reason) = place;
            self.report.findings.push(Finding {
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
    fn note(&mut self, error: StoreError, loss: Loss) -> Result<(), StoreError> {
        match error {
            StoreError::Damaged(damage) => self.damage(damage.record, damage.reason, loss),
            StoreError::Database { what, message } => self.damage(what, message, loss),
            other => return Err(other),
        }
        Ok(())
    }
}
