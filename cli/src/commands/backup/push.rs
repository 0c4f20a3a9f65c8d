//! `vellum backup push`: what is new in the store goes to the repository.

use std::collections::HashSet;
use std::path::PathBuf;

use vellum_backup::clock::ClockDoubt;
use vellum_backup::push::{INDEX_FETCH_LEN, PushRequest, PushSelection, push};
use vellum_backup::repository::Repository;
use vellum_store::{Damage, Store, StoreError};

use super::upload::UploadSummary;
use crate::command_context::CommandContext;
use crate::commands::import;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::format_count;
use crate::repository::milestones::Milestones;
use crate::repository::{AccessArgs, address, opening, repo_args};
use crate::size;
use crate::source_format::FileArgs;
use crate::time_zone;

/// Points that are named at most; the others are counted.
const POINTS_SHOWN_MAX: usize = 5;

/// Send images with their snapshots, and machines, to a repository: only what is new there
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup push /mnt/backup --all
  vellum backup push s3://bucket/images web db --limit-upload 20M
  vellum backup push /mnt/backup web --from-file /srv/web.qcow2

What the repository has lost and the store has is sent again, and the answer says so.

It can be stopped at any time and run again: what was sent is found. What `backup forget` took \
away stays away without --again. Guests may write meanwhile; all disks are pushed as they are at \
one \
moment.")]
pub(crate) struct Args {
    /// The repository, and images
    #[arg(value_name = "REPO] [IMAGE")]
    pub(super) words: Vec<String>,
    /// All images and machines
    #[arg(long)]
    all: bool,
    /// A machine with its disks; may come several times
    #[arg(long, value_name = "MACHINE", conflicts_with = "all")]
    machine: Vec<String>,
    /// First store the disk in this file, of any format, as the one image that is named: as its new
    /// state, or as a new image
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "machine"])]
    from_file: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgs,
    /// Push what was forgotten in the repository, too
    #[arg(long)]
    again: bool,
    /// Bytes that may be sent in a second
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    limit_upload: Option<u64>,
    /// Rely on what other machines pushed without a look at it: saves fetching it once
    #[arg(long)]
    trust_others: bool,
    /// Read what is there already and needed by what is new, and send again what is damaged of it
    #[arg(long, conflicts_with = "trust_others")]
    verify: bool,
    #[command(flatten)]
    pub(super) access: AccessArgs,
}

pub(super) fn run_backup_push(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&args.words, &session.caller)?;
    refuse_nothing(args, named.rest)?;
    let (store, repository) = open_both(&named.place, &args.access, session)?;
    if let Some(file) = &args.from_file {
        let [image] = named.rest else {
            return Err(CommandFailure::usage_error(
                "a file is one image's state",
                "name that image, and no other",
            ));
        };
        import::store_file(file, &args.file, image, &store, session)?;
    }
    let selection = push_selection(args, named.rest, &store)?;
    let request = PushRequest {
        selection,
        again: args.again,
        trust_others: args.trust_others,
        verify: args.verify,
        index_fetch_len: INDEX_FETCH_LEN,
        limit_upload: args.limit_upload,
        assumed: HashSet::new(),
        writer: opening::writer_name(session),
    };
    let meter = session.watch_bytes(&format!("pushing to {}", repository.place()));
    let report = push(&repository, &store, &request, &meter)?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    if let Some(doubt) = &report.clock {
        warn_of_clock(doubt, session);
    }
    if let Some(id) = report.parted {
        session.print_warning(&format!(
            "this store was copied, and the other one pushed here since: it is a store of its own \
             from now on ({id}), and so are its images"
        ));
    }
    let unreadable = report.unreadable.clone();
    let (hit, healed) = (report.points_hit.clone(), report.healed.clone());
    if let Some(damage) = unreadable.first().filter(|_| report.is_nothing()) {
        return Err(StoreError::Damaged(damage.clone()).into());
    }
    session.output.print_summary(&UploadSummary::new(
        None,
        repository.place(),
        report,
        seconds,
    ))?;
    let told = tell_unreadable(&unreadable, &store, session);
    let others = healed.map_or(0, |healed| healed.points.len() - hit.len());
    let outcome = told.max(tell_hit(&hit, others, &repository, session));
    if outcome == Outcome::Done {
        Milestones::reach(&repository, &[|last| &mut last.push_ms]);
    }
    Ok(outcome)
}

