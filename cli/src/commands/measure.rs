//! `vellum measure`: what storing some disks would take, before any is imported.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use vellum_formats::input::InputFormat;
use vellum_store::measure::{
    Advice, AdviceReason, Estimate, LengthReport, MeasureOptions, MeasureReport, SettingReport,
    measure,
};
use vellum_store::parity::{ParityShare, foreseen_parity_len};
use vellum_store::{ImageInput, Store, StoreError};

use super::import::is_stream;
use super::init::CompressionWish;
use super::parity;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::{TextPage, format_count, format_percent};
use crate::output::table::Column;
use crate::output::{OutputLayout, Render};
use crate::size;
use crate::source_format::{self, FileArgs};

const EXAMPLES: &str = "\
Example:
  vellum measure monday.raw tuesday.raw
  vellum measure --sample 5% --json disks/*.raw
  vellum measure --against-store --parent web@monday tuesday.raw

The order of the files is the order in which they would be imported; each is held against the one \
before it, place by place. Files are always read whole: which chunks are the same only their \
content tells. A range (±) holds the truth 95 times in 100.";

/// Tell what storing disks would take, at every chunk size and compression, before importing them
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The disks, in the order in which they would be imported
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The format of all of them (as for `vellum import`) [default: each as its signature says]
    #[arg(short, long, value_parser = source_format::input_format)]
    format: Option<InputFormat>,
    /// What the first disk is held against, as if it were stored already: a file, or an image or
    /// snapshot of the store
    #[arg(short = 'b', long, value_name = "FILE|IMAGE[@SNAPSHOT]")]
    parent: Option<PathBuf>,
    /// Take what the store has for stored already; it tells that of its own chunk size only
    #[arg(long)]
    against_store: bool,
    /// Count this share of 4K chunks, of longer ones as many, and compress this share of frames
    #[arg(long, value_name = "PERCENT%", conflicts_with = "exact")]
    sample: Option<PercentShare>,
    /// Compress everything at every chunk size, however much it is
    #[arg(long)]
    exact: bool,
    /// Chunk sizes to measure, rising: powers of two from 4K to 4M [default:
    /// 4K,8K,16K,32K,64K,1M,4M]
    #[arg(long, value_name = "SIZES", value_parser = size::parse_size, value_delimiter = ',')]
    chunk_size: Vec<u64>,
    /// How to compress while chunk sizes are compared: zstd:LEVEL, lz4 or none [default: zstd:3]
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionWish>,
}

/// A part of the whole, written `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PercentShare(f64);

#[derive(Debug, thiserror::Error)]
#[error(
    "a share is written with its sign, such as 5% or 0.5%, and is more than 0% and at most 100%"
)]
pub(crate) struct ShareError;

#[derive(Serialize)]
struct MeasureSummary {
    action: &'static str,
    files: u64,
    logical_bytes: u64,
    nonzero_bytes: u64,
    /// All that is there was read and hashed, sampled or not.
    read: &'static str,
    confidence: f64,
    chunk_sizes: Vec<ShownLength>,
    compressions: Vec<ShownSetting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recommended: Option<ShownAdvice>,
    /// About how much more parity would take, by its share in percent, in a store as recommended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parity: Vec<ShownParity>,
    /// Bytes that a new store would reserve besides, for a full disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_back_bytes: Option<u64>,
}

#[derive(Serialize)]
struct ShownParity {
    percent: f64,
    disk_bytes: u64,
}

#[derive(Serialize)]
struct ShownLength {
    chunk_size: u64,
    frame_size: u64,
    compression: String,
    /// True if a store can have it.
    possible: bool,
    /// The share of distinct chunks that was counted.
    counted: f64,
    data_bytes: u64,
    same_place_bytes: EstimatedRange,
    by_content_bytes: EstimatedRange,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_store_bytes: Option<EstimatedRange>,
    unique_bytes: EstimatedRange,
    compressed_bytes: EstimatedRange,
    metadata_bytes: EstimatedRange,
    disk_bytes: EstimatedRange,
    memory_bytes: EstimatedRange,
}

#[derive(Serialize)]
struct ShownSetting {
    chunk_size: u64,
    frame_size: u64,
    compression: String,
    compressed_bytes: EstimatedRange,
    metadata_bytes: EstimatedRange,
    disk_bytes: EstimatedRange,
}

#[derive(Serialize)]
struct ShownAdvice {
    chunk_size: u64,
    frame_size: u64,
    compression: String,
    disk_bytes: u64,
    command: String,
    reasons: [String; 3],
}

#[derive(Clone, Copy, Serialize)]
struct EstimatedRange {
    value: u64,
    low: u64,
    high: u64,
}

pub(super) fn run_measure(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let options = measure_options(args);
    let (parent_file, parent_node) = parent_source(args, session);
    let store = if args.against_store || parent_node.is_some() {
        Some(session.open_to_read()?)
    } else {
        None
    };
    let inputs = args
        .files
        .iter()
        .map(|file| open_input(file, args.format, session))
        .collect::<Result<Vec<ImageInput>, CommandFailure>>()?;
    let parent = match (parent_file, parent_node, &store) {
        (Some(zone_file), ..) => Some(open_input(&zone_file, None, session)?),
        (_, Some(sample_node), Some(store)) => Some(input_of(store, &sample_node)?),
        _ => None,
    };
    let is_new = parent.is_none() && !args.against_store;
    let meter = session.watch_bytes("measuring");
    let report = measure(
        inputs,
        parent,
        store.as_ref().filter(|_| args.against_store),
        &options,
        &meter,
    );
    drop(meter);
    let mut shown = MeasureSummary::new(&report.map_err(measure_failure)?, &options);
    let dir = session.store_dir().ok().filter(|_| is_new);
    let stored = shown
        .recommended
        .as_ref()
        .map_or(0, |advice| advice.disk_bytes);
    shown.kept_back_bytes = dir.map(|dir| Store::kept_back(dir, stored));
    match session.output.layout {
        // It is what was asked for, so it is shown to the quiet as well.
        OutputLayout::Human => session.output.print_answer(&shown)?,
        _ => session.output.print_summary(&shown)?,
    }
    Ok(Outcome::Done)
}

fn measure_options(args: &Args) -> MeasureOptions {
    let usual = MeasureOptions::usual();
    MeasureOptions {
        chunk_lens: if args.chunk_size.is_empty() {
            usual.chunk_lens
        } else {
            args.chunk_size.clone()
        },
        sample: args.sample.map_or(usual.sample, |share| share.0),
        exact: args.exact,
        compression: args.compression.map_or(usual.compression, |wish| wish.0),
        tries_all: true,
    }
}

/// The parent: a file if there is one of that name, else what a store calls so.
fn parent_source(args: &Args, session: &CommandContext) -> (Option<PathBuf>, Option<String>) {
    match &args.parent {
        None => (None, None),
        Some(parent) if session.caller.resolve_path(parent).exists() => {
            (Some(parent.clone()), None)
        }
        Some(parent) => (None, Some(parent.to_string_lossy().into_owned())),
    }
}

fn open_input(
    file: &Path,
    format: Option<InputFormat>,
    session: &CommandContext,
) -> Result<ImageInput, CommandFailure> {
    let path = session.caller.resolve_path(file);
    if file.as_os_str() == "-" || is_stream(&path) {
        return Err(CommandFailure::usage_error(
            "a pipe goes by once, and measuring stores nothing of it",
            "measure a file or a device, or import the pipe",
        ));
    }
    let args = FileArgs { format, disk: None };
    let opened = source_format::open_disk_file(file, &args, &args.expected_file(), session);
    let opened = opened.map_err(|failure| match failure {
        CommandFailure::Store(error) => measure_failure(error),
        other => other,
    })?;
    ImageInput::of_file(opened, None).map_err(measure_failure)
}

fn input_of(store: &Store, node: &str) -> Result<ImageInput, CommandFailure> {
    let found = store.find_node(node).map_err(|error| {
        CommandFailure::from(error)
            .replace_hint("name a file that is there, or an image or snapshot of the store")
    });
    Ok(store.open_input(found?)?)
}

/// Sources fail here as for an import, but nothing was to be stored.
fn measure_failure(error: StoreError) -> CommandFailure {
    match error {
        StoreError::Source { .. } => CommandFailure::from(error)
            .replace_hint("mend the file or leave it out; measuring changes nothing"),
        StoreError::SourceChanged { .. } => CommandFailure::from(error)
            .replace_hint("measure again when nothing writes to the file"),
        StoreError::Parameter(text) => {
            CommandFailure::usage_error(text, "the defaults suit most disks")
        }
        other => other.into(),
    }
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        self.against_store || self.parent.as_ref().is_some_and(|parent| !parent.exists())
    }
}

impl FromStr for PercentShare {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let number: f64 = text
            .strip_suffix('%')
            .and_then(|number| number.trim().parse().ok())
            .ok_or(ShareError)?;
        if number > 0.0 && number <= 100.0 {
            Ok(Self(number / 100.0))
        } else {
            Err(ShareError)
        }
    }
}

impl From<Estimate> for EstimatedRange {
    fn from(estimate: Estimate) -> Self {
        Self {
            value: estimate.value,
            low: estimate.low,
            high: estimate.high,
        }
    }
}

impl MeasureSummary {
    fn new(report: &MeasureReport, options: &MeasureOptions) -> Self {
        let compression = CompressionWish(options.compression).to_string();
        Self {
            action: "measure",
            files: report.inputs,
            logical_bytes: report.logical,
            nonzero_bytes: report.non_zero,
            read: "everything",
            confidence: 0.95,
            chunk_sizes: report
                .lengths
                .iter()
                .map(|length| ShownLength::new(length, &compression))
                .collect(),
            compressions: report.settings.iter().map(ShownSetting::new).collect(),
            recommended: report.advice.as_ref().map(ShownAdvice::new),
            parity: foreseen_parity(report),
            kept_back_bytes: None,
        }
    }
}

/// Bytes that parity would take of a store that is made as recommended.
fn foreseen_parity(report: &MeasureReport) -> Vec<ShownParity> {
    let length = report.advice.as_ref().and_then(|advice| {
        let chunk_len = advice.parameters.chunk_len.byte_len();
        report
            .lengths
            .iter()
            .find(|length| length.chunk_len == chunk_len)
    });
    let Some(length) = length else {
        return Vec::new();
    };
    let (payloads, records) = (length.compressed.value, length.metadata.value);
    let shown = |share| ShownParity {
        percent: parity::share_percent(share),
        disk_bytes: foreseen_parity_len(payloads, records, share),
    };
    [20, 100]
        .into_iter()
        .filter_map(ParityShare::new)
        .map(shown)
        .collect()
}

impl ShownLength {
    fn new(length: &LengthReport, compression: &str) -> Self {
        Self {
            chunk_size: length.chunk_len,
            frame_size: length.frame_len,
            compression: compression.to_owned(),
            possible: length.is_possible,
            counted: length.rate,
            data_bytes: length.data,
            same_place_bytes: length.same_place.into(),
            by_content_bytes: length.by_content.into(),
            in_store_bytes: length.in_store.map(EstimatedRange::from),
            unique_bytes: length.unique.into(),
            compressed_bytes: length.compressed.into(),
            metadata_bytes: length.metadata.into(),
            disk_bytes: length.on_disk.into(),
            memory_bytes: length.memory.into(),
        }
    }
}

impl ShownSetting {
    fn new(setting: &SettingReport) -> Self {
        Self {
            chunk_size: setting.chunk_len,
            frame_size: setting.frame_len,
            compression: CompressionWish(setting.compression).to_string(),
            compressed_bytes: setting.compressed.into(),
            metadata_bytes: setting.metadata.into(),
            disk_bytes: setting.on_disk.into(),
        }
    }
}

impl ShownAdvice {
    fn new(advice: &Advice) -> Self {
        let (chunk, frame) = (
            advice.parameters.chunk_len.byte_len(),
            u64::from(advice.parameters.frame_len),
        );
        let compression = CompressionWish(advice.parameters.compression).to_string();
        let command = format!(
            "vellum init --chunk-size {} --frame-size {} --compression {compression}",
            format_option_size(chunk),
            format_option_size(frame)
        );
        let [of_chunk, of_frame, of_compression] = advice.reasons;
        let reasons = [
            format!(
                "chunks of {}: {}",
                format_option_size(chunk),
                reason_text(of_chunk, "another")
            ),
            format!(
                "frames of {}: {}",
                format_option_size(frame),
                reason_text(of_frame, "a longer one")
            ),
            format!(
                "{compression}: {}",
                reason_text(of_compression, "a slower one")
            ),
        ];
        Self {
            chunk_size: chunk,
            frame_size: frame,
            compression,
            disk_bytes: advice.on_disk,
            command,
            reasons,
        }
    }
}

/// The reason in words; `other` is the setting that takes less space and costs more in use.
fn reason_text(reason: AdviceReason, other: &str) -> String {
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    match reason {
        AdviceReason::OnlyOne => "nothing else was measured with it".to_owned(),
        AdviceReason::Least { more } => format!(
            "takes least on disk; the next best takes {} more",
            share(more)
        ),
        AdviceReason::NearlyLeast { more } => format!(
            "takes {} more than {other} would, and costs less time and memory",
            share(more)
        ),
        AdviceReason::Usual { gain } if gain <= 0.0 => "as usual; no other takes less".to_owned(),
        AdviceReason::Usual { gain } => format!(
            "as usual; {other} saves {} at most, too little to depart from it",
            share(gain)
        ),
        AdviceReason::Saves { gain } => format!("saves {} of what the usual takes", share(gain)),
    }
}

/// `4K`, as options take it.
fn format_option_size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{}M", bytes >> 20)
    } else {
        format!("{}K", bytes >> 10)
    }
}

impl Render for MeasureSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (logical, data) = (
            page.format_size(self.logical_bytes),
            page.format_size(self.nonzero_bytes),
        );
        page.write_prose(format!(
            "{}, {logical}: {data} not zero, all read and hashed",
            format_count(self.files, "disk")
        ))?;
        page.write_line("")?;
        self.show_chunk_sizes(page)?;
        if self.compressions.len() > 1 {
            page.write_line("")?;
            self.show_compressions(page)?;
        }
        let Some(advice) = &self.recommended else {
            return Ok(());
        };
        page.write_line("")?;
        page.write_line(format!(
            "recommended, about {} on disk:",
            page.format_size(advice.disk_bytes)
        ))?;
        page.write_line(format!("  {}", advice.command))?;
        advice
            .reasons
            .iter()
            .try_for_each(|reason| page.write_prose(format!("  {reason}")))?;
        if let Some(parity) = self.parity.first() {
            let (share, more) = (parity.percent, page.format_size(parity.disk_bytes));
            page.write_prose(format!(
                "  --parity {share}%: takes about {more} more, and heals damaged and lost files"
            ))?;
        }
        if let Some(kept_back) = self.kept_back_bytes {
            page.write_prose(format!(
                "  a new store keeps {} back besides, so that a full disk can be emptied",
                page.format_size(kept_back)
            ))?;
        }
        Ok(())
    }
}

impl MeasureSummary {
    fn show_chunk_sizes(&self, page: &mut TextPage) -> io::Result<()> {
        let with_store = self
            .chunk_sizes
            .iter()
            .any(|length| length.in_store_bytes.is_some());
        let mut columns = vec![
            Column::text_column("CHUNK"),
            Column::number_column("SAME PLACE").giving_way(4),
            Column::number_column("BY CONTENT").giving_way(5),
        ];
        columns.extend(with_store.then(|| Column::number_column("IN STORE")));
        columns.extend([
            Column::number_column("UNIQUE").giving_way(6),
            Column::number_column("COMPRESSED").giving_way(3),
            Column::number_column("METADATA").giving_way(1),
            Column::number_column("ON DISK"),
            Column::number_column("±"),
            Column::number_column("MEMORY").giving_way(2),
            Column::text_column("NOTE").as_prose(),
        ]);
        let row = |length: &ShownLength| {
            let mut cells = vec![
                page.format_size(length.chunk_size),
                page.format_size(length.same_place_bytes.value),
                page.format_size(length.by_content_bytes.value),
            ];
            cells.extend(with_store.then(|| {
                length
                    .in_store_bytes
                    .map_or_else(String::new, |bytes| page.format_size(bytes.value))
            }));
            let sizes = [
                length.unique_bytes,
                length.compressed_bytes,
                length.metadata_bytes,
                length.disk_bytes,
            ];
            cells.extend(sizes.map(|bytes| page.format_size(bytes.value)));
            cells.extend([
                length.disk_bytes.relative_error(),
                page.format_size(length.memory_bytes.value),
            ]);
            cells.push(if length.possible {
                String::new()
            } else {
                "no store has it".to_owned()
            });
            cells
        };
        let rows: Vec<Vec<String>> = self.chunk_sizes.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }

    /// One row for each frame length, one column for each compression.
    fn show_compressions(&self, page: &mut TextPage) -> io::Result<()> {
        let widest = self
            .compressions
            .iter()
            .map(|setting| setting.disk_bytes)
            .max_by_key(|range| range.high - range.low);
        let reach = widest
            .map(EstimatedRange::relative_error)
            .unwrap_or_default();
        let range = if reach == "exact" {
            String::new()
        } else {
            format!(", ± {reach} or less")
        };
        page.write_prose(format!(
            "on disk with chunks of {}, by frame and compression{range}",
            page.format_size(self.compressions[0].chunk_size)
        ))?;
        let first = self.compressions[0].frame_size;
        let ways: Vec<&str> = self
            .compressions
            .iter()
            .filter(|way| way.frame_size == first)
            .map(|way| way.compression.as_str())
            .collect();
        let columns: Vec<Column> = std::iter::once(Column::text_column("FRAME"))
            .chain((1..=ways.len()).rev().map(|rank| {
                // The slowest gives way first.
                Column::number_column("").giving_way(u8::try_from(rank).unwrap_or(u8::MAX))
            }))
            .collect();
        let title = std::iter::once("FRAME".to_owned())
            .chain(ways.iter().map(|way| (*way).to_owned()))
            .collect();
        let rows = self.compressions.chunks(ways.len()).map(|row| {
            std::iter::once(page.format_size(row[0].frame_size))
                .chain(
                    row.iter()
                        .map(|setting| page.format_size(setting.disk_bytes.value)),
                )
                .collect()
        });
        let rows: Vec<Vec<String>> = std::iter::once(title).chain(rows).collect();
        page.write_rows(&columns, &rows)
    }
}

impl EstimatedRange {
    /// Distance of the ends from the value, in percent of it.
    fn relative_error(self) -> String {
        let reach = (self.high - self.value).max(self.value - self.low);
        if reach == 0 {
            "exact".to_owned()
        } else {
            format_percent(reach, self.value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_its_sign_and_is_a_part() {
        for (text, share) in [("5%", 0.05), ("0.5%", 0.005), ("100%", 1.0)] {
            assert_eq!(
                text.parse::<PercentShare>().ok(),
                Some(PercentShare(share)),
                "{text}"
            );
        }
        for text in [
            "", "%", "5", "0.05", "0%", "-1%", "101%", "NaN%", "inf%", "5%%", "five%",
        ] {
            assert!(text.parse::<PercentShare>().is_err(), "{text}");
        }
    }
}
