//! Creation of a store in an empty folder, and the space that one takes from the start.

use std::path::Path;

use vellum_core::identity::StoreId;

use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::folder::Folder;
use crate::identity::random;
use crate::keys::{IDENTITY_KEY, PARAMETERS_KEY};
use crate::limits;
use crate::opening::holdings;
use crate::records::StoreParameters;
use crate::sizes::{Sizes, StoredFiles};
use crate::store::Store;
use crate::stored_records::put;

impl Store {
    /// Makes a store in `dir`, which must be empty or not exist.
    pub fn init(dir: &Path, parameters: StoreParameters) -> Result<(), StoreError> {
        parameters.check()?;
        let folder = Folder::create(dir)?;
        let (sizes, reserve) = holdings(&folder);
        let database = Database::create(&folder.make_database()?, &sizes, &reserve)?;
        let mut batch = Batch::default();
        put(&mut batch, Family::Meta, PARAMETERS_KEY, &parameters);
        put(&mut batch, Family::Meta, IDENTITY_KEY, &StoreId(random()?));
        database.write(batch, Durability::Logged)?;
        drop(database);
        // A full disk may have no room for files that are not there yet.
        drop(folder.lock("init"));
        folder.witness().note(0);
        reserve.refill();
        folder.mark()
    }

    /// The reserve of a store in `dir` for a full disk, so that deleting and collecting work on
    /// one, in bytes, once its tables hold `stored` bytes.
    #[must_use]
    pub fn kept_back(dir: &Path, stored: u64) -> u64 {
        let tables = StoredFiles {
            tables: stored,
            logs: 0,
        };
        Sizes::of(&limits::surroundings(dir)).reserve.of(tables)
    }
}
