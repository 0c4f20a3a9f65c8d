//! Repositories from the command line: the place, the key, and the client's state of it, all from
//! the caller's folder and environment; `opening` puts them together.

pub(crate) mod address;
pub(crate) mod milestones;
pub(crate) mod opening;
mod outage;
pub(crate) mod password;
pub(crate) mod point_filter;
pub(crate) mod point_names;
pub(crate) mod repo_args;

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use vellum_backup::error::BackupError;
use vellum_backup::format::RepositoryFile;
use vellum_backup::objects::{
    ObjectErrorKind, ObjectName, Objects, PersistenceLimits, PersistentObjects, RateLimitedReads,
    open_objects,
};
use vellum_backup::repository::ClientFolders;
use vellum_backup::seal::{KeyFile, Opener};
use zeroize::Zeroizing;

use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::output::OutputLayout;
use outage::OutageNotice;
use password::{Password, PasswordVariables};

/// Longer than any key file.
const KEY_FILE_LEN_MAX: u64 = 4096;
/// The permissions of a key file.
const KEY_FILE_MODE: u32 = 0o600;

/// What opens a repository.
#[derive(clap::Args)]
#[command(next_help_heading = "Opening the repository")]
pub(crate) struct KeyArgs {
    /// A file whose first line is the password [env: VELLUM_PASSWORD_FILE, or VELLUM_PASSWORD,
    /// _COMMAND, _FD]
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub(crate) password_file: Option<PathBuf>,
    /// A key file
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Believe a repository that shows an earlier state, or is another, than was seen there last
    #[arg(long)]
    pub(crate) allow_rollback: bool,
}

/// How a repository is opened and read.
#[derive(clap::Args)]
pub(crate) struct AccessArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Bytes that may come from the repository in a second
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = crate::size::parse_size,
        help_heading = "Opening the repository"
    )]
    pub(crate) limit_download: Option<u64>,
}

/// The objects at `place`, which is waited for when it fails, and read at `limit_download` bytes a
/// second; makes no request. `layout` is how outages are told; none for not at all.
pub(crate) fn object_store(
    place: &str,
    limit_download: Option<u64>,
    caller: &Arc<Invocation>,
    layout: Option<OutputLayout>,
) -> Result<Arc<dyn Objects>, CommandFailure> {
    let watch = Box::new(OutageNotice {
        caller: Arc::clone(caller),
        layout,
    });
    let mut place = impatient_objects(place, caller)?;
    if let Some(limit) = limit_download {
        let caller = Arc::clone(caller);
        let is_cancelled = Box::new(move || caller.signals.is_stopped());
        place = Arc::new(RateLimitedReads::new(place, limit, is_cancelled));
    }
    Ok(Arc::new(PersistentObjects::new(
        place,
        watch,
        PersistenceLimits::default(),
    )))
}

/// The same, which fails when the place does.
fn impatient_objects(place: &str, caller: &Invocation) -> Result<Arc<dyn Objects>, CommandFailure> {
    // By its whole path: what is remembered of a place is not of whatever else is called so
    // elsewhere.
    let folder = caller.resolve_path(Path::new("."));
    let folder = folder.canonicalize().unwrap_or(folder);
    let objects = open_objects(place, &folder, &caller.variables);
    objects.map(Arc::from).map_err(|error| match error.kind {
        ObjectErrorKind::Denied => CommandFailure::with_hint(
            error.to_string(),
            "they are taken from the environment; the README has the variables of each store",
        ),
        _ => CommandFailure::usage_error(
            error.to_string(),
            "name a folder, or an address such as s3://BUCKET/PREFIX",
        ),
    })
}

/// The password or key file from the options or the environment.
pub(crate) fn given_opener(
    args: &KeyArgs,
    variables: PasswordVariables,
    caller: &Invocation,
) -> Result<Option<Opener>, CommandFailure> {
    if let Some(path) = &args.key_file {
        return read_key_file(path, caller).map(|file| Some(Opener::KeyFile(file)));
    }
    Ok(
        password::given_password(args.password_file.as_deref(), variables, caller)?
            .map(Opener::Password),
    )
}

/// The password of the repository at `place`, asked at the caller's terminal, if it has one and
/// nothing else gives it.
pub(crate) fn ask_password(
    place: &str,
    args: &KeyArgs,
    caller: &Invocation,
) -> Result<Option<Password>, CommandFailure> {
    let is_given = args.key_file.is_some()
        || args.password_file.is_some()
        || password::VARIABLES.are_set(caller);
    if is_given || !caller.streams.input.file().is_terminal() {
        return Ok(None);
    }
    let objects = impatient_objects(place, caller)?;
    let file = objects
        .get(&ObjectName::Repository.to_string())
        .ok()
        .and_then(|stored| RepositoryFile::decode(&stored).ok());
    match file {
        Some(file) if file.is_encrypted => password::ask_at_terminal(
            &format!("password of {}", objects.describe()),
            false,
            caller,
        ),
        // A fault there is reported by the process that does the command.
        _ => Ok(None),
    }
}

pub(crate) fn read_key_file(path: &Path, caller: &Invocation) -> Result<KeyFile, CommandFailure> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(caller.resolve_path(path))
        .and_then(|file| file.take(KEY_FILE_LEN_MAX).read_to_string(&mut text));
    read.map_err(|error| {
        CommandFailure::io_error(format!("read the key file {}", path.display()), error)
    })?;
    let advice = "`vellum backup key add --new-key-file FILE` makes one";
    KeyFile::parse(&text).ok_or_else(|| {
        CommandFailure::with_hint(format!("{} is no key file", path.display()), advice)
    })
}

/// A new key file, which nobody else may read.
pub(crate) fn make_key_file(path: &Path, caller: &Invocation) -> Result<KeyFile, CommandFailure> {
    let key = KeyFile::generate().map_err(BackupError::from)?;
    let mut options = File::options();
    options
        .write(true)
        .create_new(true)
        .mode(KEY_FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let made = options
        .open(caller.resolve_path(path))
        .and_then(|mut file| {
            file.write_all(key.to_text().as_bytes())?;
            file.sync_all()
        });
    made.map_err(|error| {
        CommandFailure::io_error(format!("write the key file {}", path.display()), error)
    })?;
    Ok(key)
}

/// The folders of this user's cache, and of the state seen of repositories.
pub(crate) fn client_folders(caller: &Invocation) -> ClientFolders {
    let named = caller
        .variable("VELLUM_CACHE_DIR")
        .map(|folder| caller.resolve_path(Path::new(folder)));
    let cache =
        named.or_else(|| Some(xdg_folder("XDG_CACHE_HOME", ".cache", caller)?.join("vellum")));
    ClientFolders {
        cache,
        state: xdg_folder("XDG_STATE_HOME", ".local/state", caller)
            .map(|folder| folder.join("vellum")),
    }
}

/// The XDG rule says that a relative path is to be ignored.
fn xdg_folder(variable: &str, usual: &str, caller: &Invocation) -> Option<PathBuf> {
    let named = caller
        .variable(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.or_else(|| {
        caller
            .variable("HOME")
            .map(|home| PathBuf::from(home).join(usual))
    })
}

/// The present, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
