//! `vellum manager`: the store's tree in a browser, or at a terminal; and the password of those who
//! come from other machines.

use std::io;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::endpoint::{Endpoint, HostPort};
use crate::failure::{CommandFailure, Outcome};
use crate::interruptible_stream::PATIENCE;
use crate::manager_operations::StoreOperations;
use crate::manager_page::{ManagerArgs, ManagerPage, ManagerPlace};
use crate::manager_password;
use crate::manager_terminal::{self, DivertedMessages};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::raw_terminal;
use crate::repository::password;
use crate::scrubber::ScrubArgs;
use crate::service::{Service, ServiceArgs};
use crate::systemd;

/// The socket of a server that listens where it usually does.
const USUAL_SOCKET: &str = "nbd.sock";

/// Show the store's tree in a browser or at the terminal, live, and change it there, until stopped
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  vellum manager
  vellum manager --open --files /srv/images
  vellum manager --tui
  vellum manager --read-only --listen 10881
  ssh -L 10880:127.0.0.1:10880 host vellum manager
  vellum manager --listen 192.0.2.7 --tls-certs tls --password-file secret --host-name nas.example

It prints a URL that opens the page once, in one browser, and another one when that was used. Only \
this machine can reach it, unless --tls-certs and --password-file are there: then the page is \
opened by the password. Every action is a command, which the page shows before it is done. \
Beside a running server it is shown by that server; `vellum serve --manager` shows it from the \
beginning. With --tui it is shown at this terminal, also over ssh; ? lists its keys. Backups are \
those of VELLUM_REPOSITORY. Started by systemd with a socket, it listens there."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<ManagerVerb>,
    /// Listen at this address [default: 127.0.0.1:10880, or any port that is free]
    #[arg(long, value_name = "HOST:PORT", value_parser = HostPort::parse_manager_place)]
    listen: Option<HostPort>,
    /// Show everything, change nothing
    #[arg(short, long)]
    read_only: bool,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Show it at this terminal, in place of a browser
    #[arg(
        long,
        conflicts_with_all = ["listen", "open", "files", "upload_limit", "tls_certs"]
    )]
    tui: bool,
    #[command(flatten)]
    page: ManagerArgs,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    scrub: ScrubArgs,
}

#[derive(Subcommand)]
enum ManagerVerb {
    #[command(visible_alias = "passwd")]
    Password(PasswordArgs),
}

/// Write the hash of a new password to a file, for --password-file
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum manager password /etc/vellum/manager-password

It asks twice at the terminal, or takes the first line of standard input. The file has a hash \
(argon2id) and no password, and only its owner may read it. A manager that runs takes the new \
password when it is started anew.")]
struct PasswordArgs {
    /// The file; another password file there is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct ManagerSummary {
    action: &'static str,
    store: String,
    /// The URL that opens the page: once, or for who has the password.
    url: String,
}

#[derive(Serialize)]
struct PasswordSummary {
    action: &'static str,
    file: String,
}

impl Args {
    pub(super) fn needs_terminal(&self) -> bool {
        self.tui
    }

    pub(super) fn needs_store(&self) -> bool {
        self.verb.is_none()
    }

    /// True if it may be given a socket to listen at.
    pub(super) fn listens(&self) -> bool {
        self.verb.is_none() && !self.tui
    }

    fn choose_place(&self, session: &CommandContext) -> Result<ManagerPlace<'_>, CommandFailure> {
        let socket = systemd::handed_socket(&session.caller).map_err(systemd::socket_failure)?;
        match (socket, &self.listen) {
            (Some(_), Some(_)) => Err(CommandFailure::usage_error(
                "it listens at the socket that was handed over",
                "leave out --listen, or the socket",
            )),
            (Some(socket), None) => Ok(ManagerPlace::Socket(socket)),
            (None, Some(place)) => Ok(ManagerPlace::Address(place)),
            (None, None) => Ok(ManagerPlace::Usual),
        }
    }
}

pub(super) fn run_manager(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if let Some(ManagerVerb::Password(args)) = &args.verb {
        return write_password(args, session);
    }
    if args.tui {
        return run_at_terminal(args, session);
    }
    let place = args.choose_place(session)?;
    let choice = args.page.choose_options(place, args.read_only);
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

fn write_password(
    args: &PasswordArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    manager_password::check_place(&args.file, &session.caller)?;
    let password = password::ask_or_read("new password", &session.caller)?;
    manager_password::write_password_file(&args.file, &password, &session.caller)?;
    session.output.print_confirmation(&PasswordSummary {
        action: "manager password",
        file: args.file.display().to_string(),
    })?;
    Ok(Outcome::Done)
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

impl Render for PasswordSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(format!("wrote the hash of the password to {}", self.file))
    }
}
