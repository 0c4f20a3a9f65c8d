//! `vellum serve`: one process that owns the store, for as long as it is wanted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use vellum_manager::HostName;

use crate::command_context::CommandContext;
use crate::endpoint::{Endpoint, HostPort};
use crate::failure::{CommandFailure, Outcome};
use crate::file_exports::FileExports;
use crate::interruptible_stream::PATIENCE;
use crate::manager_page::{ManagerChoice, ManagerPlace, RemoteChoice};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::scrubber::ScrubArgs;
use crate::service::{self, NbdArgs, RepositorySourceArgs, Service, ServiceArgs};
use crate::source_format::FileArgs;

/// In the store's folder, unless told otherwise.
const SOCKET: &str = "nbd.sock";
/// Stands for any name.
const ANY: &str = "IMAGE";
/// The manager listens here, unless told otherwise.
const USUAL_PLACE: &str = "127.0.0.1:10880";

/// Offer all images and snapshots over NBD (and as files) until stopped; all other commands work
/// meanwhile
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum serve
  vellum serve --listen 0.0.0.0:10809 --tls-certs /etc/pki/vellum --tls-verify-peer
  qemu-system-x86_64 -drive file='nbd+unix:///web?socket=/srv/images/nbd.sock',format=raw
  vellum serve a.vdi b.vmdk --listen 10810
  vellum serve --vhost-user /run/vellum/guests

Images can be written, by one client at a time; snapshots (IMAGE@SNAPSHOT) only read; all of \
a repository (--from REPO) only read, and so are files, by their names. With -v it says who comes \
and goes, what fails and what takes long. With --vhost-user a virtual machine has a disk as \
`-chardev socket,id=c,path=DIR/web.sock,reconnect=1 -device vhost-user-blk-pci,chardev=c` of QEMU \
(its memory shared: `-object memory-backend-memfd,id=m,size=2G,share=on -numa node,memdev=m`). \
Started by systemd with sockets, it listens on those.")]
pub(crate) struct Args {
    /// Files of any format, to be read, in place of the store
    #[arg(value_name = "FILE", conflicts_with = "from")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    file: FileArgs,
    /// Listen at this Unix socket [default: nbd.sock in the store's folder, unless --listen is
    /// there]
    #[arg(short = 'k', long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Listen at this address; a port alone is for this machine only
    #[arg(long, value_name = "HOST:PORT", value_parser = HostPort::parse_host_port)]
    listen: Option<HostPort>,
    #[command(flatten)]
    nbd: NbdArgs,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    scrub: ScrubArgs,
    #[command(flatten)]
    from: RepositorySourceArgs,
    /// Show images and snapshots as files in this empty folder too
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Keep a vhost-user-blk socket for each image and snapshot in this folder too: virtual
    /// machines on this one reach their disks through shared memory
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    vhost_user: Option<PathBuf>,
    /// Show the store in a browser too, as `vellum manager` does [default: 127.0.0.1:10880]
    #[arg(
        long,
        value_name = "HOST:PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = USUAL_PLACE,
        value_parser = HostPort::parse_manager_place,
        conflicts_with_all = ["files", "from"]
    )]
    manager: Option<HostPort>,
    /// A folder below which the manager may import from and export to; can be given again
    #[arg(long, value_name = "DIR", requires = "manager")]
    manager_files: Vec<PathBuf>,
    /// Let in who has the password whose hash is in this file, under TLS alone; then other machines
    /// may reach the manager
    #[arg(long, value_name = "FILE", requires_all = ["manager", "tls_certs"])]
    manager_password_file: Option<PathBuf>,
    /// A name by which browsers call the manager, beside its address; can be given again
    #[arg(
        long,
        value_name = "NAME",
        value_parser = HostName::parse,
        requires = "manager_password_file"
    )]
    manager_host_name: Vec<HostName>,
    /// Let other users at these files
    #[arg(long, requires = "mount")]
    allow_other: bool,
}

#[derive(Serialize)]
struct ServeSummary {
    action: &'static str,
    store: String,
    images: u64,
    snapshots: u64,
    /// URIs for clients to connect to, with the name of an image or snapshot for IMAGE.
    uris: Vec<String>,
    /// The folder with the sockets for virtual machines, `NAME.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost_user: Option<String>,
    /// The folder with the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
    /// The URL that opens the manager's page: once, or for who has the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    manager: Option<String>,
}

