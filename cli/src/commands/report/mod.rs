//! `vellum report`: where the space went, in tables, as JSON, CSV, Prometheus' text or a page; what
//! deleting would free.

pub(super) mod file;
pub(super) mod policy;
mod reclaim;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use serde::Serialize;
use vellum_core::outline::{OutlineRow, tree_around};
use vellum_core::tree::{NodeRef, PlanError};
use vellum_store::report::{ReportOptions, SpaceReport, UncountedItem, UsageScan};
use vellum_store::{Store, StoreError};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::TextPage;
use crate::output::{OutputLayout, Render, Units};
use crate::picture;
use crate::report::document::Document;
use crate::report::html::PageOptions;
use crate::report::sheet::{RowLimit, Sheet};
use crate::report::{ReportPart, csv, html, part_sheet, pictures, prometheus};
use crate::retention_args::KeepArgs;
use crate::size;

/// Rows of a table for people, unless they say otherwise: what fits a screen with its neighbours.
const TOP: usize = 10;
/// Rows of a table of the page: what somebody scrolls through.
const TOP_OF_PAGE: usize = 100;
/// Rows of attribution that are told apart for programs: sets of holders may be as many as chunks.
const ROWS_MAX: usize = 10_000;
/// Cells of a strip of changes: on a desk each is some pixels wide.
const STRIP_CELLS: usize = 96;
/// Things that could not be counted that are told one by one.
const UNCOUNTED_MAX: usize = 20;

/// Tell where the space went, who holds it, and what deleting would free
#[derive(clap::Args)]
#[command(group(
    ArgGroup::new("form")
        .args(["parts", "csv", "html", "pictures", "prometheus"])
        .conflicts_with("keep")
))]
#[command(group(
    ArgGroup::new("question")
        .args(["reclaim", "target"])
        .conflicts_with_all(["form", "keep"])
))]
#[command(after_help = "\
Example:
  vellum report
  vellum report nodes attribution --top 50
  vellum report --html space.html
  vellum report --prometheus=/var/lib/node_exporter/vellum.prom
  vellum report --reclaim web@monday web@tuesday
  vellum report --target 20G
  vellum report --keep-daily 7 --keep-weekly 4

Nothing is deleted or changed; --keep-… tells what keeping only such snapshots would free. All \
figures are of one moment, also while guests write. What is freed is given back by `vellum gc`, \
once it was deleted. Texts in CSV that a spreadsheet would run as a formula get a ' in front. Exit \
code 3: something could not be read, and is told; the rest is counted.")]
pub(crate) struct Args {
    /// Only these parts
    #[arg(value_name = "PART", value_enum)]
    parts: Vec<ReportPart>,
    /// Rows of each table; the rest is only counted [default: 10, or 100 on a page]
    #[arg(long, value_name = "COUNT", conflicts_with = "csv")]
    top: Option<usize>,
    /// Write one part as CSV, all rows of it
    #[arg(long, value_name = "PART", value_enum)]
    csv: Option<ReportPart>,
    /// Write everything as one page with pictures; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each picture of that page into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Replace a page or pictures that are there
    #[arg(long, conflicts_with_all = ["csv", "parts", "prometheus", "question", "keep"])]
    force: bool,
    /// Write Prometheus' text, to standard output or whole into a file that may be there
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "-"
    )]
    prometheus: Option<PathBuf>,
    /// Tell what deleting exactly these frees
    #[arg(long, value_name = "IMAGE[@SNAPSHOT]", num_args = 1..)]
    reclaim: Vec<String>,
    /// With --reclaim: an image's snapshots too
    #[arg(long, requires = "reclaim")]
    with_snapshots: bool,
    /// Tell which deletions free at least this much at least loss
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    target: Option<u64>,
    #[command(flatten)]
    keep: KeepArgs,
}

/// A report for people or as JSON.
#[derive(Serialize)]
struct ReportTables<'a> {
    #[serde(flatten)]
    document: Document<'a>,
    #[serde(skip)]
    sheets: Vec<Sheet>,
    #[serde(skip)]
    units: Units,
}

/// The answer that a file was written.
#[derive(Serialize)]
struct ReportFileSummary {
    action: &'static str,
    file: String,
    bytes: u64,
}

