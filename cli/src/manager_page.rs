//! The manager of a store's disks as commands start it: where it listens, what it may do, and how
//! it ends.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use vellum_manager::{ManagerError, ManagerOptions, ManagerServer};
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::control::ServedCommands;
use crate::endpoint::{Endpoint, HostPort, LOOPBACK};
use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::manager_operations::StoreOperations;
use crate::output::report;
use crate::size;

/// The manager's port, unless it is taken: then any that is free.
const MANAGER_PORT: u16 = 10_880;
/// In the store's folder: uploads, and files that are made to be downloaded.
const SPOOL: &str = "manager-spool";
/// Bytes that uploads may take, unless it is said.
const UPLOAD_LIMIT: u64 = 64 << 30;
/// The grace period for jobs once the manager is to end: less than a server gives its commands.
pub(crate) const JOB_GRACE: Duration = Duration::from_secs(3);
/// The program that opens a page in the person's browser.
const OPENER: &str = "xdg-open";
/// The file that leads the browser to the page, so that no list of processes tells the token.
const OPENING_FILE: &str = "open.html";

/// Options of the manager.
#[derive(clap::Args)]
pub(crate) struct ManagerArgs {
    /// A folder on this machine below which disks may be imported from and exported to; can be
    /// given again
    #[arg(long, value_name = "DIR")]
    files: Vec<PathBuf>,
    /// How much uploads may take in the store's folder [default: 64G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    upload_limit: Option<u64>,
}

/// The choices of who starts a manager.
pub(crate) struct ManagerChoice<'a> {
    /// The address; none is the usual one.
    pub(crate) place: Option<&'a HostPort>,
    pub(crate) is_read_only: bool,
    pub(crate) files: &'a [PathBuf],
    pub(crate) upload_limit: Option<u64>,
}

/// A manager that answers until it is stopped.
pub(crate) struct ManagerPage {
    server: ManagerServer,
    spool: PathBuf,
    caller: Arc<Invocation>,
}

impl ManagerArgs {
    pub(crate) fn choose_options<'a>(
        &'a self,
        place: Option<&'a HostPort>,
        is_read_only: bool,
    ) -> ManagerChoice<'a> {
        ManagerChoice {
            place,
            is_read_only,
            files: &self.files,
            upload_limit: self.upload_limit,
        }
    }
}

impl ManagerPage {
    /// Begins to show `store`, which NBD clients reach at `endpoints`.
    pub(crate) fn start_page(
        store: &Store,
        endpoints: Vec<(Endpoint, bool)>,
        commands: Option<ServedCommands>,
        choice: &ManagerChoice<'_>,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        let caller = Arc::clone(&session.caller);
        let folder = std::path::absolute(store.dir())
            .map_err(|error| CommandFailure::io_error("find the store's folder", error))?;
        let spool = folder.join(SPOOL);
        let folders = choice
            .files
            .iter()
            .map(|folder| caller.resolve_path(folder));
        let folders: Vec<PathBuf> = folders.collect();
        let operations = StoreOperations::of_session(store, endpoints, commands, session);
        let layout = session.output.event_layout();
        let start = |address: SocketAddr| {
            let heard = Arc::clone(&caller);
            let options = ManagerOptions {
                address,
                read_only_reason: choice
                    .is_read_only
                    .then(|| "it was started with --read-only".to_owned()),
                folders: folders.clone(),
                spool: spool.clone(),
                upload_limit: choice.upload_limit.unwrap_or(UPLOAD_LIMIT),
                announce: Box::new(move |url| {
                    if let Some(layout) = layout {
                        let text = format!("for another browser: {url}");
                        report::print_event(&heard, layout, &text);
                    }
                }),
            };
            ManagerServer::start_manager(Arc::clone(&operations), options)
        };
        let usual = HostPort {
            host: LOOPBACK.to_owned(),
            port: MANAGER_PORT,
        };
        let place = choice.place.unwrap_or(&usual);
        let address = place.resolve_address().map_err(|error| {
            CommandFailure::io_error(format!("find the address of {}", place.host), error)
        })?;
        let server = match start(address) {
            Err(ManagerError::Listen(..)) if choice.place.is_none() => {
                start(SocketAddr::new(address.ip(), 0))
            }
            started => started,
        };
        Ok(Self {
            server: server.map_err(manager_failure)?,
            spool,
            caller,
        })
    }

    /// The URL that opens the page once.
    pub(crate) fn opening_url(&self) -> String {
        self.server.opening_url()
    }

    /// Opens the page in the person's browser.
    pub(crate) fn open_browser(&self) -> Result<(), CommandFailure> {
        let fail = |error| CommandFailure::io_error(format!("start {OPENER}"), error);
        let file = write_opening_file(&self.spool, &self.opening_url()).map_err(fail)?;
        let mut command = self.caller.prepare_command(OPENER.as_ref()).map_err(fail)?;
        command
            .arg(file)
            .stdout(Stdio::null())
            .spawn()
            .map_err(fail)?;
        Ok(())
    }

    /// Ends it. True if all of its jobs have ended.
    pub(crate) fn stop_page(self) -> bool {
        self.server.stop_within(JOB_GRACE)
    }
}

/// A file of this user alone that leads to `url`.
fn write_opening_file(spool: &Path, url: &str) -> std::io::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(spool)?;
    let path = spool.join(OPENING_FILE);
    let _ = fs::remove_file(&path);
    let mut file: File = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    // The URL has no letter that means something in HTML.
    writeln!(
        file,
        "<!DOCTYPE html><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\">"
    )?;
    Ok(path)
}

fn manager_failure(error: ManagerError) -> CommandFailure {
    let hint = match &error {
        ManagerError::NotLoopback(_) => "leave it on this machine, and reach it through `ssh -L`",
        ManagerError::Listen(..) => "choose another place to listen",
        ManagerError::Folder(..) => "--files takes a folder that is there",
        ManagerError::Start(_) => "run it again",
    };
    CommandFailure::with_hint(error.to_string(), hint)
}
