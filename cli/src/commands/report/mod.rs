//! `vellum report`: where the space went, in tables, as JSON, CSV, Prometheus' text or a page; what
//! deleting would free.

mod file;
mod policy;
mod reclaim;

use std::io;
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use serde::Serialize;
use vellum_core::tree::Node;
use vellum_store::Store;
use vellum_store::report::{Census, Report, ReportOptions, Uncounted};

use crate::failure::{Failure, Outcome};
use crate::keep::KeepArgs;
use crate::output::page::Page;
use crate::output::{Answer, Layout, Units};
use crate::picture;
use crate::report::document::Document;
use crate::report::sheet::{Extent, Sheet};
use crate::report::{Part, csv, html, pictures, prometheus, sheet};
use crate::session::Session;
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
        .conflicts_with("policy")
))]
#[command(group(
    ArgGroup::new("question")
        .args(["reclaim", "target"])
        .conflicts_with_all(["form", "policy"])
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
    parts: Vec<Part>,
    /// Rows of each table; the rest is only counted [default: 10, or 100 on a page]
    #[arg(long, value_name = "COUNT", conflicts_with = "csv")]
    top: Option<usize>,
    /// Write one part as CSV, all rows of it
    #[arg(long, value_name = "PART", value_enum)]
    csv: Option<Part>,
    /// Write everything as one page with pictures; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each picture of that page into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Replace a page or pictures that are there
    #[arg(long, conflicts_with_all = ["csv", "parts", "prometheus", "question", "policy"])]
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
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    target: Option<u64>,
    #[command(flatten)]
    keep: KeepArgs,
}

/// A report for people or as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    document: Document<'a>,
    #[serde(skip)]
    sheets: Vec<Sheet>,
    #[serde(skip)]
    units: Units,
}

/// The answer that a file was written.
#[derive(Serialize)]
struct Written {
    action: &'static str,
    file: String,
    bytes: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    check(args, session)?;
    let store = session.open_to_read()?;
    if !args.reclaim.is_empty() {
        return reclaim::of_set(&store, &args.reclaim, args.with_snapshots, session);
    }
    if let Some(bytes) = args.target {
        return reclaim::of_target(&store, bytes, session);
    }
    if let Some(rules) = policy::rules(&args.keep)? {
        return policy::run(&store, &rules, session);
    }
    let report = take(&store, &options(args, session), session)?;
    give(args, &store, &report, session)?;
    Ok(tell_uncounted(&report.uncounted, session))
}

