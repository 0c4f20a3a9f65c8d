//! The common part of `serve`, `nbd` and `mount`: they own the store while they run, do the
//! commands of others meanwhile, and end in bounded time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vellum_backup::device::RepositoryExports;
use vellum_backup::reader::CacheLimits;
use vellum_core::device::Exports;
use vellum_serve::fuse::{self, Mount, MountError};
use vellum_serve::nbd::{self, ClientCertificates, TlsIdentity};
use vellum_serve::vhost_user::{VhostUserOptions, VhostUserServer};
use vellum_serve::{ChangeBoard, ServeError};
use vellum_store::{ImageFile, Store, disk_is_full};

use crate::command_context::CommandContext;
use crate::control;
use crate::endpoint::{Endpoint, HostPort};
use crate::failure::{CommandFailure, Outcome};
use crate::file_exports::FileExports;
use crate::maintenance_thread::MaintenanceThread;
use crate::manager_page::{ManagerChoice, ManagerPage};
use crate::output::Render;
use crate::output::escape::shell_word;
use crate::repository::{AccessArgs, opening};
use crate::scrubber::{ScrubArgs, Scrubber};
use crate::source_format::{self, FileArgs};
use crate::{limits, size, systemd};

/// The grace period for running work once a service is to stop: for commands, then for NBD
/// requests, then for open files, each.
const GRACE: Duration = Duration::from_secs(5);

/// Options of all that serve.
#[derive(clap::Args)]
pub(crate) struct ServiceArgs {
    /// Memory for decoded data, so that what is read again is not decoded again [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    cache: Option<u64>,
}

/// Options of NBD servers.
#[derive(clap::Args)]
pub(crate) struct NbdArgs {
    /// No NBD client writes, whatever the images allow
    #[arg(short, long)]
    read_only: bool,
    /// Who writes to an image takes it from the client that wrote before, as a guest must that
    /// moves to another host while it runs [default: one client writes, for as long as it stays]
    #[arg(long)]
    takeover: bool,
    /// Every client must use TLS; server-cert.pem and server-key.pem are in this folder
    #[arg(long, value_name = "DIR")]
    tls_certs: Option<PathBuf>,
    /// And must have a certificate that ca-cert.pem in that folder vouches for
    #[arg(long, requires = "tls_certs")]
    tls_verify_peer: bool,
}

impl NbdArgs {
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls_certs.is_some()
    }

    /// The folder with the server's certificate and key.
    pub(crate) fn tls_certs(&self) -> Option<&PathBuf> {
        self.tls_certs.as_ref()
    }
}

/// An open store, or a repository, and its servers.
pub(crate) struct Service {
    /// The exports over NBD and as files: one list, so that a write through one is seen through the
    /// other.
    pub(crate) exports: Arc<dyn Exports>,
    owned: Option<OwnedStore>,
    /// Tells the mount of the writes of NBD clients.
    board: Arc<ChangeBoard>,
    nbd: Option<nbd::NbdServer>,
    guests: Option<VhostUserServer>,
    mount: Option<Mount>,
    manager: Option<ManagerPage>,
}

/// A store that this process owns.
struct OwnedStore {
    store: Store,
    /// The background work; none where the store can only be read.
    keeping: Option<BackgroundWork>,
}

/// The background work on a store that can be written, while it is served.
struct BackgroundWork {
    control: control::ControlServer,
    tender: MaintenanceThread,
    scrubber: Option<Scrubber>,
}

/// Options of what may serve a repository in place of a store.
#[derive(clap::Args)]
pub(crate) struct RepositorySourceArgs {
    /// Show what is in this repository (a folder, or s3://BUCKET/PREFIX), and fetch only what is
    /// read
    #[arg(long, value_name = "REPO")]
    pub(crate) from: Option<String>,
    /// Disk for what was fetched from it, so that it is fetched once; 0 for none [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size, requires = "from")]
    cache_size: Option<u64>,
    #[command(flatten)]
    access: AccessArgs,
}

