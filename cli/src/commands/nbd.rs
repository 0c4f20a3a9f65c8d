//! `vellum nbd`: one image, snapshot or file for one client, as `qemu-nbd` does it.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use vellum_core::device::OpenError;
use vellum_serve::nbd::{NbdServer, SingleExport};

use crate::command_context::CommandContext;
use crate::disk_argument::{DiskArgument, is_file_word};
use crate::endpoint::{Endpoint, HostPort, LOOPBACK, NBD_PORT};
use crate::failure::{CommandFailure, Outcome};
use crate::file_exports::FileExports;
use crate::interruptible_stream::PATIENCE;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::scrubber::ScrubArgs;
use crate::service::{self, NbdArgs, RepositorySourceArgs, Service, ServiceArgs};
use crate::source_format::FileArgs;

/// Offer an image or snapshot, or a file of any format to be read, over NBD until its client leaves
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum nbd web -k /run/user/1000/web.sock
  vellum nbd web@monday -r -t -p 10810
  nbdcopy -- [ vellum nbd web -q ] web.raw
  vellum nbd disk.vdi -k /run/user/1000/disk.sock

The letters are those of qemu-nbd; unlike it, this listens for this machine only unless -b says \
otherwise. Other commands work meanwhile. It is a file if the store has nothing of that name \
(./NAME is always one).")]
pub(crate) struct Args {
    /// The image or snapshot, or a file
    #[arg(value_name = "IMAGE[@SNAPSHOT]|FILE")]
    node: String,
    #[command(flatten)]
    file: FileArgs,
    /// Listen at this Unix socket, not at a port
    #[arg(short = 'k', long, value_name = "PATH", conflicts_with_all = ["port", "bind"])]
    socket: Option<PathBuf>,
    /// The port
    #[arg(short, long, default_value_t = NBD_PORT)]
    port: u16,
    /// The address to listen at
    #[arg(short, long, value_name = "HOST", default_value = LOOPBACK)]
    bind: String,
    /// What clients ask for [default: the image's name; who names nothing gets it too]
    #[arg(short = 'x', long, value_name = "NAME")]
    export_name: Option<String>,
    /// Stay when the last client has left
    #[arg(short = 't', long)]
    persistent: bool,
    /// How many clients may be there at once
    #[arg(short = 'e', long, value_name = "COUNT", default_value = "1")]
    shared: NonZeroUsize,
    #[command(flatten)]
    nbd: NbdArgs,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    from: RepositorySourceArgs,
    /// Here because -p is the port, as it is with qemu-nbd
    #[arg(long, hide = true)]
    progress: bool,
}

#[derive(Serialize)]
struct NbdSummary {
    action: &'static str,
    name: String,
    size: u64,
    /// The URI for clients to connect to; none if another program made the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

pub(super) fn run_nbd(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let (mut service, target) = service_of(args, session)?;
    let info = service.exports.export_info(&target).map_err(open_failure)?;
    let export = args.export_name.as_deref().unwrap_or(&target);
    let exports = Arc::new(SingleExport::new(
        Arc::clone(&service.exports),
        &target,
        export,
    ));
    let server = service.offer_exports(exports, &args.nbd, Some(args.shared.get()), session)?;
    let uri = listen_for_clients(args, server, session)?
        .map(|endpoint| endpoint.export_uri(args.nbd.has_tls(), export));
    let (offering, signals) = (
        NbdSummary {
            action: "nbd",
            name: target,
            size: info.len,
            uri,
        },
        session.signals.clone(),
    );
    service.run_until(&offering, session, |service| {
        if args.persistent {
            signals.await_stop(PATIENCE)
        } else {
            service.is_left(PATIENCE)
        }
    })
}

/// Returns the service, and the whole name of its export.
fn service_of(args: &Args, session: &CommandContext) -> Result<(Service, String), CommandFailure> {
    if is_file(args, session) {
        let file = service::open_file(Path::new(&args.node), &args.file, session)?;
        let name = file.0.clone();
        return Ok((Service::of_files(FileExports::new(vec![file])), name));
    }
    let service = Service::start_from(
        &args.from,
        &args.service,
        &ScrubArgs::default_options(),
        session,
    )?;
    let target = export_name_of(&service, &args.node, args.nbd.is_read_only())?;
    Ok((service, target))
}

/// True if the word means a file: the store, if there is one, has nothing of that whole name.
fn is_file(args: &Args, session: &CommandContext) -> bool {
    if is_file_word(&args.node, &args.file) {
        return true;
    }
    if args.from.from.is_some() || !session.caller.resolve_path(Path::new(&args.node)).is_file() {
        return false;
    }
    let found = DiskArgument::find_node(&args.node, &args.file, session);
    matches!(found, Ok(None))
}

/// Listens at the socket that was handed over, or else where the person says.
fn listen_for_clients(
    args: &Args,
    server: &NbdServer,
    session: &CommandContext,
) -> Result<Option<Endpoint>, CommandFailure> {
    if service::listen_given(server, session)? {
        return Ok(None);
    }
    if let Some(path) = &args.socket {
        return service::listen_unix(server, None, path, session).map(Some);
    }
    let place = HostPort {
        host: args.bind.clone(),
        port: args.port,
    };
    service::listen_tcp(server, &place, args.nbd.has_tls(), session).map(Some)
}

/// The whole name of what `text` means: an export's, or else as all commands take it. A client
/// writes to what it gets, so that takes its whole name unless it is only read.
fn export_name_of(
    service: &Service,
    text: &str,
    read_only: bool,
) -> Result<String, CommandFailure> {
    if !text.is_empty() && service.exports.export_info(text).is_ok() {
        return Ok(text.to_owned());
    }
    let Some(store) = service.served_store() else {
        return Err(CommandFailure::with_hint(
            format!("the repository has no point {text:?}"),
            "`vellum backup list` shows all points",
        ));
    };
    let node = if read_only {
        store.find_node(text)
    } else {
        store.find_whole(text)
    }?;
    Ok(store.tree().display_name(node))
}

fn open_failure(error: OpenError) -> CommandFailure {
    CommandFailure::Failed {
        message: error.to_string(),
        hint: None,
        source: Some(error.into()),
    }
}

impl Render for NbdSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let size = page.format_size(self.size);
        page.write_line(format!("offering {}, {size}; Ctrl-C stops", self.name))?;
        self.uri
            .as_ref()
            .map_or(Ok(()), |uri| page.write_line(format!("NBD: {uri}")))
    }
}