pub(super) fn run_report(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    check_arguments(args, session)?;
    let store = session.open_to_read()?;
    if !args.reclaim.is_empty() {
        return reclaim::of_set(&store, &args.reclaim, args.with_snapshots, session);
    }
    if let Some(bytes) = args.target {
        return reclaim::of_target(&store, bytes, session);
    }
    if let Some(rules) = policy::given_rules(&args.keep)? {
        return policy::run_policy(&store, &rules, session);
    }
    let report = take_report(&store, &report_options(args, session), session)?;
    print_report(args, &store, &report, session)?;
    Ok(tell_uncounted(&report.uncounted, session))
}

/// Refuses before the work what would be refused after it.
fn check_arguments(args: &Args, session: &CommandContext) -> Result<(), CommandFailure> {
    if args.csv.is_some() {
        check_output(session)?;
    }
    args.prometheus
        .iter()
        .try_for_each(|file| check_file(file, true, session))?;
    args.html
        .iter()
        .try_for_each(|file| check_file(file, args.force, session))
}

fn check_file(
    file: &Path,
    overwrite: bool,
    session: &CommandContext,
) -> Result<(), CommandFailure> {
    if is_standard_output(file) {
        check_output(session)
    } else {
        file::check_free(session, file, overwrite)
    }
}

/// A form of its own is no JSON.
fn check_output(session: &CommandContext) -> Result<(), CommandFailure> {
    if session.output.layout == OutputLayout::Human {
        return Ok(());
    }
    Err(CommandFailure::usage_error(
        "standard output can have one form only",
        "leave out --json, or write to a file",
    ))
}