impl Service {
    /// Opens the session's store, and does the commands of others from now on. One that is damaged,
    /// or where nobody can write, is shown to be read.
    pub(crate) fn serve_store(
        args: &ServiceArgs,
        scrub: &ScrubArgs,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        let store = session.open_to_serve()?;
        if let Some(cache_len) = args.cache {
            store.set_cache_len(cache_len);
        }
        let keeping = store
            .is_writable()
            .then(|| BackgroundWork::start_threads(&store, scrub, session))
            .transpose()?;
        Ok(Self {
            exports: Arc::new(store.exports()),
            owned: Some(OwnedStore { store, keeping }),
            board: Arc::default(),
            nbd: None,
            guests: None,
            mount: None,
            manager: None,
        })
    }

    /// The repository that `from` names, or else the session's store.
    pub(crate) fn start_from(
        from: &RepositorySourceArgs,
        args: &ServiceArgs,
        scrub: &ScrubArgs,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        match &from.from {
            Some(place) => Self::of_repository(
                place,
                &from.access,
                cache_limits(from.cache_size, args.cache),
                session,
            ),
            None => Self::serve_store(args, scrub, session),
        }
    }

    /// The repository at `place`.
    pub(crate) fn of_repository(
        place: &str,
        access: &AccessArgs,
        limits: CacheLimits,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        let exports =
            RepositoryExports::new(opening::open_repository(place, access, session)?, limits)?;
        Ok(Self {
            exports: Arc::new(exports),
            owned: None,
            board: Arc::default(),
            nbd: None,
            guests: None,
            mount: None,
            manager: None,
        })
    }

    /// Disks in files, which are only read.
    pub(crate) fn of_files(exports: FileExports) -> Self {
        Self {
            exports: Arc::new(exports),
            owned: None,
            board: Arc::default(),
            nbd: None,
            guests: None,
            mount: None,
            manager: None,
        }
    }

    /// The store, unless it is a repository, or files, that are served.
    pub(crate) fn served_store(&self) -> Option<&Store> {
        self.owned.as_ref().map(|owned| &owned.store)
    }

    /// Begins to offer `exports` over NBD, to `clients_max` at once; it listens nowhere yet.
    pub(crate) fn offer_exports(
        &mut self,
        exports: Arc<dyn Exports>,
        args: &NbdArgs,
        clients_max: Option<usize>,
        session: &CommandContext,
    ) -> Result<&nbd::NbdServer, CommandFailure> {
        let asked = if args.tls_verify_peer {
            ClientCertificates::Required
        } else {
            ClientCertificates::NotAsked
        };
        let identity =
            |folder: &PathBuf| TlsIdentity::load_from(&session.caller.resolve_path(folder), asked);
        let tls = args.tls_certs.as_ref().map(identity).transpose()?;
        let default = nbd::ServerOptions::default();
        let asked_max = clients_max.unwrap_or(default.clients_max);
        let options = nbd::ServerOptions {
            tls,
            read_only: args.read_only,
            takeover: args.takeover,
            clients_max: asked_max,
            sockets_max: limits::client_sockets(),
            requests_len: limits::requests_len(),
            report: session.event_log(),
            board: Arc::clone(&self.board),
            ..default
        };
        let server = nbd::NbdServer::start_server(exports, options)?;
        if server.clients_max() < asked_max {
            session.print_notice(&format!(
                "note: {} clients at once: this process may open few files (`ulimit -n`)",
                server.clients_max()
            ));
        }
        Ok(self.nbd.insert(server))
    }

    /// Keeps sockets for virtual machines in `folder`, beside the NBD server that was begun before;
    /// its absolute path.
    pub(crate) fn offer_guests(
        &mut self,
        folder: &Path,
        session: &CommandContext,
    ) -> Result<String, CommandFailure> {
        let nbd = self.nbd.as_ref();
        let options = VhostUserOptions {
            read_only: nbd.is_some_and(nbd::NbdServer::is_read_only),
            report: session.event_log(),
            board: Arc::clone(&self.board),
        };
        let writers = nbd.map(nbd::NbdServer::writers).unwrap_or_default();
        let folder = session.caller.resolve_path(folder);
        let fail = |error| CommandFailure::io_error(format!("find {}", folder.display()), error);
        let folder = std::path::absolute(&folder).map_err(fail)?;
        let exports = Arc::clone(&self.exports);
        let server = VhostUserServer::start_server(exports, &folder, writers, options)?;
        self.guests = Some(server);
        Ok(folder.display().to_string())
    }

