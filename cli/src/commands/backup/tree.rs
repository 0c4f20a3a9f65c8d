//! `vellum backup tree`: the points of a repository, drawn as `vellum tree` draws a store.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use vellum_backup::journal::State;
use vellum_backup::record::Point;
use vellum_core::identity::ContentId;
use vellum_core::outline::{OutlineItem, OutlineRow, arrange_outline};

use super::list::PointDescription;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::forest::{self, LineKind, TreeLetters};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Draw which point stands on which
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup tree /mnt/backup

Below the newest state of an image (○) hang its snapshots and earlier states (●), the oldest \
first, and below each what was made from it. \
STANDS ON tells what the drawing does not show. JSON of each \
point: what `list` tells, and parent, the id of the point that it stands on.")]
pub(crate) struct Args {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// A point, and what it stands on.
struct PointNode<'a> {
    point: &'a Point,
    parent: Option<usize>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct PointTreeDrawing {
    lines: Vec<PointLine>,
    #[serde(skip)]
    letters: TreeLetters,
}

#[derive(Serialize)]
struct PointLine {
    #[serde(flatten)]
    point: PointDescription,
    /// The id of the point that it stands on.
    parent: Option<String>,
    /// The name of that point, if the drawing does not show it.
    #[serde(skip)]
    stands_on: Option<String>,
    #[serde(skip)]
    row: OutlineRow,
    #[serde(skip)]
    kind: LineKind,
}

pub(super) fn run_backup_tree(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let repository = opening::open_repository(&place, &args.access, session)?;
    let state = repository.state();
    let plants = point_nodes(&state);
    let items = outline_items(&plants);
    let rows = arrange_outline(&items);
    let line = |row: &OutlineRow| {
        let PointNode { point, parent } = &plants[row.item];
        let parent = parent.map(|parent| plants[parent].point);
        let shown = row.stands_elsewhere || forest::is_beyond_columns(row);
        let below = parent.map_or_else(|| "nothing".to_owned(), address::point_title);
        PointLine {
            point: PointDescription::from_point(point),
            parent: parent.map(|parent| parent.id.clone()),
            stands_on: shown.then_some(below),
            row: *row,
            kind: if items[row.item].is_image {
                LineKind::Image
            } else {
                LineKind::Snapshot
            },
        }
    };
    let lines = rows.iter().map(line).collect();
    let letters = TreeLetters::of_caller(&session.caller);
    session
        .output
        .print_answer(&PointTreeDrawing { lines, letters })?;
    Ok(Outcome::Done)
}

/// The points as a drawing takes them: the newest state of an image, on each host that pushed it,
/// is what the others of it hang from.
fn outline_items(plants: &[PointNode<'_>]) -> Vec<OutlineItem> {
    let key = |point: &Point| (point.host.clone(), point.image.clone());
    let (mut numbers, mut newest) = (BTreeMap::new(), BTreeMap::new());
    for (plant, PointNode { point, .. }) in plants.iter().enumerate() {
        let next = numbers.len() as u64;
        numbers.entry(key(point)).or_insert(next);
        if point.snapshot.is_none() {
            let state = newest.entry(key(point)).or_insert((point.time_ms, plant));
            *state = (*state).max((point.time_ms, plant));
        }
    }
    let item = |(plant, PointNode { point, parent }): (usize, &PointNode)| OutlineItem {
        image: numbers.get(&key(point)).copied(),
        is_image: newest
            .get(&key(point))
            .is_some_and(|state| state.1 == plant),
        stands_on: *parent,
        age: (point.time_ms, plant as u64),
        block_age: point.time_ms,
        made_from: None,
    };
    plants.iter().enumerate().map(item).collect()
}

/// All points. Of those that show the same, the first is the oldest snapshot, and the others stand
/// on it, or on the one before of their image.
fn point_nodes(state: &State) -> Vec<PointNode<'_>> {
    let points = address::sort_points(state);
    let mut of_content: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (plant, point) in points.iter().enumerate() {
        of_content.entry(&point.content).or_default().push(plant);
    }
    let mut plants: Vec<PointNode> = points
        .iter()
        .map(|point| PointNode {
            point,
            parent: None,
        })
        .collect();
    for same in of_content.values_mut() {
        same.sort_by_key(|plant| (points[*plant].snapshot.is_none(), points[*plant].time_ms));
    }
    for same in of_content.values() {
        plants[same[0]].parent = parent_point(state, points[same[0]], &points, &of_content);
        for (nth, plant) in same.iter().enumerate().skip(1) {
            plants[*plant].parent = same[..nth]
                .iter()
                .rev()
                .find(|other| points[**other].image == points[*plant].image)
                .or(same.first())
                .copied();
        }
    }
    plants
}

/// A point of the first content below a point's that any point shows: of the same image, if one is.
fn parent_point(
    state: &State,
    point: &Point,
    points: &[&Point],
    of_content: &BTreeMap<&str, Vec<usize>>,
) -> Option<usize> {
    let chain = state.chain(ContentId::parse(&point.content)?);
    let there = chain
        .iter()
        .skip(1)
        .find_map(|entry| of_content.get(entry.content.id.as_str()))?;
    there
        .iter()
        .rev()
        .find(|plant| points[**plant].image == point.image)
        .or(there.first())
        .copied()
}

impl Render for PointTreeDrawing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE").giving_way(1),
            Column::text_column("ID").as_whole(),
            Column::text_column("TIME").as_time().giving_way(2),
            Column::text_column("STANDS ON"),
            Column::text_column("MARKS").as_prose(),
        ];
        let row = |line: &PointLine| {
            let point = &line.point;
            vec![
                point.name.clone(),
                page.format_size(point.size),
                point.short_id(),
                page.format_minute(point.time),
                line.stands_on.clone().unwrap_or_default(),
                point.pin_and_tags(),
            ]
        };
        let drawn: Vec<_> = self
            .lines
            .iter()
            .map(|line| (line.row, line.kind))
            .collect();
        let leads = self.letters.draw_leads(&drawn);
        let rows: Vec<_> = self.lines.iter().map(row).collect();
        page.write_tree_table(&columns, &leads, &rows)
    }
}
