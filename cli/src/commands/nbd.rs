//! `vellum nbd`: one image, snapshot or file for one client, as `qemu-nbd` does it.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use vellum_core::device::OpenError;
use vellum_serve::nbd::{Server, SingleExport};

use crate::disk_argument::{DiskArgument, is_file_word};
use crate::endpoint::{Endpoint, LOOPBACK, NBD_PORT, Place};
use crate::failure::{Failure, Outcome};
use crate::file_exports::FileExports;
use crate::output::Answer;
use crate::output::page::Page;
use crate::patience::PATIENCE;
use crate::scrubber::ScrubArgs;
use crate::service::{self, FromArgs, NbdArgs, Service, ServiceArgs};
use crate::session::Session;
use crate::source_format::FileArgs;

/// Offer one image or snapshot, or a file of any format to be read, over NBD until its client leaves
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
    from: FromArgs,
    /// Here because -p is the port, as it is with qemu-nbd
    #[arg(long, hide = true)]
    progress: bool,
}

#[derive(Serialize)]
struct Offering {
    action: &'static str,
    name: String,
    size: u64,
    /// The URI for clients to connect to; none if another program made the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let (mut service, target) = service_of(args, session)?;
    let info = service.exports.info(&target).map_err(unavailable)?;
    let export = args.export_name.as_deref().unwrap_or(&target);
    let exports = Arc::new(SingleExport::new(
        Arc::clone(&service.exports),
        &target,
        export,
    ));
    let server = service.offer(exports, &args.nbd, Some(args.shared.get()), session)?;
    let uri =
        listen(args, server, session)?.map(|endpoint| endpoint.uri(args.nbd.has_tls(), export));
    let (offering, signals) = (
        Offering {
            action: "nbd",
            name: target,
            size: info.len,
            uri,
        },
        session.signals.clone(),
    );
    service.run(&offering, session, |service| {
        if args.persistent {
            signals.await_stop(PATIENCE)
        } else {
            service.is_left(PATIENCE)
        }
    })
}

/// Returns the service, and the whole name of its export.
fn service_of(args: &Args, session: &Session) -> Result<(Service, String), Failure> {
    if is_file(args, session) {
        let file = service::open_file(Path::new(&args.node), &args.file, session)?;
        let name = file.0.clone();
        return Ok((Service::of_files(FileExports::new(vec![file])), name));
    }
    let service = Service::start_from(&args.from, &args.service, &ScrubArgs::usual(), session)?;
    let target = target(&service, &args.node, args.nbd.is_read_only())?;
    Ok((service, target))
}

/// True if the word means a file: the store, if there is one, has nothing of that whole name.
fn is_file(args: &Args, session: &Session) -> bool {
    if is_file_word(&args.node, &args.file) {
        return true;
    }
    if args.from.from.is_some() || !session.caller.path(Path::new(&args.node)).is_file() {
        return false;
    }
    let found = DiskArgument::find_node(&args.node, &args.file, session);
    matches!(found, Ok(None))
}

/// Listens at the socket that was handed over, or else where the person says.
fn listen(args: &Args, server: &Server, session: &Session) -> Result<Option<Endpoint>, Failure> {
    if service::listen_given(server, session)? {
        return Ok(None);
    }
    if let Some(path) = &args.socket {
        return service::listen_unix(server, None, path, session).map(Some);
    }
    let place = Place {
        host: args.bind.clone(),
        port: args.port,
    };
    service::listen_tcp(server, &place, args.nbd.has_tls(), session).map(Some)
}

/// The whole name of what `text` means: an export's, or else as all commands take it. A client
/// writes to what it gets, so that takes its whole name unless it is only read.
fn target(service: &Service, text: &str, read_only: bool) -> Result<String, Failure> {
    if !text.is_empty() && service.exports.info(text).is_ok() {
        return Ok(text.to_owned());
    }
    let Some(store) = service.store() else {
        return Err(Failure::failed(
            format!("the repository has no point {text:?}"),
            "`vellum backup list` shows all points",
        ));
    };
    let node = if read_only {
        store.find(text)
    } else {
        store.find_whole(text)
    }?;
    Ok(store.tree().display(node))
}

fn unavailable(error: OpenError) -> Failure {
    Failure::Failed {
        message: error.to_string(),
        hint: None,
        source: Some(error.into()),
    }
}

impl Answer for Offering {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let size = page.size(self.size);
        page.line(format!("offering {}, {size}; Ctrl-C stops", self.name))?;
        self.uri
            .as_ref()
            .map_or(Ok(()), |uri| page.line(format!("NBD: {uri}")))
    }
}