    /// Shows images and snapshots as files in `folder`.
    pub(crate) fn mount_folder(
        &mut self,
        folder: &Path,
        allow_other: bool,
        session: &CommandContext,
    ) -> Result<&Mount, CommandFailure> {
        let caller = Arc::clone(&session.caller);
        let options = fuse::MountOptions {
            allow_other,
            report: Arc::new(move |line: &str| caller.print_error_line(line)),
            board: Arc::clone(&self.board),
        };
        let mount = Mount::mount_exports(
            Arc::clone(&self.exports),
            &session.caller.resolve_path(folder),
            options,
        );
        let mount = mount.map_err(|error| CommandFailure::Failed {
            hint: mount_hint(&error, folder),
            message: error.to_string(),
            source: Some(error.into()),
        })?;
        Ok(self.mount.insert(mount))
    }

    /// Shows the store, which NBD clients reach at `endpoints`, in browsers.
    pub(crate) fn offer_manager(
        &mut self,
        endpoints: Vec<(Endpoint, bool)>,
        choice: &ManagerChoice<'_>,
        session: &CommandContext,
    ) -> Result<&ManagerPage, CommandFailure> {
        let store = self.served_store().ok_or_else(|| {
            CommandFailure::usage_error(
                "the manager shows a store, and none is served here",
                "leave out --manager, or the files and --from",
            )
        })?;
        let keeping = self.owned.as_ref().and_then(|owned| owned.keeping.as_ref());
        let commands = keeping.map(|keeping| keeping.control.served_commands());
        let page = ManagerPage::start_page(store, endpoints, commands, choice, session)?;
        Ok(self.manager.insert(page))
    }

    /// Serves while `work` goes on, which gets the store and the commands of others.
    pub(crate) fn run_while<T>(
        self,
        session: &mut CommandContext,
        work: impl FnOnce(
            &Store,
            Option<control::ServedCommands>,
            &mut CommandContext,
        ) -> Result<T, CommandFailure>,
    ) -> Result<T, CommandFailure> {
        let owned = self.owned.as_ref();
        let done = owned.map(|owned| {
            let keeping = owned.keeping.as_ref();
            let commands = keeping.map(|keeping| keeping.control.served_commands());
            work(&owned.store, commands, session)
        });
        self.stop_all(session);
        done.expect("a service of a store was started")
    }

    /// Gives `answer` and serves until a stop is asked for, or `is_over`, which waits for a moment,
    /// returns true.
    pub(crate) fn run_until(
        self,
        answer: &impl Render,
        session: &mut CommandContext,
        is_over: impl Fn(&Self) -> bool,
    ) -> Result<Outcome, CommandFailure> {
        session.output.print_confirmation(answer)?;
        session.output.flush()?;
        systemd::notify_ready(&session.caller);
        while !session.signals.is_stopped() && !is_over(&self) {}
        systemd::notify_stopping(&session.caller);
        self.stop_all(session);
        Ok(Outcome::Done)
    }

    /// True if the NBD server's clients have come and gone. Waits for `time`.
    pub(crate) fn is_left(&self, time: Duration) -> bool {
        self.nbd
            .as_ref()
            .is_some_and(|nbd| nbd.wait_left(Some(time)) != nbd::LastClientWait::NotYet)
    }

    /// True if the files were unmounted. Waits for `time`.
    pub(crate) fn is_unmounted(&self, time: Duration) -> bool {
        self.mount
            .as_ref()
            .is_some_and(|mount| mount.wait_unmounted(time))
    }

    /// Ends all of it in half a minute at most. What does not end in time is left behind, as a
    /// crash would leave it.
    fn stop_all(mut self, session: &CommandContext) {
        if let Some(false) = self.manager.take().map(ManagerPage::stop_page) {
            session.print_warning("a job did not stop in time, and was left behind");
        }
        let tender = self.owned.and_then(|owned| owned.keeping).map(|keeping| {
            if !keeping.control.stop_within(GRACE) {
                session.print_warning("a command did not stop in time, and was left behind");
            }
            (keeping.tender, keeping.scrubber)
        });
        let guests = self.guests.map_or(0, |guests| guests.stop_within(GRACE));
        if guests > 0 {
            session.print_warning(&format!(
                "{guests} guests were left with a request that did not end"
            ));
        }
        let unfinished = self.nbd.map_or(0, |nbd| nbd.stop_within(GRACE).unfinished);
        if unfinished > 0 {
            session.print_warning(&format!(
                "{unfinished} NBD clients were left with a request that did not end"
            ));
        }
        if let Some(Err(error)) = self.mount.map(|mount| mount.stop_within(GRACE)) {
            session.print_warning(&error.to_string());
        }
        drop(tender);
    }
}

