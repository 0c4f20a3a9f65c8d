//! Parity of a store: sets its share, brings it up to date, and heals from it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::folder::StoreFolder;
use crate::keys::PARITY_KEY;
use crate::parity::{
    self, LOG_LEN_MAX, Parity, ParityHealing, ParityShare, ParityStatus, ProtectReport, TableFile,
};
use crate::store::Store;
use crate::stored_records::put_record;
use crate::watch::{Progress, Watch};

/// Time that the end of a command waits for the database to make larger files of small ones: later
/// files are protected later.
const SETTLE_TIME: Duration = Duration::from_secs(10);
/// Rounds until a store that nobody else writes to holds still.
const ROUNDS_MAX: u32 = 4;
/// Bytes of logs of which a server makes tables, so that they are protected.
const SERVED_LOG_LEN_MAX: u64 = 64 << 10;

impl Store {
    /// The share of parity. None: parity is off.
    #[must_use]
    pub fn parity_share(&self) -> Option<ParityShare> {
        self.inner.parity.share()
    }

    /// Has `share` of parity from now on, or none, and removes what there is of another share.
    /// [`Store::protect_all`] makes it.
    pub fn set_parity_share(&self, share: Option<ParityShare>) -> Result<(), StoreError> {
        self.check_writable()?;
        if share == self.parity_share() {
            return Ok(());
        }
        let mut batch = Batch::default();
        match &share {
            Some(share) => put_record(&mut batch, Family::Meta, PARITY_KEY, share),
            None => batch.delete_record(Family::Meta, PARITY_KEY),
        }
        self.inner.database.write_batch(batch, Durability::Logged)?;
        self.inner.parity.set_share(share);
        self.inner.parity.remove_all()
    }

    /// Protects everything, at the end of a command. Does nothing if parity is off.
    pub fn protect_all(&self, watch: &dyn Watch) -> Result<ProtectReport, StoreError> {
        let mut all = ProtectReport::default();
        if self.parity_share().is_none() {
            return Ok(all);
        }
        self.flush_logs(LOG_LEN_MAX)?;
        for _ in 0..ROUNDS_MAX {
            self.inner.database.settle_files(SETTLE_TIME);
            let tables = self.inner.database.table_files()?;
            let report = self.protect_tables(&tables, usize::MAX, watch)?;
            all.groups_made += report.groups_made;
            all.bytes_read += report.bytes_read;
            all.tables_left = report.tables_left;
            if self.inner.database.table_files()? == tables {
                break;
            }
        }
        Ok(all)
    }

    /// Makes at most one group, beside guests. Does nothing if parity is off.
    pub fn protect_some(&self, watch: &dyn Watch) -> Result<ProtectReport, StoreError> {
        if self.parity_share().is_none() {
            return Ok(ProtectReport::default());
        }
        self.flush_logs(SERVED_LOG_LEN_MAX)?;
        self.protect_tables(&self.inner.database.table_files()?, 1, watch)
    }

    /// Protects everything within other work, which does not fail if that cannot be done: the end
    /// of the command says so.
    pub(crate) fn protect_within(&self, watch: &dyn Watch) -> Result<(), StoreError> {
        match self.protect_all(&CancelOnly(watch)) {
            Err(StoreError::Interrupted) => Err(StoreError::Interrupted),
            _ => Ok(()),
        }
    }

    fn protect_tables(
        &self,
        tables: &[TableFile],
        groups_max: usize,
        watch: &dyn Watch,
    ) -> Result<ProtectReport, StoreError> {
        self.check_writable()?;
        let has_room = |len| self.check_room(len).is_ok();
        self.inner
            .parity
            .protect_tables(tables, groups_max, &has_room, watch)
    }

    /// Makes tables of what is in logs only, if that is more than `len_max`.
    fn flush_logs(&self, len_max: u64) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.inner.folder.usage_by_part()?.logs <= len_max || self.check_room(0).is_err() {
            return Ok(());
        }
        let database = &self.inner.database;
        database.flush_bulk(database.write_generation())
    }

    /// State of its protection.
    pub fn parity_status(&self) -> Result<ParityStatus, StoreError> {
        self.inner
            .parity
            .protection_status(&self.inner.database.table_files()?)
    }

    /// Looks at every table that is protected, and heals what is not as it should be; `is_dry`:
    /// only tells. What it heals, whoever reads sees at once.
    pub fn heal_by_parity(
        &self,
        is_dry: bool,
        watch: &dyn Watch,
    ) -> Result<ParityHealing, StoreError> {
        let tables = self.inner.database.table_files()?;
        let needed: BTreeSet<u64> = tables.iter().map(|table| table.number).collect();
        self.inner.parity.heal_all(Some(&needed), is_dry, watch)
    }

    /// Finds, within other work, what healing would do.
    pub(crate) fn tell_healable(&self, watch: &dyn Watch) -> Result<ParityHealing, StoreError> {
        self.heal_by_parity(true, &CancelOnly(watch))
    }

    /// Takes the notices of healings by parity since the last call, in words for people.
    #[must_use]
    pub fn take_parity_notices(&self) -> Vec<String> {
        self.inner.parity.take_notices()
    }
}

/// Passes on the wish to stop, not the progress: parity counts something else.
struct CancelOnly<'w>(&'w dyn Watch);

impl Watch for CancelOnly<'_> {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Heals the files of the store in `dir`, which nobody has open for writing and which may be too
/// damaged to be opened: the small ones, if they were kept when it was closed, and all tables.
/// `is_dry`: only tells. `command` is what others are told who find it in use.
pub fn heal_closed_store(
    dir: &Path,
    command: &str,
    is_dry: bool,
    watch: &dyn Watch,
) -> Result<ParityHealing, StoreError> {
    let small = if is_dry {
        parity::damaged_small_files(dir)
    } else {
        parity::restore_small_files(dir)?
    };
    let folder = StoreFolder::of_damaged(dir);
    let _lock = if is_dry {
        None
    } else {
        Some(folder.lock_for_writing(command)?)
    };
    let mut report = Parity::new(&folder, true).heal_all(None, is_dry, watch)?;
    report.files_restored.extend(small);
    Ok(report)
}
