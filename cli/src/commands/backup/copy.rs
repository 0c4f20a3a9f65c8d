//! `vellum backup copy`: points of one repository go to another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use vellum_backup::copy::{CopyRequest, copy};
use vellum_backup::error::BackupError;
use vellum_backup::repository::Repository;

use super::pull::chosen_points;
use super::upload::UploadSummary;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::repository::{AccessArgs, KeyArgs, address, opening, password, repo_args};
use crate::size;

/// Points that an error names at most; the others are counted.
const POINTS_SHOWN_MAX: usize = 8;

/// Send points of one repository to another: only what is new there
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup copy /mnt/usb s3://bucket/images --all
  vellum backup copy /mnt/backup /mnt/usb web db@monday --from-password-file old.txt

The first repository is only read; if VELLUM_REPOSITORY is set, the second may be left out. Each \
has its own password or key file. Points stay what they are: a store that pushed to the one finds \
its points in the other. It can be stopped at any time and run again.")]
pub(crate) struct Args {
    /// The repository to read, the one to write, and images (with all their snapshots) or points
    #[arg(value_name = "REPO] [REPO] [IMAGE[@SNAPSHOT]")]
    words: Vec<String>,
    /// All images and machines
    #[arg(long)]
    all: bool,
    /// Copy what was forgotten in the second repository, too
    #[arg(long)]
    again: bool,
    /// Bytes that may be sent in a second
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    limit_upload: Option<u64>,
    /// Rely on what is in the second repository without a look at it: saves fetching it once
    #[arg(long)]
    trust_others: bool,
    #[command(flatten)]
    from: SourceKeyArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// What opens the repository that is read.
#[derive(clap::Args)]
#[command(next_help_heading = "Opening the repository that is read")]
#[expect(
    clippy::struct_field_names,
    reason = "an option is called as its field"
)]
struct SourceKeyArgs {
    /// A file whose first line is its password [env: VELLUM_FROM_PASSWORD_FILE, or
    /// VELLUM_FROM_PASSWORD, _COMMAND, _FD]
    #[arg(long, value_name = "FILE", conflicts_with = "from_key_file")]
    from_password_file: Option<PathBuf>,
    /// Its key file
    #[arg(long, value_name = "FILE")]
    from_key_file: Option<PathBuf>,
    /// Believe it if it shows an earlier state, or is another, than was seen there last
    #[arg(long)]
    from_allow_rollback: bool,
}

pub(super) fn run_backup_copy(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let Some((from, rest)) = args.words.split_first() else {
        return Err(CommandFailure::usage_error(
            "no repository is named",
            "name the one to read first, then the one to write",
        ));
    };
    let named = repo_args::at_least(rest, &session.caller)?;
    if named.rest.is_empty() != args.all {
        return Err(CommandFailure::usage_error(
            "what is to be copied is not clear",
            "name images or points, or add --all, but not both",
        ));
    }
    let source = opening::open_with(
        from,
        &args.from.access_args(args.access.limit_download),
        password::FROM_VARIABLES,
        session,
    )?;
    let points = if args.all {
        None
    } else {
        Some(point_ids(&source, named.rest, session)?)
    };
    let target = opening::open_repository(&named.place, &args.access, session)?;
    let request = CopyRequest {
        points,
        again: args.again,
        trust_others: args.trust_others,
        limit_upload: args.limit_upload,
        writer: opening::writer_name(session),
    };
    let meter = session.watch_bytes(&format!("copying to {}", target.place()));
    let report = copy(&source, &target, &request, &meter)
        .map_err(|error| damage_with_titles(error, &source))?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    session.output.print_summary(&UploadSummary::new(
        Some(source.place()),
        target.place(),
        report,
        seconds,
    ))?;
    Ok(Outcome::Done)
}

fn point_ids(
    source: &Repository,
    wanted: &[String],
    session: &CommandContext,
) -> Result<BTreeSet<String>, CommandFailure> {
    let state = source.state();
    let points = address::sort_points(&state);
    Ok(chosen_points(&points, wanted, session)?
        .into_iter()
        .map(str::to_owned)
        .collect())
}

/// Damage, with the points that it hits as people call them.
fn damage_with_titles(error: BackupError, source: &Repository) -> CommandFailure {
    let BackupError::Damaged {
        object,
        reason,
        points,
    } = error
    else {
        return error.into();
    };
    let state = source.state();
    let titles: BTreeMap<&str, String> = state
        .points()
        .map(|point| (point.id.as_str(), address::point_title(point)))
        .collect();
    let mut points: Vec<String> = points
        .iter()
        .map(|id| titles.get(id.as_str()).unwrap_or(id).clone())
        .collect();
    points.sort_unstable();
    let more = points.len().saturating_sub(POINTS_SHOWN_MAX);
    points.truncate(POINTS_SHOWN_MAX);
    points.extend((more > 0).then(|| format!("and {more} more")));
    CommandFailure::Damage(BackupError::Damaged {
        object,
        reason,
        points,
    })
}

impl SourceKeyArgs {
    fn access_args(&self, limit_download: Option<u64>) -> AccessArgs {
        AccessArgs {
            key: KeyArgs {
                password_file: self.from_password_file.clone(),
                key_file: self.from_key_file.clone(),
                allow_rollback: self.from_allow_rollback,
            },
            limit_download,
        }
    }
}
