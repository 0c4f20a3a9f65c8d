//! Opens what a loss of power left: the result is the content that it shows, or a failure that says
//! where.

use vellum_power::disk::{Disk, Names, Tree, Writes};
use vellum_store::{Access, CheckOptions, Store, StoreError, Unwatched};

use super::recording;

/// A kind of crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) names: Names,
    pub(crate) writes: Writes,
}

/// The losses of everything that was not synced: read weakly, as ext4 has it, and with an early
/// writing of the journal.
pub(crate) const UNSYNCED: [Loss; 3] = [
    Loss {
        names: Names::Synced,
        writes: Writes::Synced,
    },
    Loss {
        names: Names::Journal,
        writes: Writes::Synced,
    },
    Loss {
        names: Names::All,
        writes: Writes::Synced,
    },
];

impl Loss {
    /// Torn and reordered writes, and any fate of names.
    pub(crate) fn random(chance: &mut fastrand::Rng) -> Self {
        let names = [
            Names::Synced,
            Names::Journal,
            Names::All,
            Names::Prefix,
            Names::Random,
        ];
        let writes = [
            Writes::Synced,
            Writes::All,
            Writes::Torn(50),
            Writes::Torn(90),
            Writes::Random,
            Writes::Random,
        ];
        Self {
            names: names[chance.usize(..names.len())],
            writes: writes[chance.usize(..writes.len())],
        }
    }
}

/// A store that was opened from what was left.
pub(crate) struct Remains {
    pub(crate) store: Store,
    _folder: tempfile::TempDir,
}

impl Remains {
    /// Opens the store in `tree`, which a crash left of `disk`, and checks everything in it.
    ///
    /// RocksDB takes a manifest whose last write is torn for a damaged one, and so the store
    /// refuses to open. That is why nearly all its changes go into new manifests; but where a
    /// collection drops files, RocksDB may append. Such a refusal is counted in `refused`, and it
    /// must be the manifest's unsynced end alone that is to blame: with that end whole, all must be
    /// well.
    pub(crate) fn of_crash(
        disk: &Disk,
        tree: &Tree,
        refused: &mut u64,
    ) -> Result<Option<Self>, String> {
        let opened = Self::open(tree);
        if !opened
            .as_ref()
            .is_err_and(|error| error.contains("Corruption") && error.contains("MANIFEST"))
        {
            return opened;
        }
        *refused += 1;
        let is_manifest = |path: &str| path.starts_with("store/database/MANIFEST-");
        let whole = disk
            .now()
            .into_iter()
            .filter(|(path, _)| is_manifest(path) && tree.contains_key(path));
        Self::open(&tree.clone().into_iter().chain(whole).collect())
    }

    /// Opens the store in `tree`, and checks everything in it. `None` if it never became a store.
    pub(crate) fn open(tree: &Tree) -> Result<Option<Self>, String> {
        let folder = recording::scratch();
        let root = folder.path().join("root");
        recording::write(tree, &root);
        let store = match Store::open_dir(&root.join("store"), Access::ReadWrite, "test") {
            Err(StoreError::NoStore { .. }) => return Ok(None),
            opened => opened.map_err(|error| format!("it does not open: {error}"))?,
        };
        let options = CheckOptions {
            read_data: true,
            subset: None,
        };
        let report = store
            .check(options, &Unwatched)
            .map_err(|error| format!("the check fails: {error}"))?;
        match report.findings.iter().find(|finding| finding.is_damage) {
            Some(damage) => Err(format!("the check finds damage: {damage:?}")),
            None => Ok(Some(Self {
                store,
                _folder: folder,
            })),
        }
    }
}

/// Ends the test over what `tree` holds. `VELLUM_TEST_KEEP` names a folder that is made and keeps
/// it.
pub(crate) fn fail(tree: &Tree, message: &str) -> ! {
    if let Some(keep) = std::env::var_os("VELLUM_TEST_KEEP") {
        recording::write(tree, keep.as_ref());
    }
    panic!("{message}");
}
