//! A picture of where an image changes: a strip for each step from one of its states to the next,
//! from the disk's beginning to its end.

use vellum_store::report::{ChangeStep, ChangeStrip};

use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::Units;

/// Steps that are drawn: the newest, about a screen.
const STEPS_MAX: usize = 24;
/// Cells across: on a phone each is a few pixels wide.
const CELLS_MAX: usize = 96;
const STEP_HEIGHT: u32 = 38;
const NAME_COLUMNS: usize = 36;
/// Degrees of change, from nothing to all.
const LEVELS: f64 = 5.0;

/// The picture of `strip`, the `nth` on its page.
pub(crate) fn draw_changes(strip: &ChangeStrip, nth: usize, units: Units) -> Picture {
    let mut shapes = Shapes::default();
    let newest = &strip.steps[strip.steps.len().saturating_sub(STEPS_MAX)..];
    for (row, step) in newest.iter().enumerate() {
        show_step(&mut shapes, strip, step, STEP_HEIGHT * row as u32, units);
    }
    let mut height = STEP_HEIGHT * newest.len() as u32;
    let cells = strip
        .steps
        .iter()
        .map(|step| step.cells.len())
        .max()
        .unwrap_or(0);
    shapes.add_text("quiet", HorizontalPosition::START, height + 12, "0");
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        height + 12,
        &units.format_bytes(strip.cell_len.saturating_mul(cells as u64)),
    );
    height += 20;
    let description = describe_changes(strip, newest.len(), units);
    Picture {
        id: format!("changes-{nth}"),
        title: format!("Where {} changes", strip.image),
        description,
        height,
        shapes,
    }
}

fn describe_changes(strip: &ChangeStrip, shown: usize, units: Units) -> String {
    let changed = strip
        .steps
        .iter()
        .map(changed_bytes)
        .fold(0_u64, u64::saturating_add);
    let steps = strip.steps.len();
    let drawn = if shown < steps {
        format!(" The newest {shown} are drawn.")
    } else {
        String::new()
    };
    format!(
        "{} changed in {}; the stronger the colour, the more.{drawn}",
        units.format_bytes(changed),
        super::number_of(steps, "step")
    )
}

fn changed_bytes(step: &ChangeStep) -> u64 {
    step.cells
        .iter()
        .fold(0, |sum, cell| sum.saturating_add(*cell))
}

fn show_step(shapes: &mut Shapes, strip: &ChangeStrip, step: &ChangeStep, top: u32, units: Units) {
    shapes.add_name(
        "quiet",
        HorizontalPosition::START,
        top + 12,
        NAME_COLUMNS,
        &format!("to {}", step.to),
    );
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        top + 12,
        &units.format_bytes(changed_bytes(step)),
    );
    shapes.add_bar("heat-0", HorizontalPosition::START, 100.0, top + 17, 14, "");
    let levels = change_levels(strip, step);
    let width = 100.0 / levels.len().max(1) as f64;
    let mut start = 0;
    for run in levels.chunk_by(|a, b| a == b) {
        if run[0] > 0 {
            let class = format!("heat-{}", run[0]);
            shapes.add_bar(
                &class,
                HorizontalPosition::at_percent(width * start as f64),
                width * run.len() as f64,
                top + 17,
                14,
                "",
            );
        }
        start += run.len();
    }
}

/// The amount of change of each of at most [`CELLS_MAX`] cells: from 0 for nothing to 5.
fn change_levels(strip: &ChangeStrip, step: &ChangeStep) -> Vec<u32> {
    let merged = step.cells.len().div_ceil(CELLS_MAX).max(1);
    let level = |cells: &[u64]| {
        let changed = cells
            .iter()
            .fold(0_u64, |sum, cell| sum.saturating_add(*cell));
        let share = percent_of(changed, strip.cell_len.saturating_mul(cells.len() as u64))
            .min(100.0)
            / 100.0;
        // The root makes little changes visible: most changes are little.
        (LEVELS * share.sqrt()).ceil() as u32
    };
    step.cells.chunks(merged).map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_shows_and_all_of_it_is_darkest() {
        let strip = ChangeStrip {
            image: "web".to_owned(),
            cell_len: 1 << 20,
            steps: Vec::new(),
        };
        let step = |cells: Vec<u64>| ChangeStep {
            from: String::new(),
            to: String::new(),
            cells,
        };
        assert_eq!(
            change_levels(&strip, &step(vec![0, 1, 1 << 20, u64::MAX])),
            [0, 1, 5, 5]
        );
        assert_eq!(change_levels(&strip, &step(Vec::new())), [0; 0]);
        assert!(change_levels(&strip, &step(vec![1; 10_000])).len() <= CELLS_MAX);
    }
}