/// Warns of points that do not restore, since the repository lost what the store has not.
fn tell_hit(
    hit: &[String],
    others: usize,
    repository: &Repository,
    session: &CommandContext,
) -> Outcome {
    let state = repository.state();
    for id in hit.iter().take(POINTS_SHOWN_MAX) {
        let title = state
            .point(id)
            .map_or_else(|| id.clone(), |point| address::point_title(point));
        session.print_warning(&format!(
            "{title} may not restore: the repository lost some of it, and the store does not have \
             it"
        ));
    }
    let more = hit.len().saturating_sub(POINTS_SHOWN_MAX) + others;
    if more > 0 {
        let points = format_count(more as u64, "point");
        session.print_warning(&format!("{points} more may not restore"));
    }
    if hit.is_empty() && others == 0 {
        return Outcome::Done;
    }
    session.print_notice("hint: `vellum backup verify` tells what is lost");
    if hit.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    }
}

/// Warns of what was not sent, since it cannot be read.
pub(in crate::commands) fn tell_unreadable(
    unreadable: &[Damage],
    store: &Store,
    session: &CommandContext,
) -> Outcome {
    for damage in unreadable {
        session.print_warning(&format!("not sent: {damage}"));
    }
    for name in store.lost_names() {
        session.print_warning(&format!("not sent: {name}, of which nothing can be read"));
    }
    if unreadable.is_empty() && store.lost_names().next().is_none() {
        return Outcome::Done;
    }
    session.print_notice(
        "hint: `vellum check --read-data` lists all that is hit, `vellum repair` what \
         can be mended",
    );
    Outcome::Losses
}

/// Warns that one of two clocks is likely wrong.
fn warn_of_clock(doubt: &ClockDoubt, session: &CommandContext) {
    let shown =
        |time_ms| time_zone::format_local_time(session.time_zone(), time_ms).unwrap_or_default();
    session.print_warning(&format!(
        "this clock says {}, and what was written before ({}) is of {}: one of the clocks is \
         wrong, and rules such as --keep-daily count days by them",
        shown(doubt.own_ms),
        doubt.latest_writer,
        shown(doubt.latest_ms)
    ));
}

/// The store and the repository, each opened while the other is: a password takes its time.
fn open_both(
    place: &str,
    access: &AccessArgs,
    session: &CommandContext,
) -> Result<(Store, Repository), CommandFailure> {
    std::thread::scope(|scope| {
        let store = scope.spawn(|| session.open_to_serve());
        let repository = opening::open_repository(place, access, session);
        let store = store
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((store, repository?))
    })
}

fn refuse_nothing(args: &Args, images: &[String]) -> Result<(), CommandFailure> {
    match (args.all, images.is_empty() && args.machine.is_empty()) {
        (true, false) => Err(CommandFailure::usage_error(
            "--all is everything: no image needs to be named",
            "leave out one of them",
        )),
        (false, true) => Err(CommandFailure::usage_error(
            "nothing is named that could be pushed",
            "name images, or add --all",
        )),
        _ => Ok(()),
    }
}

fn push_selection(
    args: &Args,
    images: &[String],
    store: &Store,
) -> Result<PushSelection, CommandFailure> {
    if args.all {
        return Ok(PushSelection::All);
    }
    let images = images
        .iter()
        .map(|image| lookup::find_image(store, image))
        .collect::<Result<_, _>>()?;
    let machines = args
        .machine
        .iter()
        .map(|name| Ok(lookup::find_machine(store, name)?.0))
        .collect::<Result<_, CommandFailure>>()?;
    Ok(PushSelection::Some { images, machines })
}
