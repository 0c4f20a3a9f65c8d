//! `vellum backup info`: what is known of a repository, or of one point.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::objects::ObjectKind;
use vellum_backup::repository::Repository;
use vellum_core::identity::ContentId;

use super::ShownSession;
use super::list::PointDescription;
use crate::command_context::CommandContext;
use crate::commands::report::file::write_report_file;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::report::prometheus::escape_label;
use crate::repository::milestones::{Milestones, ShownMilestones};
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Tell what is in a repository and who is changing it, or what a point is
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup info /mnt/backup
  vellum backup info /mnt/backup web@monday
  vellum backup info /mnt/backup --prometheus=/var/lib/node_exporter/backup.prom

JSON of a repository: repository, id, encrypted, chunk_size, images, points, machines, for each of \
packs, indexes, maps and records the objects and bytes, bytes of all, last (when this client last \
pushed, verified, and verified all data), and sessions with id, kind, writer and time. Of a \
point: what `list` tells, same_as (names of points that show the same) and chain (how many maps \
are read).")]
pub(crate) struct Args {
    /// The repository, and the point if it is one that is asked for
    #[arg(value_names = ["REPO", "POINT"], num_args = 0..=2)]
    words: Vec<String>,
    /// Write figures of the repository as Prometheus' text, to standard output or whole into a file
    /// that may be there
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "-"
    )]
    prometheus: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct RepositoryInfo {
    repository: String,
    id: String,
    encrypted: bool,
    chunk_size: u64,
    images: u64,
    points: u64,
    machines: u64,
    /// Objects and bytes: packs of chunks, index, maps, journal, copies of all but packs.
    packs: ObjectAmount,
    indexes: ObjectAmount,
    maps: ObjectAmount,
    records: ObjectAmount,
    copies: ObjectAmount,
    bytes: u64,
    /// When this client last pushed, verified, and verified all data.
    last: ShownMilestones,
    /// Sessions that are open now, or that ended without a word.
    sessions: Vec<ShownSession>,
}

#[derive(Clone, Copy, Serialize)]
struct ObjectAmount {
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct PointInfo {
    #[serde(flatten)]
    point: PointDescription,
    /// Points of other images, or other points of this one, that show the same.
    same_as: Vec<String>,
    /// The contents that its map is relative to, one after the other.
    chain: u64,
}

pub(super) fn run_backup_info(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&args.words, &session.caller)?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    match (named.rest, &args.prometheus) {
        ([], Some(file)) => {
            let info = repository_info(&repository, session.time_zone())?;
            let text = figures(&info, Milestones::of(&repository));
            // Made again and again by a timer: the one before is to be replaced.
            write_report_file(session, file, &text, true)?;
        }
        ([], None) => session
            .output
            .print_answer(&repository_info(&repository, session.time_zone())?)?,
        ([point], None) => {
            session
                .output
                .print_answer(&point_info(&repository, point, session)?)?;
        }
        _ => {
            return Err(CommandFailure::usage_error(
                "this tells of the repository, or of one point",
                "name one point at most, and none with --prometheus",
            ));
        }
    }
    Ok(Outcome::Done)
}

fn repository_info(
    repository: &Repository,
    zone: &TimeZone,
) -> Result<RepositoryInfo, CommandFailure> {
    let state = repository.state();
    let points = address::sort_points(&state);
    let mut images: Vec<&str> = points.iter().map(|point| point.image.as_str()).collect();
    images.sort_unstable();
    images.dedup();
    let amount = |kind| {
        let objects = repository.list(kind)?;
        Ok::<_, CommandFailure>(ObjectAmount {
            objects: objects.len() as u64,
            bytes: objects.iter().map(|(_, len)| len).sum(),
        })
    };
    let (packs, indexes) = (amount(ObjectKind::Pack)?, amount(ObjectKind::Index)?);
    let (maps, records) = (amount(ObjectKind::Maps)?, amount(ObjectKind::Record)?);
    let copies = repository.list_copies()?;
    let copies = ObjectAmount {
        objects: copies.len() as u64,
        bytes: copies.values().sum(),
    };
    Ok(RepositoryInfo {
        repository: repository.place(),
        id: repository.id().to_string(),
        encrypted: repository.file().is_encrypted,
        chunk_size: repository.file().chunk_len.into(),
        images: images.len() as u64,
        points: points.len() as u64,
        machines: state.machines().count() as u64,
        packs,
        indexes,
        maps,
        records,
        copies,
        bytes: [packs, indexes, maps, records, copies]
            .iter()
            .map(|amount| amount.bytes)
            .sum(),
        last: Milestones::of(repository).shown(),
        sessions: super::shown_sessions(repository, zone)?,
    })
}

