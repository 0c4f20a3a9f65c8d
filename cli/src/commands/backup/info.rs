//! `vellum backup info`: what is known of a repository, or of one point.

use std::io;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::objects::ObjectKind;
use vellum_backup::repository::Repository;
use vellum_core::identity::ContentId;

use super::ShownSession;
use super::list::PointDescription;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::repository::{KeyArgs, address, opening, repo_args};

/// Tell what is in a repository and who is changing it, or what a point is
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup info /mnt/backup
  vellum backup info /mnt/backup web@monday

JSON of a repository: repository, id, encrypted, chunk_size, images, points, machines, for each of \
packs, indexes, maps and records the objects and bytes, bytes of all, and sessions with id, kind, \
writer and time. Of a point: what `list` tells, same_as (names of points that show the same) and \
chain (how many maps are read).")]
pub(crate) struct Args {
    /// The repository, and the point if it is one that is asked for
    #[arg(value_names = ["REPO", "POINT"], num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
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
    let repository = opening::open_repository(&named.place, &args.key, session)?;
    match named.rest {
        [] => session
            .output
            .print_answer(&repository_info(&repository, session.time_zone())?)?,
        [point] => session
            .output
            .print_answer(&point_info(&repository, point, session)?)?,
        _ => {
            return Err(CommandFailure::usage_error(
                "this tells of one point at a time",
                "name one",
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
        sessions: super::shown_sessions(repository, zone)?,
    })
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
