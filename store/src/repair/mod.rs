//! Repair: turns a damaged store into one that is whole but for the content that is lost, and
//! reports that.
//!
//! The repaired database is made beside the damaged one, of links to the whole files (`place`,
//! `layout`), checked as any store is, and put in its place in one step. Until then nothing of the
//! store is changed, so that a dry run does everything but that step, and a repair that is killed
//! leaves the store as it was.
//!
//! The whole part is found without RocksDB, which refuses files that it cannot read, or passes over
//! them: `survey` reads manifest, tables and logs (`inventory`, `manifest`, `table`, `batch`) and
//! puts single flipped bits right, which their checksums betray (`checksum`). Records that are left
//! of a damaged table count if nothing newer is known (`history`); tables that no manifest names
//! are arranged by `loose` (`unlisted`). Then records are brought back from each other: those that
//! are kept twice (`twins`), headers and index (`content`), and references to lost content become
//! explicit losses (`maps`). What sources have comes from there: chunks by their names, and entries
//! of maps by the identity of the content (`pages`).
//!
//! Three things it never does: show overwritten or deleted content as if it were the present state,
//! guess which id a chunk has, and give a number twice. If only an earlier state can replace a
//! part, the part is named (`earlier`), and replaced if the person agrees.

mod batch;
mod block;
mod checksum;
mod content;
mod earlier;
mod history;
mod inventory;
mod layout;
mod loose;
mod manifest;
mod maps;
mod mend;
mod own;
mod pages;
mod place;
mod stale;
mod survey;
mod table;
mod twins;
mod unlisted;

use std::path::{Path, PathBuf};

pub(crate) use batch::{LoggedChange, LoggedOperation, decode_operations};

use crate::check::{CheckFinding, CheckOptions};
use crate::error::StoreError;
use crate::folder::StoreFolder;
use crate::opening::limits_and_reserve;
use crate::parity::{self, Parity};
use crate::store::{Access, Store};
use crate::watch::Watch;
use inventory::DatabaseSurvey;
use mend::MendReport;
use place::RepairPlace;
use survey::survey_database;

/// Options of a repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Put the repaired database in the place of the damaged one. Without, only say what would be.
    pub apply: bool,
    /// Go on from an earlier state where what was acknowledged later cannot be read.
    pub accept_earlier_state: bool,
}

/// Result of a repair, or of its dry run.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Faults that were found and repaired, in words for the user.
    pub mends: Vec<String>,
    /// Parts that fall back to an earlier state, as far as can be told.
    pub earlier: Vec<String>,
    /// The number of acknowledged changes that are gone.
    pub lost_changes: u64,
    /// True if an earlier state has to be accepted before anything is repaired.
    pub needs_acceptance: bool,
    /// Content that stays lost, with the images and ranges that it hits.
    pub lost: Vec<CheckFinding>,
    /// Images and snapshots that can no longer be had under their names.
    pub names_lost: Vec<String>,
    /// True if the store was changed.
    pub applied: bool,
    /// Folder of the files that were replaced.
    pub kept: Option<PathBuf>,
    /// Bytes on disk that those take, which removing them gives back.
    pub kept_len: u64,
    /// Bytes that were read of the database's files.
    pub bytes_read: u64,
}

impl RepairReport {
    /// True if nothing had to be put right.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mends.is_empty() && !self.needs_acceptance
    }
}

/// A repair that is going on.
struct Repair<'w> {
    folder: StoreFolder,
    options: RepairOptions,
    attach: &'w dyn Fn(&Store),
    command: &'w str,
    watch: &'w dyn Watch,
    report: RepairReport,
    /// True if headers may be lost.
    may_miss_headers: bool,
}

impl Store {
    /// Repairs the store in `dir`, or says what a repair would do. `attach` gives the repaired
    /// store the sources that are asked for what is damaged in it (see [`Store::set_sources`]).
    /// `command` is what others are told meanwhile, who find the store in use. Reads all of the
    /// store twice.
    pub fn repair(
        dir: &Path,
        options: RepairOptions,
        attach: &dyn Fn(&Self),
        command: &str,
        watch: &dyn Watch,
    ) -> Result<RepairReport, StoreError> {
        if options.apply {
            // While another process writes, taking the lock below fails and says so.
            let _ = parity::restore_small_files(dir);
        }
        let opened = StoreFolder::open_marked(dir);
        let is_marked = opened.is_ok();
        let folder = opened.or_else(|error| StoreFolder::open_unmarked(dir, error))?;
        let _lock = folder.lock_for_writing(command)?;
        limits_and_reserve(&folder).1.give_up_if_scarce();
        let healed = heal_by_parity(&folder, options.apply, watch)?;
        let mut repair = Repair {
            folder,
            options,
            attach,
            command,
            watch,
            report: RepairReport::default(),
            may_miss_headers: false,
        };
        repair.run_repair(is_marked)?;
        if !healed.is_empty() {
            repair.report.applied |= options.apply;
            repair.report.mends.splice(0..0, healed);
        }
        Ok(repair.report)
    }
}