/// The figures as Prometheus' text; a time that never was is left out.
fn figures(info: &RepositoryInfo, last: Milestones) -> String {
    let seconds = |ms: Option<u64>| ms.map(|ms| ms / 1000);
    let figures = [
        ("points", "Points.", Some(info.points)),
        ("images", "Images.", Some(info.images)),
        ("bytes", "Bytes of all objects.", Some(info.bytes)),
        (
            "sessions",
            "Sessions that are open, or ended without a word.",
            Some(info.sessions.len() as u64),
        ),
        (
            "last_push_timestamp_seconds",
            "The last push from here that left nothing out.",
            seconds(last.push_ms),
        ),
        (
            "last_verify_timestamp_seconds",
            "The last verification from here that found nothing wrong.",
            seconds(last.verify_ms),
        ),
        (
            "last_read_data_timestamp_seconds",
            "The last verification from here that read all data, too.",
            seconds(last.read_data_ms),
        ),
    ];
    let label = escape_label(&info.repository);
    let mut text = String::new();
    for (name, what, value) in figures {
        let Some(value) = value else { continue };
        let name = format!("vellum_repository_{name}");
        _ = writeln!(
            text,
            "# HELP {name} {what}\n# TYPE {name} gauge\n{name}{{repository=\"{label}\"}} {value}"
        );
    }
    text
}

fn point_info(
    repository: &Repository,
    text: &str,
    session: &CommandContext,
) -> Result<PointInfo, CommandFailure> {
    let state = repository.state();
    let points = address::sort_points(&state);
    let point = address::find_point(&points, text, session.time_zone())?;
    let same = points
        .iter()
        .filter(|other| other.content == point.content && other.id != point.id);
    Ok(PointInfo {
        point: PointDescription::from_point(point),
        same_as: same.map(|other| address::point_title(other)).collect(),
        chain: ContentId::parse(&point.content)
            .map_or(0, |content| state.chain(content).len() as u64),
    })
}

impl Render for RepositoryInfo {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_field("repository", &self.repository)?;
        page.write_field("id", &self.id)?;
        page.write_field(
            "encrypted",
            if self.encrypted {
                "yes"
            } else {
                "no: whoever reaches it can read it"
            },
        )?;
        page.write_field("images", self.images.to_string())?;
        page.write_field("points", self.points.to_string())?;
        page.write_field("machines", self.machines.to_string())?;
        let kinds = [
            ("packs", self.packs),
            ("index", self.indexes),
            ("maps", self.maps),
            ("journal", self.records),
            ("copies", self.copies),
        ];
        for (name, amount) in kinds {
            let size = page.format_size(amount.bytes);
            page.write_field(name, format!("{size} in {}", amount.objects))?;
        }
        let size = page.format_size(self.bytes);
        page.write_field("in all", size)?;
        let last = [
            ("last push", self.last.push),
            ("verified", self.last.verify),
            ("data read", self.last.read_data),
        ];
        for (name, time) in last {
            let never = || "never from here".to_owned();
            let time = time.map_or_else(never, |time| page.format_time(time));
            page.write_field(name, time)?;
        }
        self.sessions
            .iter()
            .try_for_each(|session| page.write_field("session", &session.line))
    }
}

impl Render for PointInfo {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let point = &self.point;
        page.write_field("point", &point.id)?;
        page.write_field("name", &point.name)?;
        let size = page.format_size(point.size);
        page.write_field("size", format!("{size} ({} bytes)", point.size))?;
        page.write_field("mode", &point.mode)?;
        let time = page.format_time(point.time);
        page.write_field("time", time)?;
        page.write_field("image", &point.image)?;
        page.write_field("content", &point.content)?;
        page.write_field("maps", self.chain.to_string())?;
        if !self.same_as.is_empty() {
            page.write_field("same as", self.same_as.join(", "))?;
        }
        if point.pin_and_tags().is_empty() {
            Ok(())
        } else {
            page.write_field("marks", point.pin_and_tags())
        }
    }
}