/// Refuses before the work what would be refused after it.
fn check(args: &Args, session: &Session) -> Result<(), Failure> {
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

fn check_file(file: &Path, overwrite: bool, session: &Session) -> Result<(), Failure> {
    if is_standard_output(file) {
        check_output(session)
    } else {
        file::check_free(session, file, overwrite)
    }
}

/// A form of its own is no JSON.
fn check_output(session: &Session) -> Result<(), Failure> {
    if session.output.layout == Layout::Human {
        return Ok(());
    }
    Err(Failure::usage(
        "standard output can have one form only",
        "leave out --json, or write to a file",
    ))
}

fn is_standard_output(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn options(args: &Args, session: &Session) -> ReportOptions {
    let for_people = session.output.layout == Layout::Human && args.csv.is_none();
    let parts = parts(args);
    ReportOptions {
        rows_max: if for_people {
            args.top.unwrap_or(TOP_OF_PAGE).max(TOP_OF_PAGE)
        } else {
            ROWS_MAX
        },
        most_shared_max: args.top.unwrap_or(TOP_OF_PAGE),
        strip_cells: STRIP_CELLS,
        file_systems: args.prometheus.is_none() && parts.contains(&Part::Droppable),
    }
}

/// The parts that are wanted.
fn parts(args: &Args) -> Vec<Part> {
    match args.csv {
        Some(part) => vec![part],
        None if args.parts.is_empty() => Part::ALL.to_vec(),
        None => args.parts.clone(),
    }
}

/// Looks at the store.
fn take(store: &Store, options: &ReportOptions, session: &Session) -> Result<Report, Failure> {
    let meter = session.watch_records("counting");
    Ok(store.report(options, &meter)?)
}

/// The store's figures, for questions about deleting.
fn census(store: &Store, session: &Session) -> Result<Census, Failure> {
    Ok(store.census(&session.watch_records("counting"))?)
}

/// Gives the report the form that is wanted.
fn give(args: &Args, store: &Store, report: &Report, session: &mut Session) -> Result<(), Failure> {
    let units = session.output.units;
    if let Some(part) = args.csv {
        session
            .output
            .verbatim(csv::render(&sheet(report, part, Extent::Whole)).as_bytes())
    } else if let Some(file) = &args.html {
        let store = session.store_dir()?.display().to_string();
        let page = html::render(report, &store, args.top.unwrap_or(TOP_OF_PAGE), units);
        file::write(session, file, &page, args.force)
    } else if let Some(folder) = &args.pictures {
        let pictures = Part::ALL
            .into_iter()
            .flat_map(|part| pictures::of_part(report, part, units));
        let mut files =
            pictures.map(|picture| (folder.join(format!("{}.svg", picture.id())), picture.file()));
        files.try_for_each(|(file, picture)| file::write(session, &file, &picture, args.force))
    } else if let Some(file) = &args.prometheus {
        // Made again and again by a timer: the one before is to be replaced.
        let text = prometheus::render(report, &store.scrub_status());
        file::write(session, file, &text, true)
    } else {
        let mut parts = parts(args);
        parts.dedup();
        let extent = Extent::Top(args.top.unwrap_or(TOP));
        let sheets = parts.iter().map(|part| sheet(report, *part, extent));
        // In a summary, what is not there needs no word.
        let sheets = sheets
            .filter(|sheet| !args.parts.is_empty() || !sheet.rows.is_empty())
            .collect();
        session.output.answer(&Shown {
            document: Document::new(report, &parts),
            sheets,
            units,
        })
    }
}

/// Warns of what is in no figure.
fn tell_uncounted(losses: &[Uncounted], session: &Session) -> Outcome {
    for uncounted in losses.iter().take(UNCOUNTED_MAX) {
        session.warn(&format!(
            "{} is not counted: {}",
            uncounted.subject, uncounted.what
        ));
    }
    match losses.len() {
        0 => return Outcome::Done,
        count if count > UNCOUNTED_MAX => {
            session.warn(&format!("{} more are not counted", count - UNCOUNTED_MAX));
        }
        _ => {}
    }
    session.notice("hint: `vellum check` tells what is damaged");
    Outcome::Losses
}

/// Draws the store's tree into `file`, for `vellum tree`.
pub(super) fn tree_file(
    file: &Path,
    overwrite: bool,
    session: &mut Session,
) -> Result<Outcome, Failure> {
    check_file(file, overwrite, session)?;
    let store = session.open_to_read()?;
    let options = ReportOptions {
        rows_max: 1,
        most_shared_max: 0,
        strip_cells: 1,
        file_systems: false,
    };
    let report = take(&store, &options, session)?;
    let picture = picture::tree::draw(&report.nodes, session.output.units);
    file::write(session, file, &picture.file(), overwrite)?;
    Ok(tell_uncounted(&report.uncounted, session))
}

/// True if `vellum rm` refuses to delete a node: then no deletion of it is proposed.
fn is_protected(store: &Store, node: Node) -> bool {
    let tree = store.tree();
    match node {
        Node::Image(image) => tree.plan_delete_image(image, true).is_err(),
        Node::Snapshot(image, serial) => tree.plan_delete_snapshot(image, serial).is_err(),
    }
}

impl Answer for Shown<'_> {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        for (nth, sheet) in self.sheets.iter().enumerate() {
            if nth > 0 {
                page.line("")?;
            }
            sheet.show(page, self.units)?;
        }
        Ok(())
    }
}

impl Answer for Written {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let size = page.size(self.bytes);
        page.line(format!("wrote {}, {size}", self.file))
    }
}