fn count_phrase(count: u64, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

/// Heals by parity before anything else is looked at; describes it in words.
fn heal_by_parity(
    folder: &StoreFolder,
    apply: bool,
    watch: &dyn Watch,
) -> Result<Vec<String>, StoreError> {
    let report = Parity::new(folder, true).heal_all(None, !apply, watch)?;
    let restored = report.files_restored.iter();
    let mut lines: Vec<String> = restored
        .map(|name| format!("{name} is restored from parity"))
        .collect();
    if report.blocks_healed > 0 {
        let blocks = report.blocks_healed;
        lines.push(format!("{blocks} blocks of tables are healed from parity"));
    }
    Ok(lines)
}

impl Repair<'_> {
    fn run_repair(&mut self, is_marked: bool) -> Result<(), StoreError> {
        let place = RepairPlace::create_empty(&self.folder)?;
        let made = self.make_database(&place);
        let changed = match made {
            Ok(changed) => changed,
            Err(error) => {
                // The error that matters is the first.
                let _ = place.discard_database();
                return Err(error);
            }
        };
        let may_apply = self.options.apply
            && (!self.report.needs_acceptance || self.options.accept_earlier_state);
        if may_apply && changed {
            let kept = place.exchange_databases()?;
            // Its tables may have the numbers of others now.
            Parity::new(&self.folder, true).remove_all()?;
            self.report.kept_len = place::own_len(&kept);
            self.report.kept = Some(kept);
        } else {
            place.discard_database()?;
        }
        if !is_marked {
            self.report
                .mends
                .insert(0, "vellum.store is written anew".to_owned());
            if may_apply {
                self.folder.write_marker()?;
            }
        }
        self.report.applied = may_apply && (changed || !is_marked || self.report.lost_changes > 0);
        Ok(())
    }

    /// Makes the repaired database; whether it is another than the store's.
    fn make_database(&mut self, place: &RepairPlace) -> Result<bool, StoreError> {
        let source = self.folder.database_path();
        let survey = survey_database(&source, self.watch)?;
        self.report.bytes_read = survey.bytes_read;
        self.report.mends.clone_from(&survey.findings);
        layout::lay_out(&survey, &source, &place.database_dir())?;
        let acknowledged = self.folder.acknowledged_commits();
        let holdings = limits_and_reserve(&self.folder);
        let mended = mend::mend_records(
            &survey,
            &source,
            &place.database_dir(),
            &holdings,
            acknowledged,
        )?;
        self.may_miss_headers = mended.may_miss_headers;
        self.fill_report(&survey, &mended, acknowledged);
        self.check_repaired(place)?;
        let changed = !self.report.mends.is_empty() || self.report.needs_acceptance;
        if self.may_note(changed) {
            self.folder
                .open_commit_counter()
                .note_commits(mended.commits);
        }
        Ok(changed)
    }

    /// The count of commits is the repaired database's from now on: noted before that is put in its
    /// place, since behind it means nothing, and ahead of it would.
    fn may_note(&self, changed: bool) -> bool {
        changed
            && self.options.apply
            && self.options.accept_earlier_state
            && self.report.needs_acceptance
    }

    fn fill_report(&mut self, survey: &DatabaseSurvey, mended: &MendReport, acknowledged: u64) {
        self.report.mends.extend(mended.describe_mends());
        self.report.names_lost.clone_from(&mended.names_lost);
        self.report.lost_changes = acknowledged.saturating_sub(mended.commits);
        self.report.earlier.clone_from(&mended.earlier);
        self.report.needs_acceptance = self.report.lost_changes > 0
            || survey.is_cut && !survey.later.is_empty()
            || !mended.earlier.is_empty();
    }

    /// Opens what was made as any store is, and reads all of it: what is wrong with it, and no
    /// source has, stays lost.
    fn check_repaired(&mut self, place: &RepairPlace) -> Result<(), StoreError> {
        let store = Store::open_dir(place.dir(), Access::ReadWrite, self.command)?;
        let options = CheckOptions {
            read_data: true,
            subset: None,
        };
        let mut report = store.check(options, self.watch)?;
        let reunited = self.reunite_frames(&store)?;
        let healed = self.heal_damaged(&store)?;
        let damage = store.known_damage();
        let found = pages::bring_back(&store, &damage.all_chunks(), self.watch)?;
        for (count, what) in [
            (
                reunited,
                count_phrase(reunited, "frame")
                    + " written anew, whose payload was of another time",
            ),
            (
                healed,
                count_phrase(healed, "chunk") + " healed from elsewhere",
            ),
            (
                found.positions,
                count_phrase(found.positions, "position")
                    + " of lost maps brought back from elsewhere",
            ),
        ] {
            if count > 0 {
                self.report.mends.push(what);
            }
        }
        if reunited > 0 || healed > 0 || found.has_changes {
            report = store.check(options, self.watch)?;
        }
        let damage = store.known_damage();
        store.note_lost(&damage.damaged);
        let findings = report.findings.into_iter();
        self.report.lost = findings.filter(|finding| finding.is_damage).collect();
        Ok(())
    }

    /// Writes the damaged frames anew whose payload and header are of different times; how many
    /// they were. Not where headers are lost: such a payload may have the only bytes of a chunk
    /// whose header is one of them.
    fn reunite_frames(&self, store: &Store) -> Result<u64, StoreError> {
        if self.may_miss_headers {
            return Ok(0);
        }
        let (damage, mut reunited) = (store.known_damage(), 0);
        for (first, count) in damage.damaged.id_runs() {
            let mut next = first;
            while next < first.advance_by(count) {
                let (is_written, end) = store.inner.chunks.reunite_frame(next)?;
                reunited += u64::from(is_written);
                next = end;
            }
        }
        Ok(reunited)
    }

    /// Reads each chunk that is known to be damaged, which heals it if some source has it; how many
    /// were.
    fn heal_damaged(&self, store: &Store) -> Result<u64, StoreError> {
        (self.attach)(store);
        let (damage, mut healed) = (store.known_damage(), 0);
        for set in [&damage.damaged, &damage.lost] {
            for (first, count) in set.id_runs() {
                for id in (0..count).map(|nth| first.advance_by(nth)) {
                    if self.watch.is_cancelled() {
                        return Err(StoreError::Interrupted);
                    }
                    healed += u64::from(store.can_read(id));
                }
            }
        }
        Ok(healed)
    }
}
