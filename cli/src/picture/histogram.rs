//! A histogram of chunks: a bar for each kind.

use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

const ROW_HEIGHT: u32 = 24;
/// The place where bars begin, and the width of the longest, in percent of the width.
const BAR_START: f64 = 28.0;
const BAR_ROOM: f64 = 36.0;

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// The subject of a histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistogramLabels {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Above the labels.
    pub(crate) label: &'static str,
}

/// The picture of `bars`.
pub(crate) fn draw_histogram(subject: HistogramLabels, bars: &[Bar], units: Units) -> Picture {
    let mut shapes = Shapes::default();
    let most = bars.iter().map(|bar| bar.chunks).max().unwrap_or(0);
    shapes.add_text("quiet", HorizontalPosition::START, 14, subject.label);
    shapes.add_text(
        "quiet",
        HorizontalPosition::at_percent(BAR_START),
        14,
        "chunks",
    );
    shapes.add_text("quiet end", HorizontalPosition::END, 14, "compressed");
    for (nth, bar) in bars.iter().enumerate() {
        let top = ROW_HEIGHT * (nth as u32 + 1);
        let width = BAR_ROOM * percent_of(bar.chunks, most) / 100.0;
        shapes.add_text("", HorizontalPosition::START, top + 14, &bar.label);
        let tip = format!(
            "{}: {} chunks, {}",
            bar.label,
            bar.chunks,
            units.format_bytes(bar.bytes)
        );
        shapes.add_bar(
            "alone",
            HorizontalPosition::at_percent(BAR_START),
            width,
            top + 2,
            16,
            &tip,
        );
        shapes.add_text(
            "quiet",
            HorizontalPosition::at_percent(BAR_START + width).plus_pixels(4),
            top + 14,
            &short_count(bar.chunks),
        );
        shapes.add_text(
            "end",
            HorizontalPosition::END,
            top + 14,
            &units.format_bytes(bar.bytes),
        );
    }
    let height = ROW_HEIGHT * (bars.len() as u32 + 1);
    Picture {
        id: subject.id.to_owned(),
        title: subject.title.to_owned(),
        description: describe_bars(bars),
        height,
        shapes,
    }
}

fn describe_bars(bars: &[Bar]) -> String {
    let chunks: u64 = bars
        .iter()
        .fold(0, |sum, bar| sum.saturating_add(bar.chunks));
    match bars.iter().max_by_key(|bar| bar.chunks) {
        Some(bar) if bar.chunks > 0 => format!(
            "{chunks} chunks; most of them, {}, at {}.",
            bar.chunks, bar.label
        ),
        _ => "There are no chunks.".to_owned(),
    }
}

/// A count in a few letters: the table has it whole.
fn short_count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{} k", count / 1000),
        _ => format!("{} M", count / 1_000_000),
    }
}
