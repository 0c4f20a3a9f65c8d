//! `vellum backup forget`: points that nobody needs any more.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::forget::{
    Clock, Decision, ForgetWish, Grouping, PointFilter, RuleSource, RuleWish, forget, freed_len,
    plan,
};
use vellum_backup::journal::State;

use super::list::PointDescription;
use super::prune::{self, PruneSummary};
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::output::table::Column;
use crate::repository::point_filter::PointFilterArgs;
use crate::repository::{self, AccessArgs, address, opening, repo_args};
use crate::retention_args::KeepArgs;
use crate::time_zone;

/// Forget points: those that are named, or those of each image that no rule keeps. Pinned ones stay
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup forget /mnt/backup -n --keep-daily 7 --keep-weekly 4
  vellum backup forget /mnt/backup --keep-daily 7 --keep-weekly 4 --prune
  vellum backup forget /mnt/backup --policy --prune
  vellum backup forget /mnt/backup web@monday

Rules count the snapshots of each image and host. The states in which the image itself was pushed \
are counted by themselves: --keep-last 2 keeps \
two snapshots and two states, and who takes no snapshots keeps two states. Which is the newest is \
decided by the order in which they came, not by \
clocks. --policy forgets by the rules that the repository keeps (`backup policy`).
What was forgotten is not pushed again (`backup push --again` does). What other points stand on \
stays as long as they do. The space comes back with \
`vellum backup prune`.")]
pub(crate) struct Args {
    /// The repository; with rules the images that they are for (all, if none is named), else points
    #[arg(value_name = "REPO] [IMAGE[@SNAPSHOT]")]
    words: Vec<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// By the rules that the repository keeps
    #[arg(long, conflicts_with = "keep", help_heading = "Options")]
    policy: bool,
    /// What rules count together: any of image, name (the image's), host; '' for all points
    #[arg(
        long,
        value_name = "WHAT,…",
        default_value = "image,host",
        value_parser = parse_grouping,
        help_heading = "Options"
    )]
    group_by: Grouping,
    #[command(flatten)]
    filter: PointFilterArgs,
    /// Only say what would go, what would stay, and why
    #[arg(short = 'n', long, help_heading = "Options")]
    dry_run: bool,
    /// Give the space back as well
    #[arg(long, conflicts_with = "dry_run", help_heading = "Options")]
    prune: bool,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct ForgetSummary {
    action: &'static str,
    dry_run: bool,
    points: Vec<ForgetDecision>,
    /// Bytes of packs that a prune right after it frees; none if something is lost, so that nobody
    /// can tell.
    freed_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prune: Option<PruneSummary>,
    /// The next command to type.
    #[serde(skip)]
    next: Option<String>,
}

#[derive(Serialize)]
struct ForgetDecision {
    #[serde(flatten)]
    point: PointDescription,
    goes: bool,
    /// The reasons to keep it.
    reasons: Vec<String>,
}

pub(super) fn run_backup_forget(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&args.words, &session.caller)?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    let zone = session.time_zone().clone();
    let wish = forget_wish(args, named.rest, &repository.state(), &zone)?;
    let planned = plan(&repository.state(), &wish)?;
    // While the points are there: what they need can still be told from what others need.
    let freed_bytes = freed_len(&repository, &planned)?;
    let decisions = if args.dry_run {
        planned
    } else {
        forget(&repository, &wish, opening::writer_name(session))?
    };
    let goes = decisions.iter().any(Decision::goes);
    let prune = if args.prune && goes {
        Some(prune::prune_repository(
            &repository,
            &prune::PruneOptions::default(),
            session,
        )?)
    } else {
        None
    };
    let next = match (goes, args.dry_run, args.prune) {
        (false, ..) | (.., true) => None,
        (true, true, _) => Some("the same without -n forgets them".to_owned()),
        (true, false, false) => Some("vellum backup prune gives the space back".to_owned()),
    };
    let points = decisions
        .iter()
        .map(ForgetDecision::from_decision)
        .collect();
    let forgotten = ForgetSummary {
        action: "forget",
        dry_run: args.dry_run,
        points,
        freed_bytes,
        prune,
        next,
    };
    if args.dry_run {
        session.output.print_answer(&forgotten)
    } else {
        session.output.print_confirmation(&forgotten)
    }?;
    Ok(Outcome::Done)
}

