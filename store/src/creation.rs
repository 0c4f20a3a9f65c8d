//! Creation of a store in an empty folder, and the space that one takes from the start.

use std::path::Path;

use vellum_core::identity::StoreId;

use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::folder::StoreFolder;
use crate::identity::random_identity;
use crate::keys::{IDENTITY_KEY, PARAMETERS_KEY};
use crate::limits;
use crate::opening::limits_and_reserve;
use crate::records::StoreParameters;
use crate::sizes::{Sizes, StoredFiles};
use crate::store::Store;
use crate::stored_records::put_record;

impl Store {
    /// Makes a store in `dir`, which must be empty or not exist.
    pub fn init_dir(dir: &Path, parameters: StoreParameters) -> Result<(), StoreError> {
        parameters.check_valid()?;
        let folder = StoreFolder::create_in(dir)?;
        let (sizes, reserve) = limits_and_reserve(&folder);
        let database = Database::create_in(&folder.make_database()?, &sizes, &reserve)?;
        let mut batch = Batch::default();
        put_record(&mut batch, Family::Meta, PARAMETERS_KEY, &parameters);
        put_record(
            &mut batch,
            Family::Meta,
            IDENTITY_KEY,
            &StoreId(random_identity()?),
        );
        database.write_batch(batch, Durability::Logged)?;
        drop(database);
        // A full disk may have no room for files that are not there yet.
        drop(folder.lock_for_writing("init"));
        folder.open_commit_counter().note_commits(0);
        reserve.refill_reserve();
        folder.write_marker()
    }

    /// The reserve of a store in `dir` for a full disk, so that deleting and collecting work on
    /// one, in bytes, once its tables hold `stored` bytes.
    #[must_use]
    pub fn kept_back(dir: &Path, stored: u64) -> u64 {
        let tables = StoredFiles {
            tables: stored,
            logs: 0,
        };
        Sizes::for_system(&limits::read_system_limits(dir))
            .reserve
            .for_files(tables)
    }
}
