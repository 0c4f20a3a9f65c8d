//! Checking: does every record hold together, and does every chunk have the bytes of its name?

use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// How much to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Also read every chunk and hold it against its name.
    pub read_data: bool,
    /// Of the frames, only every `of`-th, beginning with number `part` (1 to `of`): all parts together read everything once.
    pub subset: Option<(u64, u64)>,
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The record or chunk.
    pub record: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether content is lost; otherwise only space is (a leak), which a collection gives back.
    pub is_damage: bool,
    /// The images and snapshots that it hits, with the byte ranges, as far as they were found.
    pub images: Vec<(String, std::ops::Range<u64>)>,
}

/// What a check found.
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
    /// Chunks whose bytes were read and held against their names.
    pub chunks_read: u64,
    /// Chunks that no map refers to: not a fault, `vellum gc` gives them back.
    pub chunks_unreferenced: u64,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

impl Store {
    /// Checks the store. Damage is in the report, not an error; an error is what keeps the check from going on.
    pub fn check(&self, options: CheckOptions, watch: &dyn Watch) -> Result<CheckReport, StoreError> {
        let _ = (options, watch);
        todo!()
    }
}
