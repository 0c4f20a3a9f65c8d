//! `vellum manager`: the store's tree in a browser, or at a terminal.

use std::io;

use serde::Serialize;
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::endpoint::{Endpoint, HostPort};
use crate::failure::{CommandFailure, Outcome};
use crate::interruptible_stream::PATIENCE;
use crate::manager_operations::StoreOperations;
use crate::manager_page::{ManagerArgs, ManagerPage};
use crate::manager_terminal::{self, DivertedMessages};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::raw_terminal;
use crate::scrubber::ScrubArgs;
use crate::service::{Service, ServiceArgs};

/// The socket of a server that listens where it usually does.
const USUAL_SOCKET: &str = "nbd.sock";

/// Show the store's tree in a browser or at the terminal, live, and change it there, until stopped
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum manager
  vellum manager --open --files /srv/images
  vellum manager --tui
  vellum manager --read-only --listen 10881
  ssh -L 10880:127.0.0.1:10880 host vellum manager

It prints a URL that opens the page once, in one browser, and another one when that was used. Only \
this machine can reach it. Every action is a command, which the page shows before it is done. \
Beside a running server it is shown by that server; `vellum serve --manager` shows it from the \
beginning. With --tui it is shown at this terminal, also over ssh; ? lists its keys. Backups are \
those of VELLUM_REPOSITORY.")]
pub(crate) struct Args {
    /// Listen at this address of this machine [default: 127.0.0.1:10880, or any port that is free]
    #[arg(long, value_name = "HOST:PORT", value_parser = HostPort::parse_host_port)]
    listen: Option<HostPort>,
    /// Show everything, change nothing
    #[arg(short, long)]
    read_only: bool,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Show it at this terminal, in place of a browser
    #[arg(long, conflicts_with_all = ["listen", "open", "files", "upload_limit"])]
    tui: bool,
    #[command(flatten)]
    page: ManagerArgs,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    scrub: ScrubArgs,
}

#[derive(Serialize)]
struct ManagerSummary {
    action: &'static str,
    store: String,
    /// The URL that opens the page once.
    url: String,
}

impl Args {
    pub(super) fn needs_terminal(&self) -> bool {
        self.tui
    }
}

pub(super) fn run_manager(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.tui {
        return run_at_terminal(args, session);
    }
    let choice = args
        .page
        .choose_options(args.listen.as_ref(), args.read_only);
    let signals = session.signals.clone();
    if session.is_served() {
        let store = session.open_to_read()?;
        let endpoints = usual_endpoints(&store)?;
        let commands = session.caller.served_commands.clone();
        let page = ManagerPage::start_page(&store, endpoints, commands, &choice, session)?;
        drop(store);
        session
            .output
            .print_confirmation(&ManagerSummary::new(&page, session)?)?;
        session.output.flush()?;
        if args.open {
            open_or_warn(&page, session);
        }
        while !signals.await_stop(PATIENCE) {}
        if !page.stop_page() {
            session.print_warning("a job did not stop in time, and was left behind");
        }
        return Ok(Outcome::Done);
    }
    let mut service = Service::serve_store(&args.service, &args.scrub, session)?;
    let page = service.offer_manager(Vec::new(), &choice, session)?;
    let summary = ManagerSummary::new(page, session)?;
    if args.open {
        open_or_warn(page, session);
    }
    service.run_until(&summary, session, |_| signals.await_stop(PATIENCE))
}

/// The place of a server that listens where it usually does.
fn usual_endpoints(store: &Store) -> Result<Vec<(Endpoint, bool)>, CommandFailure> {
    let socket = std::path::absolute(store.dir().join(USUAL_SOCKET))
        .map_err(|error| CommandFailure::io_error("find the store's folder", error))?;
    let endpoint = socket.exists().then_some((Endpoint::Unix(socket), false));
    Ok(endpoint.into_iter().collect())
}

fn run_at_terminal(args: &Args, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    if session.is_served() {
        let store = session.open_to_read()?;
        let (endpoints, commands) = (
            usual_endpoints(&store)?,
            session.caller.served_commands.clone(),
        );
        let operations = StoreOperations::of_session(&store, endpoints, commands, session);
        manager_terminal::run_for_caller(operations, args.read_only, session)?;
        return Ok(Outcome::Done);
    }
    raw_terminal::check_terminal(&session.caller)?;
    let messages = DivertedMessages::divert_from(session)?;
    match Service::serve_store(&args.service, &args.scrub, session) {
        Ok(service) => service.run_while(session, |store, commands, session| {
            let notices = messages.end_diversion(session);
            let operations = StoreOperations::of_session(store, Vec::new(), commands, session);
            manager_terminal::run_in_process(operations, args.read_only, notices, session)
        })?,
        Err(failure) => {
            messages.end_diversion(session);
            return Err(failure);
        }
    }
    Ok(Outcome::Done)
}

/// Opens the page in the browser. That it cannot be opened so ends nothing: the URL is printed.
fn open_or_warn(page: &ManagerPage, session: &CommandContext) {
    if let Err(failure) = page.open_browser() {
        session.print_warning(&failure.to_string());
    }
}

impl ManagerSummary {
    fn new(page: &ManagerPage, session: &CommandContext) -> Result<Self, CommandFailure> {
        Ok(Self {
            action: "manager",
            store: session.store_dir()?.display().to_string(),
            url: page.opening_url(),
        })
    }
}

impl Render for ManagerSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(format!("showing {}; Ctrl-C stops", self.store))?;
        page.write_line(format!("manager: {}", self.url))
    }
}