impl BackgroundWork {
    fn start_threads(
        store: &Store,
        scrub: &ScrubArgs,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        Ok(Self {
            control: control::ControlServer::start_listening(store)?,
            tender: MaintenanceThread::start_thread(store, &session.caller),
            scrubber: Scrubber::start_thread(store, scrub, &session.caller),
        })
    }
}

/// Opens a file to be offered: under its own name, with the time of its last change in nanoseconds
/// since 1970.
pub(crate) fn open_file(
    file: &Path,
    args: &FileArgs,
    session: &CommandContext,
) -> Result<(String, ImageFile, u64), CommandFailure> {
    let opened = source_format::open_disk_file(file, args, &args.expected_file(), session)?;
    let name = file.file_name().unwrap_or(file.as_os_str());
    let changed =
        std::fs::metadata(session.caller.resolve_path(file)).and_then(|found| found.modified());
    let changed_ns = changed
        .ok()
        .and_then(|changed| changed.duration_since(SystemTime::UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok());
    Ok((
        name.to_string_lossy().into_owned(),
        opened,
        changed_ns.unwrap_or_default(),
    ))
}

/// The cache limits for a repository, on disk and in memory: the defaults, unless given.
pub(crate) fn cache_limits(disk_len: Option<u64>, memory_len: Option<u64>) -> CacheLimits {
    let usual = CacheLimits::default();
    CacheLimits {
        disk_len: disk_len.unwrap_or(usual.disk_len),
        memory_len: memory_len.unwrap_or(usual.memory_len),
    }
}

/// Listens at the sockets that systemd, or a program that acts as it does, hands over. Whether
/// there are any.
pub(crate) fn listen_given(
    nbd: &nbd::NbdServer,
    session: &CommandContext,
) -> Result<bool, CommandFailure> {
    let sockets = systemd::activated_sockets(&session.caller).map_err(systemd::socket_failure)?;
    let is_given = !sockets.is_empty();
    sockets
        .into_iter()
        .try_for_each(|socket| nbd.listen_on(socket))?;
    Ok(is_given)
}

/// Listens at a Unix socket, which may be in the folder of `store`.
pub(crate) fn listen_unix(
    nbd: &nbd::NbdServer,
    store: Option<&Store>,
    path: &Path,
    session: &CommandContext,
) -> Result<Endpoint, CommandFailure> {
    let path = session.caller.resolve_path(path);
    let listen = || nbd.listen_unix(&path);
    let is_full = |error: &ServeError| match error {
        ServeError::Listen(_, error) => disk_is_full(error),
        _ => false,
    };
    store.map_or_else(listen, |store| store.make_with_reserve(listen, is_full))?;
    let absolute = std::path::absolute(&path)
        .map_err(|error| CommandFailure::io_error(format!("find {}", path.display()), error))?;
    Ok(Endpoint::Unix(absolute))
}

/// Listens at a TCP port, with a notice if that lets strangers in.
pub(crate) fn listen_tcp(
    nbd: &nbd::NbdServer,
    place: &HostPort,
    has_tls: bool,
    session: &CommandContext,
) -> Result<Endpoint, CommandFailure> {
    let fail =
        |error| CommandFailure::io_error(format!("find the address of {}", place.host), error);
    let endpoint = Endpoint::Tcp(nbd.listen_tcp(place.resolve_address().map_err(fail)?)?);
    if endpoint.is_public() && !has_tls {
        session.print_warning(
            "whoever reaches this machine can read and write what is offered; --tls-certs \
             and --tls-verify-peer keep strangers out",
        );
    }
    Ok(endpoint)
}

/// Advice where a folder is missing.
fn mount_hint(error: &MountError, folder: &Path) -> Option<String> {
    let is_missing = matches!(
        error,
        MountError::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound
    );
    let folder = folder.to_string_lossy();
    is_missing.then(|| format!("`mkdir -p {}` makes the folder", shell_word(&folder)))
}
