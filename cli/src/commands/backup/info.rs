//! `vellum backup info`: what is known of a repository, or of one point.

use std::io;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::objects::ObjectKind;
use vellum_backup::repository::Repository;
use vellum_core::identity::ContentId;

use super::Announced;
use super::list::Described;
use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::repository::{self, KeyArgs, address, words};
use crate::session::Session;

/// Tell what is in a repository and who is changing it, or what a point is
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup info /mnt/backup
  vellum backup info /mnt/backup web@monday

JSON of a repository: repository, id, encrypted, chunk_size, images, points, machines, for each of packs, indexes, maps and records the \
objects and bytes, bytes of all, and sessions with id, kind, writer and time. Of a point: what `list` tells, same_as (names of points that \
show the same) and chain (how many maps are read).")]
pub(crate) struct Args {
    /// The repository, and the point if it is one that is asked for
    #[arg(value_names = ["REPO", "POINT"], num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Whole {
    repository: String,
    id: String,
    encrypted: bool,
    chunk_size: u64,
    images: u64,
    points: u64,
    machines: u64,
    /// Objects and bytes: packs of chunks, index, maps, journal, copies of all but packs.
    packs: Amount,
    indexes: Amount,
    maps: Amount,
    records: Amount,
    copies: Amount,
    bytes: u64,
    /// Sessions that are open now, or that ended without a word.
    sessions: Vec<Announced>,
}

#[derive(Clone, Copy, Serialize)]
struct Amount {
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Single {
    #[serde(flatten)]
    point: Described,
    /// Points of other images, or other points of this one, that show the same.
    same_as: Vec<String>,
    /// The contents that its map is relative to, one after the other.
    chain: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::at_least(&args.words, &session.caller)?;
    let repository = repository::open(&named.place, &args.key, session)?;
    match named.rest {
        [] => session
            .output
            .answer(&whole(&repository, session.zone())?)?,
        [point] => session
            .output
            .answer(&single(&repository, point, session)?)?,
        _ => {
            return Err(Failure::usage(
                "this tells of one point at a time",
                "name one",
            ));
        }
    }
    Ok(Outcome::Done)
}

fn whole(repository: &Repository, zone: &TimeZone) -> Result<Whole, Failure> {
    let state = repository.state();
    let points = address::sorted(&state);
    let mut images: Vec<&str> = points.iter().map(|point| point.image.as_str()).collect();
    images.sort_unstable();
    images.dedup();
    let amount = |kind| {
        let objects = repository.list(kind)?;
        Ok::<_, Failure>(Amount {
            objects: objects.len() as u64,
            bytes: objects.iter().map(|(_, len)| len).sum(),
        })
    };
    let (packs, indexes) = (amount(ObjectKind::Pack)?, amount(ObjectKind::Index)?);
    let (maps, records) = (amount(ObjectKind::Maps)?, amount(ObjectKind::Record)?);
    let copies = repository.list_copies()?;
    let copies = Amount {
        objects: copies.len() as u64,
        bytes: copies.values().sum(),
    };
    Ok(Whole {
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
        sessions: super::sessions(repository, zone)?,
    })
}

fn single(repository: &Repository, text: &str, session: &Session) -> Result<Single, Failure> {
    let state = repository.state();
    let points = address::sorted(&state);
    let point = address::find(&points, text, session.zone())?;
    let same = points
        .iter()
        .filter(|other| other.content == point.content && other.id != point.id);
    Ok(Single {
        point: Described::of(point),
        same_as: same.map(|other| address::title(other)).collect(),
        chain: ContentId::parse(&point.content)
            .map_or(0, |content| state.chain(content).len() as u64),
    })
}

impl Answer for Whole {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.field("repository", &self.repository)?;
        page.field("id", &self.id)?;
        page.field(
            "encrypted",
            if self.encrypted {
                "yes"
            } else {
                "no: whoever reaches it can read it"
            },
        )?;
        page.field("images", self.images.to_string())?;
        page.field("points", self.points.to_string())?;
        page.field("machines", self.machines.to_string())?;
        let kinds = [
            ("packs", self.packs),
            ("index", self.indexes),
            ("maps", self.maps),
            ("journal", self.records),
            ("copies", self.copies),
        ];
        for (name, amount) in kinds {
            let size = page.size(amount.bytes);
            page.field(name, format!("{size} in {}", amount.objects))?;
        }
        let size = page.size(self.bytes);
        page.field("in all", size)?;
        self.sessions
            .iter()
            .try_for_each(|session| page.field("session", &session.line))
    }
}

impl Answer for Single {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let point = &self.point;
        page.field("point", &point.id)?;
        page.field("name", &point.name)?;
        let size = page.size(point.size);
        page.field("size", format!("{size} ({} bytes)", point.size))?;
        page.field("mode", &point.mode)?;
        let time = page.moment(point.time);
        page.field("time", time)?;
        page.field("image", &point.image)?;
        page.field("content", &point.content)?;
        page.field("maps", self.chain.to_string())?;
        if !self.same_as.is_empty() {
            page.field("same as", self.same_as.join(", "))?;
        }
        if point.marks().is_empty() {
            Ok(())
        } else {
            page.field("marks", point.marks())
        }
    }
}
