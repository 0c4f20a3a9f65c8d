//! The manager of a store's disks as commands start it: where it listens, what it may do, and how
//! it ends.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use vellum_manager::{
    HostName, ListeningPlace, ManagerError, ManagerOptions, ManagerServer, RemoteAccess,
    SessionLimits,
};
use vellum_serve::nbd::{ClientCertificates, TlsIdentity};
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::control::ServedCommands;
use crate::endpoint::{Endpoint, HostPort, LOOPBACK, MANAGER_PORT};
use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::manager_operations::StoreOperations;
use crate::manager_password::read_password_file;
use crate::output::report;
use crate::size;

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
    /// Talk TLS alone; server-cert.pem and server-key.pem are in this folder
    #[arg(long, value_name = "DIR", requires = "password_file")]
    tls_certs: Option<PathBuf>,
    /// Let in who has the password whose hash is in this file, as `vellum manager password` writes
    /// it; with both of these, other machines may reach it
    #[arg(long, value_name = "FILE", requires = "tls_certs")]
    password_file: Option<PathBuf>,
    /// A name by which browsers call it, beside its address; can be given again
    #[arg(long, value_name = "NAME", value_parser = HostName::parse, requires = "tls_certs")]
    host_name: Vec<HostName>,
}

/// The place where a manager is to listen.
pub(crate) enum ManagerPlace<'a> {
    /// The usual one, or any other port if that is taken.
    Usual,
    Address(&'a HostPort),
    /// At a socket that was handed over.
    Socket(OwnedFd),
}

/// The choices of who starts a manager.
pub(crate) struct ManagerChoice<'a> {
    pub(crate) place: ManagerPlace<'a>,
    /// Access from other machines.
    pub(crate) remote: Option<RemoteChoice<'a>>,
    pub(crate) is_read_only: bool,
    pub(crate) files: &'a [PathBuf],
    pub(crate) upload_limit: Option<u64>,
}

/// The files and names for access from other machines.
pub(crate) struct RemoteChoice<'a> {
    pub(crate) tls_certs: &'a Path,
    pub(crate) password_file: &'a Path,
    pub(crate) host_names: &'a [HostName],
}

impl<'a> RemoteChoice<'a> {
    /// The choice, if both files were named; neither does without the other.
    pub(crate) fn of_options(
        tls_certs: Option<&'a PathBuf>,
        password_file: Option<&'a PathBuf>,
        host_names: &'a [HostName],
    ) -> Option<Self> {
        Some(Self {
            tls_certs: tls_certs?,
            password_file: password_file?,
            host_names,
        })
    }

    fn load_access(&self, session: &CommandContext) -> Result<RemoteAccess, CommandFailure> {
        let caller = Arc::clone(&session.caller);
        let folder = caller.resolve_path(self.tls_certs);
        let identity = TlsIdentity::load_from(&folder, ClientCertificates::NotAsked)?;
        let hash = read_password_file(self.password_file, &caller)?;
        let layout = session.output.event_layout();
        Ok(RemoteAccess {
            tls: identity.server_config(),
            host_names: self.host_names.to_vec(),
            check_password: Arc::new(move |password| hash.is_of(password)),
            session_limits: SessionLimits::default(),
            report: Box::new(move |line| {
                if let Some(layout) = layout {
                    report::print_event(&caller, layout, &format!("manager: {line}"));
                }
            }),
        })
    }
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
        place: ManagerPlace<'a>,
        is_read_only: bool,
    ) -> ManagerChoice<'a> {
        let (tls_certs, password_file) = (self.tls_certs.as_ref(), self.password_file.as_ref());
        ManagerChoice {
            place,
            remote: RemoteChoice::of_options(tls_certs, password_file, &self.host_name),
            is_read_only,
            files: &self.files,
            upload_limit: self.upload_limit,
        }
    }
}

impl ManagerChoice<'_> {
    fn load_remote(
        &self,
        session: &CommandContext,
    ) -> Result<Option<RemoteAccess>, CommandFailure> {
        let remote = self.remote.as_ref();
        remote.map(|remote| remote.load_access(session)).transpose()
    }

    fn manager_options(
        &self,
        place: ListeningPlace,
        remote: Option<RemoteAccess>,
        spool: PathBuf,
        session: &CommandContext,
    ) -> ManagerOptions {
        let caller = Arc::clone(&session.caller);
        let layout = session.output.event_layout();
        let folders = self.files.iter().map(|folder| caller.resolve_path(folder));
        ManagerOptions {
            place,
            remote,
            read_only_reason: self
                .is_read_only
                .then(|| "it was started with --read-only".to_owned()),
            folders: folders.collect(),
            spool,
            upload_limit: self.upload_limit.unwrap_or(UPLOAD_LIMIT),
            announce: Box::new(move |url| {
                if let Some(layout) = layout {
                    let text = format!("for another browser: {url}");
                    report::print_event(&caller, layout, &text);
                }
            }),
        }
    }
}

fn usual_place(port: u16) -> Result<ListeningPlace, CommandFailure> {
    let host = LOOPBACK.to_owned();
    resolve_place(&HostPort { host, port })
}

fn resolve_place(place: &HostPort) -> Result<ListeningPlace, CommandFailure> {
    let address: Result<SocketAddr, _> = place.resolve_address();
    address.map(ListeningPlace::Address).map_err(|error| {
        CommandFailure::io_error(format!("find the address of {}", place.host), error)
    })
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
        let operations = StoreOperations::of_session(store, endpoints, commands, session);
        let start = |place: ListeningPlace, remote: Option<RemoteAccess>| {
            let options = choice.manager_options(place, remote, spool.clone(), session);
            ManagerServer::start_manager(Arc::clone(&operations), options)
        };
        let remote = || choice.load_remote(session);
        let server = match &choice.place {
            ManagerPlace::Address(place) => start(resolve_place(place)?, remote()?),
            ManagerPlace::Socket(socket) => {
                let socket = socket.try_clone().map_err(|error| {
                    CommandFailure::io_error("take the socket that was handed over", error)
                })?;
                start(ListeningPlace::Socket(socket), remote()?)
            }
            ManagerPlace::Usual => match start(usual_place(MANAGER_PORT)?, remote()?) {
                Err(ManagerError::Listen(..)) => start(usual_place(0)?, remote()?),
                started => started,
            },
        };
        Ok(Self {
            server: server.map_err(manager_failure)?,
            spool,
            caller,
        })
    }

    /// The URL that opens the page: once, or for who has the password.
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
        ManagerError::NotLoopback(_) => {
            "give --tls-certs and --password-file (`vellum manager password FILE` writes one), or \
             leave it on this machine, and reach it through `ssh -L`"
        }
        ManagerError::NoName(_) => "--host-name says what browsers call this machine",
        ManagerError::Listen(..) => "choose another place to listen",
        ManagerError::Socket(_) => "a .socket unit has it as ListenStream=ADDRESS:PORT",
        ManagerError::Folder(..) => "--files takes a folder that is there",
        ManagerError::Start(_) => "run it again",
    };
    CommandFailure::with_hint(error.to_string(), hint)
}