/// The rules to forget by; none if points are named.
fn rule_source(args: &Args, state: &State) -> Result<Option<RuleSource>, CommandFailure> {
    let now_ms = repository::now_ms();
    if args.policy {
        if state.policies().next().is_none() {
            return Err(CommandFailure::usage_error(
                "the repository keeps no policy",
                "vellum backup policy set REPO --keep-… makes one",
            ));
        }
        return Ok(Some(RuleSource::Policies { now_ms }));
    }
    let rules = args.keep.retention_rules(now_ms)?;
    Ok((!rules.is_empty()).then_some(RuleSource::Given(rules)))
}

/// `image,host` as a grouping.
fn parse_grouping(text: &str) -> Result<Grouping, String> {
    let mut grouping = Grouping {
        image: false,
        name: false,
        host: false,
    };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let part = match word {
            "image" | "images" => &mut grouping.image,
            "name" | "names" => &mut grouping.name,
            "host" | "hosts" => &mut grouping.host,
            _ => return Err(format!("{word:?} is none of image, name, host")),
        };
        *part = true;
    }
    Ok(grouping)
}

fn forget_wish(
    args: &Args,
    named: &[String],
    state: &State,
    zone: &TimeZone,
) -> Result<ForgetWish, CommandFailure> {
    let points = args.filter.choose(address::sort_points(state))?;
    if let Some(rules) = rule_source(args, state)? {
        let mut images = BTreeSet::new();
        for image in named {
            images.extend(
                address::of_whole_image(&points, image)?
                    .into_iter()
                    .map(|point| point.image.clone()),
            );
        }
        let zone = zone.clone();
        return Ok(ForgetWish::Rules(RuleWish {
            rules,
            filter: PointFilter {
                images: Some(images).filter(|images| !images.is_empty()),
                ..args.filter.filter()?
            },
            grouping: args.group_by,
            clock: Clock(Arc::new(move |moment_ms| {
                time_zone::offset_s(&zone, moment_ms)
            })),
        }));
    }
    if named.is_empty() {
        return Err(CommandFailure::usage_error(
            "neither rules nor points say what is to be forgotten",
            "add --keep-… rules, --policy, or name points",
        ));
    }
    let find = |text: &String| Ok(address::find_whole(&points, text, zone)?.id.clone());
    named
        .iter()
        .map(find)
        .collect::<Result<_, CommandFailure>>()
        .map(ForgetWish::Points)
}

impl ForgetDecision {
    fn from_decision(decision: &Decision) -> Self {
        let reasons = decision.reasons.iter().map(ToString::to_string).collect();
        Self {
            point: PointDescription::from_point(&decision.point),
            goes: decision.goes(),
            reasons,
        }
    }
}

impl Render for ForgetSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::text_column("ID").as_whole(),
            Column::text_column("TIME").as_time().giving_way(2),
            Column::number_column("SIZE").giving_way(1),
            Column::text_column("STAYS AS").as_prose(),
        ];
        let row = |decided: &ForgetDecision| {
            let point = &decided.point;
            let why = if decided.goes {
                "goes".to_owned()
            } else {
                decided.reasons.join(", ")
            };
            vec![
                point.name.clone(),
                point.short_id(),
                page.format_minute(point.time),
                page.format_size(point.size),
                why,
            ]
        };
        let rows: Vec<_> = self.points.iter().map(row).collect();
        if !rows.is_empty() {
            page.write_table(&columns, &rows)?;
        }
        let gone = self.points.iter().filter(|decided| decided.goes).count() as u64;
        let stay = self.points.len() as u64 - gone;
        let done = if self.dry_run {
            "would be forgotten"
        } else {
            "forgotten"
        };
        page.write_line(format!(
            "{} {done}, {stay} of these stay",
            format_count(gone, "point")
        ))?;
        match &self.prune {
            Some(pruned) => pruned.render_page(page)?,
            None => page.write_line(prune::would_free(self.freed_bytes, page))?,
        }
        self.next
            .as_ref()
            .map_or(Ok(()), |next| page.write_line(format!("next: {next}")))
    }
}
