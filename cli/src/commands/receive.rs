//! `vellum receive`: what `send` wrote becomes images of this store.

use std::io::{self, IsTerminal};

use serde::Serialize;
use vellum_backup::error::BackupError;
use vellum_backup::pull::{PullReport, PullRequest, is_increment};
use vellum_backup::reader::Reader;
use vellum_backup::stream;
use vellum_core::name::Name;

use crate::command_context::CommandContext;
use crate::commands::render_healed_count;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};
use crate::repository::{self, KeyArgs, password};

/// Take what `send` wrote from standard input into the store
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum receive < web.stream
  ssh host vellum send web | vellum receive --as web-of-host

All of it appears at once when the stream has come whole and holds, or nothing.")]
pub(crate) struct Args {
    /// What to call the one image that comes
    #[arg(
        long = "as",
        value_name = "NAME",
        value_parser = lookup::parse_name,
        conflicts_with = "prefix"
    )]
    rename: Option<Name>,
    /// What to put before all names
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Read what the store seems to have before it is believed, each frame once: what is damaged is
    /// stored again, for every image that has it
    #[arg(long)]
    verify: bool,
    /// Let images that are here follow: they get the new snapshots and the new state. What was
    /// changed here since it came stops that. Increments always do so
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct ReceiveSummary {
    action: &'static str,
    images: Vec<String>,
    chunks_new: u64,
    chunks_known: u64,
    /// Chunks that were there, damaged, and are whole again for every image that has them.
    chunks_healed: u64,
    lost_machine_snapshots: Vec<String>,
    seconds: f64,
}

pub(super) fn run_receive(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let mut input = session.caller.streams.input.clone();
    if input.file().is_terminal() {
        return Err(CommandFailure::usage_error(
            "a stream does not come from a terminal",
            "send a file or a command to standard input",
        ));
    }
    let store = session.open_to_write()?;
    let opener = repository::given_opener(&args.key, password::VARIABLES, &session.caller)?;
    let choose = |reader: &Reader<'_>| {
        let request = pull_request(args, reader)?;
        match (&args.rename, request.images.len()) {
            (Some(_), 2..) => Err(BackupError::Parameter(
                "--as names one image, and the stream has several: use --prefix".to_owned(),
            )),
            _ => Ok(request),
        }
    };
    let folder = repository::client_folders(&session.caller)
        .cache
        .filter(|folder| folder.is_dir());
    let meter = session.watch_bytes("receiving");
    let report = stream::receive(
        &store,
        &mut input,
        opener.as_ref(),
        folder.as_deref(),
        &choose,
        &meter,
    )?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let images = report
        .nodes
        .iter()
        .map(|node| store.tree().display_name(*node))
        .collect();
    let PullReport {
        chunks: (chunks_new, chunks_known),
        chunks_healed,
        lost_machine_snapshots,
        ..
    } = report;
    let is_whole = lost_machine_snapshots.is_empty();
    session.output.print_summary(&ReceiveSummary {
        action: "receive",
        images,
        chunks_new,
        chunks_known,
        chunks_healed,
        lost_machine_snapshots,
        seconds,
    })?;
    Ok(if is_whole {
        Outcome::Done
    } else {
        Outcome::Losses
    })
}

fn pull_request(args: &Args, reader: &Reader<'_>) -> Result<PullRequest, BackupError> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let renamed = |name: &str| {
        args.rename
            .as_ref()
            .map_or_else(|| format!("{prefix}{name}"), ToString::to_string)
    };
    Ok(PullRequest {
        verify: args.verify,
        // An increment has a place to go on at.
        update: args.update || is_increment(reader),
        ..PullRequest::of(reader, |_| true, true, renamed)?
    })
}

impl Render for ReceiveSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (images, chunks) = (
            format_count(self.images.len() as u64, "image"),
            format_count(self.chunks_new, "new chunk"),
        );
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "received {images}: {chunks} ({} known) in {took}",
            self.chunks_known
        ))?;
        render_healed_count(page, self.chunks_healed)?;
        self.images
            .iter()
            .try_for_each(|image| page.write_line(image))
    }
}