fn is_standard_output(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn report_options(args: &Args, session: &CommandContext) -> ReportOptions {
    let for_people = session.output.layout == OutputLayout::Human && args.csv.is_none();
    let parts = wanted_parts(args);
    ReportOptions {
        rows_max: if for_people {
            args.top.unwrap_or(TOP_OF_PAGE).max(TOP_OF_PAGE)
        } else {
            ROWS_MAX
        },
        most_shared_max: args.top.unwrap_or(TOP_OF_PAGE),
        strip_cells: STRIP_CELLS,
        file_systems: args.prometheus.is_none() && parts.contains(&ReportPart::Droppable),
    }
}

/// The parts that are wanted.
fn wanted_parts(args: &Args) -> Vec<ReportPart> {
    match args.csv {
        Some(part) => vec![part],
        None if args.parts.is_empty() => ReportPart::ALL.to_vec(),
        None => args.parts.clone(),
    }
}

/// Looks at the store.
fn take_report(
    store: &Store,
    options: &ReportOptions,
    session: &CommandContext,
) -> Result<SpaceReport, CommandFailure> {
    let meter = session.watch_records("counting");
    Ok(store.report_space(options, &meter)?)
}

/// The store's figures, for questions about deleting.
fn take_census(store: &Store, session: &CommandContext) -> Result<UsageScan, CommandFailure> {
    Ok(store.scan_usage(&session.watch_records("counting"))?)
}

/// The bytes on disk that a collection would give back after deleting exactly `gone`. None, with a
/// warning, if not all could be counted.
pub(super) fn freed_by(
    store: &Store,
    gone: &[NodeRef],
    session: &CommandContext,
) -> Result<Option<u64>, CommandFailure> {
    let census = match store.scan_usage(&session.watch_records("counting")) {
        Ok(census) => census,
        Err(StoreError::Interrupted) => return Err(StoreError::Interrupted.into()),
        Err(error) => {
            session.print_warning(&format!("it cannot be told how much that frees: {error}"));
            return Ok(None);
        }
    };
    if tell_uncounted(census.uncounted_items(), session) != Outcome::Done {
        return Ok(None);
    }
    Ok(Some(census.estimate_reclaim(gone).freed))
}

/// Gives the report the form that is wanted.
fn print_report(
    args: &Args,
    store: &Store,
    report: &SpaceReport,
    session: &mut CommandContext,
) -> Result<(), CommandFailure> {
    let units = session.output.units;
    if let Some(part) = args.csv {
        session
            .output
            .print_verbatim(csv::render_csv(&part_sheet(report, part, RowLimit::Whole)).as_bytes())
    } else if let Some(file) = &args.html {
        let folder = session.store_dir()?.display().to_string();
        let page = html::render_html(
            report,
            &PageOptions {
                store: &folder,
                rows_max: args.top.unwrap_or(TOP_OF_PAGE),
                units,
                is_protected: &|name| is_name_protected(store, name),
            },
        );
        file::write_report_file(session, file, &page, args.force)
    } else if let Some(folder) = &args.pictures {
        let pictures = ReportPart::ALL
            .into_iter()
            .flat_map(|part| pictures::of_part(report, part, units));
        let mut files = pictures.map(|picture| {
            (
                folder.join(format!("{}.svg", picture.id())),
                picture.standalone_svg(),
            )
        });
        files.try_for_each(|(zone_file, picture)| {
            file::write_report_file(session, &zone_file, &picture, args.force)
        })
    } else if let Some(file) = &args.prometheus {
        // Made again and again by a timer: the one before is to be replaced.
        let text = prometheus::render_prometheus(report, &store.scrub_status());
        file::write_report_file(session, file, &text, true)
    } else {
        let mut parts = wanted_parts(args);
        parts.dedup();
        let extent = RowLimit::Top(args.top.unwrap_or(TOP));
        let sheets = parts.iter().map(|part| part_sheet(report, *part, extent));
        // In a summary, what is not there needs no word.
        let sheets = sheets
            .filter(|sheet| !args.parts.is_empty() || !sheet.rows.is_empty())
            .collect();
        session.output.print_answer(&ReportTables {
            document: Document::new(report, &parts),
            sheets,
            units,
        })
    }
}

/// Warns of what is in no figure.
fn tell_uncounted(losses: &[UncountedItem], session: &CommandContext) -> Outcome {
    for uncounted in losses.iter().take(UNCOUNTED_MAX) {
        session.print_warning(&format!(
            "{} is not counted: {}",
            uncounted.subject, uncounted.what
        ));
    }
    match losses.len() {
        0 => return Outcome::Done,
        count if count > UNCOUNTED_MAX => {
            session.print_warning(&format!("{} more are not counted", count - UNCOUNTED_MAX));
        }
        _ => {}
    }
    session.print_notice("hint: `vellum check` tells what is damaged");
    Outcome::Losses
}

/// Draws the store's tree, or the one in which `node` is, into `file`, for `vellum tree`.
pub(super) fn tree_file(
    file: &Path,
    node: Option<&str>,
    overwrite: bool,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    check_file(file, overwrite, session)?;
    let store = session.open_to_read()?;
    let options = ReportOptions {
        rows_max: 1,
        most_shared_max: 0,
        strip_cells: 1,
        file_systems: false,
    };
    let report = take_report(&store, &options, session)?;
    let lines = wanted_lines(&store, &report, node)?;
    let picture = picture::tree::draw_node_tree(&report, lines, session.output.units);
    file::write_report_file(session, file, &picture.standalone_svg(), overwrite)?;
    Ok(tell_uncounted(&report.uncounted, session))
}

/// The lines of the report's outline that are drawn for `node`.
fn wanted_lines(
    store: &Store,
    report: &SpaceReport,
    node: Option<&str>,
) -> Result<Range<usize>, CommandFailure> {
    let rows = &report.outline;
    let Some(node) = node else {
        return Ok(0..rows.len());
    };
    let node = store.find_node(node)?;
    let name = store.tree().display_name(node);
    let is_it = |row: &OutlineRow| {
        let found = report.nodes.get(row.item);
        found.is_some_and(|found| found.name == name)
    };
    let row = rows.iter().position(is_it).ok_or(PlanError::Gone)?;
    Ok(tree_around(rows, row))
}

/// True if `vellum rm` refuses to delete a node: then no deletion of it is proposed.
fn is_protected(store: &Store, node: NodeRef) -> bool {
    let tree = store.tree();
    match node {
        NodeRef::Image(image) => tree.plan_delete_image(image, true).is_err(),
        NodeRef::Snapshot(image, serial) => tree.plan_delete_snapshot(image, serial).is_err(),
    }
}

/// The same of a name; one that is gone meanwhile is not proposed either.
fn is_name_protected(store: &Store, name: &str) -> bool {
    store
        .find_whole(name)
        .map_or(true, |node| is_protected(store, node))
}

impl Render for ReportTables<'_> {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        for (nth, sheet) in self.sheets.iter().enumerate() {
            if nth > 0 {
                page.write_line("")?;
            }
            sheet.render_sheet(page, self.units)?;
        }
        Ok(())
    }
}

impl Render for ReportFileSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let size = page.format_size(self.bytes);
        page.write_line(format!("wrote {}, {size}", self.file))
    }
}
