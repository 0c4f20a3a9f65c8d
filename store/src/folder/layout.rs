//! Names of the files and folders in a store's folder.

pub(super) const MARKER: &str = "vellum.store";
pub(super) const LOCK: &str = "lock";
pub(super) const COMMITS: &str = "commits";
pub(super) const RESERVE: &str = "reserve";
pub(crate) const DATABASE: &str = "database";
pub(super) const CONTROL: &str = "control";
pub(super) const UNFINISHED_MARKER: &str = "vellum.store.new";
pub(super) const SUSPECTS: &str = "suspects";
/// Files of the folder itself.
pub(super) const OWN_FILES: [&str; 6] =
    [MARKER, UNFINISHED_MARKER, LOCK, COMMITS, RESERVE, CONTROL];
