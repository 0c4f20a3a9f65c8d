//! A picture of what images have in common: for each pair, the share of the image in the row that
//! the other one holds too.

use vellum_store::report::Overlap;

use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

/// Images that are drawn: with more, a phone's cells would have no room for their figures.
const SHOWN_MAX: usize = 12;
/// Images that leave room for long names and large figures.
const FEW_MAX: usize = 7;
const CELL_HEIGHT: u32 = 26;

/// The room for names and figures, by the number of images.
struct OverlapScale {
    /// The place where cells begin, in percent of the width.
    cells_start: f64,
    name_columns: usize,
    /// The classes of figures on light and on dark cells.
    figures: [&'static str; 2],
}

const FEW: OverlapScale = OverlapScale {
    cells_start: 38.0,
    name_columns: 16,
    figures: ["on-light middle", "on-dark middle"],
};
const MANY: OverlapScale = OverlapScale {
    cells_start: 30.0,
    name_columns: 12,
    figures: ["on-light middle dense", "on-dark middle dense"],
};

/// The picture of `overlap`.
pub(crate) fn draw_overlap(overlap: &Overlap, units: Units) -> Picture {
    let count = overlap.images.len();
    let mut largest: Vec<usize> = (0..count).collect();
    largest.sort_by_key(|image| std::cmp::Reverse(shared_bytes(overlap, *image, *image)));
    largest.truncate(SHOWN_MAX);
    largest.sort_unstable();
    let mut shapes = Shapes::default();
    let scale = if largest.len() > FEW_MAX { &MANY } else { &FEW };
    let width = (100.0 - scale.cells_start) / largest.len().max(1) as f64;
    for nth in 0..largest.len() {
        let middle = scale.cells_start + width * (nth as f64 + 0.5);
        shapes.add_text(
            "tiny middle",
            HorizontalPosition::at_percent(middle),
            12,
            &(nth + 1).to_string(),
        );
    }
    for row in 0..largest.len() {
        show_row(&mut shapes, overlap, &largest, row, scale, units);
    }
    let height = 20 + CELL_HEIGHT * largest.len() as u32;
    let description = describe_overlap(count, largest.len());
    Picture {
        id: "overlap".to_owned(),
        title: "What images have in common".to_owned(),
        description,
        height,
        shapes,
    }
}

fn describe_overlap(count: usize, shown: usize) -> String {
    let drawn = if shown < count {
        format!(" The {shown} largest of {count} images.")
    } else {
        String::new()
    };
    format!(
        "Row by row: how much of what this image holds the image of the column holds too, in \
         percent: the stronger the colour, the more.{drawn}"
    )
}

/// The bytes that both of two images hold. A matrix that is too short has nothing in common.
fn shared_bytes(overlap: &Overlap, one: usize, other: usize) -> u64 {
    overlap
        .bytes
        .get(one * overlap.images.len() + other)
        .copied()
        .unwrap_or(0)
}

fn show_row(
    shapes: &mut Shapes,
    overlap: &Overlap,
    images: &[usize],
    nth: usize,
    scale: &OverlapScale,
    units: Units,
) {
    let (row, top) = (images[nth], 20 + CELL_HEIGHT * nth as u32);
    let number = (nth + 1).to_string();
    shapes.add_text("tiny", HorizontalPosition::START, top + 17, &number);
    shapes.add_name(
        "quiet",
        HorizontalPosition::at_pixels(16),
        top + 17,
        scale.name_columns,
        &overlap.images[row],
    );
    let whole = shared_bytes(overlap, row, row);
    let width = (100.0 - scale.cells_start) / images.len() as f64;
    for (at, column) in images.iter().enumerate() {
        let both = shared_bytes(overlap, row, *column);
        let percent = percent_of(both, whole).min(100.0);
        let start = scale.cells_start + width * at as f64;
        let level = (percent / 20.0).ceil() as u32;
        let tip = format!(
            "{} and {}: {} in common",
            overlap.images[row],
            overlap.images[*column],
            units.format_bytes(both)
        );
        shapes.add_bar(
            &format!("heat-{level}"),
            HorizontalPosition::at_percent(start),
            width,
            top,
            CELL_HEIGHT - 2,
            &tip,
        );
        shapes.add_text(
            scale.figures[usize::from(level > 3)],
            HorizontalPosition::at_percent(start + width / 2.0),
            top + 16,
            &format!("{percent:.0}"),
        );
    }
}
