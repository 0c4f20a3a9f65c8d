//! `vellum backup tree`: which point stands on which.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use vellum_backup::journal::State;
use vellum_backup::record::Point;
use vellum_core::identity::ContentId;

use super::list::PointDescription;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Draw which point stands on which
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup tree /mnt/backup

Each line stands on the one above it in its column, an indented one on the line its branch leaves. \
◆ and ◇ begin a tree; ◆ and ● are snapshots, ◇ and ○ images. JSON of each point: what `list` \
tells, and parent, the id of the point that it stands on.")]
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
    children: Vec<usize>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct PointTreeDrawing {
    lines: Vec<PointLine>,
}

#[derive(Serialize)]
struct PointLine {
    #[serde(flatten)]
    point: PointDescription,
    /// The id of the point that it stands on.
    parent: Option<String>,
    /// The lines and spaces before the name.
    #[serde(skip)]
    lead: String,
}

pub(super) fn run_backup_tree(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let repository = opening::open_repository(&place, &args.access, session)?;
    let state = repository.state();
    let plants = point_nodes(&state);
    let line = |(plant, lead): (usize, String)| {
        let PointNode { point, parent, .. } = &plants[plant];
        PointLine {
            point: PointDescription::from_point(point),
            parent: parent.map(|parent| plants[parent].point.id.clone()),
            lead,
        }
    };
    let lines = tree_lines(&plants).into_iter().map(line).collect();
    session.output.print_answer(&PointTreeDrawing { lines })?;
    Ok(Outcome::Done)
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
            children: Vec::new(),
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
    for plant in 0..plants.len() {
        if let Some(parent) = plants[plant].parent {
            plants[parent].children.push(plant);
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

/// The plants with what stands before their names. What an image stands on runs down in one column;
/// side branches are indented.
fn tree_lines(plants: &[PointNode<'_>]) -> Vec<(usize, String)> {
    let roots = (0..plants.len())
        .rev()
        .filter(|plant| plants[*plant].parent.is_none());
    let mut waiting: Vec<(usize, String, String)> = roots
        .map(|root| (root, String::new(), String::new()))
        .collect();
    let mut lines = Vec::new();
    while let Some((plant, lead, margin)) = waiting.pop() {
        lines.push((plant, lead));
        let children = &plants[plant].children;
        let same = |child: &&usize| plants[**child].point.image == plants[plant].point.image;
        let Some(trunk) = children
            .iter()
            .rev()
            .find(same)
            .or(children.last())
            .copied()
        else {
            continue;
        };
        waiting.push((trunk, margin.clone(), margin.clone()));
        let branches = children.iter().rev().filter(|child| **child != trunk);
        waiting
            .extend(branches.map(|branch| (*branch, format!("{margin}├─"), format!("{margin}│ "))));
    }
    lines
}

impl Render for PointTreeDrawing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE"),
            Column::text_column("ID"),
            Column::text_column("TIME"),
            Column::text_column("MARKS"),
        ];
        let row = |line: &PointLine| {
            let sign = match (line.point.is_snapshot(), line.parent.is_none()) {
                (true, true) => '◆',
                (true, false) => '●',
                (false, true) => '◇',
                (false, false) => '○',
            };
            let point = &line.point;
            vec![
                format!("{}{sign} {}", line.lead, point.name),
                page.format_size(point.size),
                point.short_id(),
                page.format_time(point.time),
                point.pin_and_tags(),
            ]
        };
        let rows: Vec<_> = self.lines.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}
