//! Healing: gives a store the sources of whole chunks that it remembers, so that damaged ones are
//! fetched from them.
//!
//! The sources belong to this process: places are whole paths or addresses, and passwords come from
//! where the store says or from the environment that this process was started with, also if another
//! caller's command had the store look again. No source is opened before something is damaged.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_backup::chunk_source::RepositorySource;
use vellum_backup::repository::{ClientFolders, Repository, Rollback};
use vellum_backup::seal::Opener;
use vellum_store::{
    ChunkSource, ImageFileSource, OtherStoreSource, SourceEntry, SourceKind, SourceSecret, Store,
    StoreError,
};

use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::output::{OutputLayout, report};
use crate::repository::{self, KeyArgs, password};
use crate::signals::Signals;

/// Gives `store` the sources that it remembers, and shows people the results of asking them.
pub(crate) fn attach_sources(store: &Store) -> Result<(), CommandFailure> {
    let own = Invocation::of_process(Signals::default()).map(Arc::new);
    let own = own.map_err(|error| CommandFailure::io_error("use the standard streams", error))?;
    let entries = match store.source_entries() {
        // Healing is off then, and everything else goes on.
        Err(StoreError::Damaged(_)) => Vec::new(),
        entries => entries?,
    };
    store.set_sources(
        entries
            .iter()
            .map(|entry| attached_source(entry, &own))
            .collect(),
    );
    store.set_notices(Box::new(move |text| report::print_notice(&own, text)));
    Ok(())
}

/// Attaches `first` before the sources that `store` remembers, on behalf of `caller`; else as
/// [`attach_sources`].
pub(crate) fn attach_with(store: &Store, first: &[SourceEntry], caller: &Arc<Invocation>) {
    // The record of sources may be the damaged part.
    let remembered = store.source_entries().unwrap_or_default();
    let all = first.iter().chain(&remembered);
    store.set_sources(all.map(|entry| attached_source(entry, caller)).collect());
    let caller = Arc::clone(caller);
    store.set_notices(Box::new(move |text| report::print_notice(&caller, text)));
}

/// The chunk source of `entry`.
fn attached_source(entry: &SourceEntry, caller: &Arc<Invocation>) -> Arc<dyn ChunkSource> {
    let path = Path::new(&entry.place);
    match entry.kind {
        SourceKind::Store => Arc::new(OtherStoreSource::new(path)),
        SourceKind::File => Arc::new(ImageFileSource::new(path, entry.odd_offsets)),
        SourceKind::Repository => {
            let (own, caller) = (entry.clone(), Arc::clone(caller));
            let open =
                move || open_repository(&own, &caller).map_err(|failure| failure.to_string());
            Arc::new(RepositorySource::new(entry.place.clone(), Box::new(open)))
        }
    }
}

/// Opens the repository of `entry`. The client's state of it is not used: every chunk is checked
/// against its name, so an older state of it does no harm.
pub(crate) fn open_repository(
    entry: &SourceEntry,
    caller: &Arc<Invocation>,
) -> Result<Repository, CommandFailure> {
    let files = |password: Option<&String>, key: Option<&String>| KeyArgs {
        password_file: password.map(PathBuf::from),
        key_file: key.map(PathBuf::from),
        allow_rollback: false,
    };
    let opener_of = |args: KeyArgs| repository::given_opener(&args, password::VARIABLES, caller);
    let opener = match &entry.secret {
        None => opener_of(files(None, None))?,
        Some(SourceSecret::PasswordFile(path)) => opener_of(files(Some(path), None))?,
        Some(SourceSecret::KeyFile(path)) => opener_of(files(None, Some(path)))?,
        Some(SourceSecret::PasswordCommand(command)) => Some(Opener::Password(
            password::of_command(OsString::from(command), caller)?,
        )),
    };
    let found = Repository::find(repository::object_store(
        &entry.place,
        None,
        caller,
        Some(OutputLayout::Human),
    )?)?;
    let folders = ClientFolders {
        cache: repository::client_folders(caller).cache,
        state: None,
    };
    Ok(found.open(opener.as_ref(), folders, Rollback::Refused)?)
}
