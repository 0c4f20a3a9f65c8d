//! A picture of what images have in common: for each pair, the share of the image in the row that
//! the other one holds too.

use vellum_store::report::Overlap;

use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

/// Images that are drawn: with more, a phone's cells would be smaller than a finger sees.
const SHOWN_MAX: usize = 16;
/// The greatest number of images with figures: with more, a phone's cells have no room for them.
const FIGURES_MAX: usize = 7;
/// The greatest number of images with a number in every column: with more, every second column has
/// one.
const NUMBERS_MAX: usize = 9;
const CELL_HEIGHT: u32 = 26;
/// The place where cells begin, in percent of the width.
const CELLS_START: f64 = 38.0;
const NAME_COLUMNS: usize = 16;

/// The picture of `overlap`.
pub(crate) fn draw_overlap(overlap: &Overlap, units: Units) -> Picture {
    let count = overlap.images.len();
    let mut largest: Vec<usize> = (0..count).collect();
    largest.sort_by_key(|image| std::cmp::Reverse(shared_bytes(overlap, *image, *image)));
    largest.truncate(SHOWN_MAX);
    largest.sort_unstable();
    let mut shapes = Shapes::default();
    let width = (100.0 - CELLS_START) / largest.len().max(1) as f64;
    // Two figures side by side have no room in a phone's cells.
    for nth in (0..largest.len()).step_by(if largest.len() > NUMBERS_MAX { 2 } else { 1 }) {
        let middle = CELLS_START + width * (nth as f64 + 0.5);
        shapes.add_text(
            "tiny middle",
            HorizontalPosition::at_percent(middle),
            12,
            &(nth + 1).to_string(),
        );
    }
    for (nth, row) in largest.iter().enumerate() {
        show_row(&mut shapes, overlap, &largest, (nth, *row), width, units);
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
    (nth, row): (usize, usize),
    width: f64,
    units: Units,
) {
    let top = 20 + CELL_HEIGHT * nth as u32;
    shapes.add_text(
        "tiny",
        HorizontalPosition::START,
        top + 17,
        &(nth + 1).to_string(),
    );
    shapes.add_name(
        "quiet",
        HorizontalPosition::at_pixels(16),
        top + 17,
        NAME_COLUMNS,
        &overlap.images[row],
    );
    let whole = shared_bytes(overlap, row, row);
    for (at, column) in images.iter().enumerate() {
        let both = shared_bytes(overlap, row, *column);
        let percent = percent_of(both, whole).min(100.0);
        let start = CELLS_START + width * at as f64;
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
        if images.len() <= FIGURES_MAX {
            let class = if level > 3 {
                "on-dark middle"
            } else {
                "on-light middle"
            };
            shapes.add_text(
                class,
                HorizontalPosition::at_percent(start + width / 2.0),
                top + 16,
                &format!("{percent:.0}"),
            );
        }
    }
}