pub(super) fn run_serve(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let mut service = service_of(args, session)?;
    let endpoints = listen_everywhere(args, &mut service, session)?;
    let vhost_user = args
        .vhost_user
        .as_ref()
        .map(|folder| service.offer_guests(folder, session))
        .transpose()?;
    let folder = args
        .mount
        .as_ref()
        .map(|folder| service.mount_folder(folder, args.allow_other, session))
        .transpose()?;
    let folder = folder.map(|mount| mount.folder().display().to_string());
    let manager = start_manager(args, &mut service, &endpoints, session)?;
    let exports = service
        .exports
        .list_exports()
        .map_err(|error| CommandFailure::with_hint(error.to_string(), "run it again"))?;
    let snapshots = exports
        .iter()
        .filter(|export| export.name.contains('@'))
        .count() as u64;
    let images = exports.len() as u64 - snapshots;
    let uris = endpoints
        .iter()
        .map(|endpoint| endpoint.export_uri(args.nbd.has_tls(), ANY))
        .collect();
    let store = args
        .from
        .from
        .clone()
        .or_else(|| {
            service
                .served_store()
                .map(|store| store.dir().display().to_string())
        })
        .unwrap_or_else(|| "files".to_owned());
    let (serving, signals) = (
        ServeSummary {
            action: "serve",
            store,
            images,
            snapshots,
            uris,
            vhost_user,
            folder,
            manager,
        },
        session.signals.clone(),
    );
    service.run_until(&serving, session, |_| signals.await_stop(PATIENCE))
}

/// The files that are named, or else the repository or the store.
fn service_of(args: &Args, session: &CommandContext) -> Result<Service, CommandFailure> {
    if args.files.is_empty() {
        return Service::start_from(&args.from, &args.service, &args.scrub, session);
    }
    let open = |file: &PathBuf| service::open_file(file, &args.file, session);
    let files: Vec<_> = args.files.iter().map(open).collect::<Result<_, _>>()?;
    let mut names: Vec<_> = files.iter().map(|(name, ..)| name).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(CommandFailure::usage_error(
            format!("two files are called {name}, and clients ask by name"),
            "serve one of them elsewhere, or through a link of another name",
        ));
    }
    Ok(Service::of_files(FileExports::new(files)))
}

/// Shows the store in browsers, if that is wanted; the URL.
fn start_manager(
    args: &Args,
    service: &mut Service,
    endpoints: &[Endpoint],
    session: &CommandContext,
) -> Result<Option<String>, CommandFailure> {
    let Some(place) = &args.manager else {
        return Ok(None);
    };
    let tls = args.nbd.has_tls();
    let endpoints = endpoints.iter().map(|endpoint| (endpoint.clone(), tls));
    let choice = ManagerChoice {
        place: ManagerPlace::Address(place),
        remote: RemoteChoice::of_options(
            args.nbd.tls_certs(),
            args.manager_password_file.as_ref(),
            &args.manager_host_name,
        ),
        is_read_only: false,
        files: &args.manager_files,
        upload_limit: None,
    };
    let page = service.offer_manager(endpoints.collect(), &choice, session)?;
    Ok(Some(page.opening_url()))
}

/// Listens where the person, or systemd, says.
fn listen_everywhere(
    args: &Args,
    service: &mut Service,
    session: &CommandContext,
) -> Result<Vec<Endpoint>, CommandFailure> {
    let store = service.served_store().cloned();
    let default = store.as_ref().map(|store| store.dir().join(SOCKET));
    let server = service.offer_exports(Arc::clone(&service.exports), &args.nbd, None, session)?;
    let is_told =
        service::listen_given(server, session)? || args.socket.is_some() || args.listen.is_some();
    let mut endpoints = Vec::new();
    if default.is_none() && !is_told && args.mount.is_none() {
        return Err(CommandFailure::usage_error(
            "there is no store, in whose folder a socket would be",
            "add --socket PATH, --listen or --mount",
        ));
    }
    if let Some(path) = args
        .socket
        .as_ref()
        .or(default.as_ref().filter(|_| !is_told))
    {
        endpoints.push(service::listen_unix(server, store.as_ref(), path, session)?);
    }
    if let Some(place) = &args.listen {
        endpoints.push(service::listen_tcp(
            server,
            place,
            args.nbd.has_tls(),
            session,
        )?);
    }
    Ok(endpoints)
}

impl Render for ServeSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (images, snapshots) = (
            format_count(self.images, "image"),
            format_count(self.snapshots, "snapshot"),
        );
        page.write_line(format!(
            "serving {images} and {snapshots} of {}; Ctrl-C stops",
            self.store
        ))?;
        self.uris
            .iter()
            .try_for_each(|uri| page.write_line(format!("NBD: {uri}")))?;
        self.vhost_user.as_ref().map_or(Ok(()), |folder| {
            page.write_line(format!("vhost-user-blk: {folder}/{ANY}.sock"))
        })?;
        self.folder
            .as_ref()
            .map_or(Ok(()), |folder| page.write_line(format!("files: {folder}")))?;
        self.manager
            .as_ref()
            .map_or(Ok(()), |url| page.write_line(format!("manager: {url}")))
    }
}
