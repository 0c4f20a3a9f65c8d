//! A picture of the store's growth: the bytes that all operations together had added and not given
//! back, at each moment from the first to the last.

use vellum_store::report::Growth;

use super::svg::{HorizontalPosition, Picture, Shapes, percent_of};
use crate::output::{Units, time};

/// Steps of the picture: on a phone each is a few pixels wide.
const STEPS: u64 = 72;
const TOP: u32 = 20;
const HEIGHT: u32 = 120;

/// The picture of `growth`, which is in the order of time.
pub(crate) fn draw_growth(growth: &[Growth], units: Units) -> Picture {
    let mut shapes = Shapes::default();
    let sums = running_sums(growth);
    let most = sums.iter().copied().max().unwrap_or(0);
    let width = 100.0 / STEPS as f64;
    shapes.add_text(
        "quiet",
        HorizontalPosition::START,
        12,
        &units.format_bytes(most),
    );
    for (nth, sum) in sums.iter().enumerate() {
        let height = (f64::from(HEIGHT) * percent_of(*sum, most) / 100.0).round() as u32;
        // A little wider, so that no gap shows between neighbours.
        shapes.add_bar(
            "alone",
            HorizontalPosition::at_percent(width * nth as f64),
            width + 0.1,
            TOP + HEIGHT - height,
            height,
            "",
        );
    }
    shapes.add_rule("link", TOP + HEIGHT);
    let (first, last) = time_ends(growth);
    shapes.add_text(
        "quiet",
        HorizontalPosition::START,
        TOP + HEIGHT + 18,
        &day_of(first),
    );
    shapes.add_text(
        "quiet end",
        HorizontalPosition::END,
        TOP + HEIGHT + 18,
        &day_of(last),
    );
    let description = format!(
        "At most {} compressed, by {} operations from {} to {}.",
        units.format_bytes(most),
        growth.len(),
        time::format_utc(first),
        time::format_utc(last)
    );
    Picture {
        id: "growth".to_owned(),
        title: "What was added and given back over time".to_owned(),
        description,
        height: TOP + HEIGHT + 26,
        shapes,
    }
}

/// The first moment and the last. What is too old to have one was there from the beginning.
fn time_ends(growth: &[Growth]) -> (u64, u64) {
    let moments = growth
        .iter()
        .map(|entry| entry.at_ms)
        .filter(|at_ms| *at_ms > 0);
    (
        moments.clone().min().unwrap_or(0),
        moments.max().unwrap_or(0),
    )
}

/// The bytes that had been added and not given back at the end of each step.
fn running_sums(growth: &[Growth]) -> Vec<u64> {
    let (first, last) = time_ends(growth);
    let span = u128::from((last - first).max(1));
    let mut changes = vec![(0_u64, 0_u64); STEPS as usize];
    for entry in growth {
        let step = u128::from(entry.at_ms.saturating_sub(first)) * u128::from(STEPS - 1) / span;
        let (added, freed) = &mut changes[step as usize];
        (*added, *freed) = (
            added.saturating_add(entry.compressed),
            freed.saturating_add(entry.freed),
        );
    }
    let grow = |sum: &mut u64, (added, freed): (u64, u64)| {
        *sum = sum.saturating_add(added).saturating_sub(freed);
        Some(*sum)
    };
    changes.into_iter().scan(0, grow).collect()
}

/// The day of a moment.
fn day_of(since_1970_ms: u64) -> String {
    time::format_utc(since_1970_ms)
        .split('T')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at_ms: u64, compressed: u64) -> Growth {
        Growth {
            at_ms,
            operation: "import".to_owned(),
            image: "web".to_owned(),
            chunks: 1,
            plain: compressed,
            compressed,
            freed: 0,
        }
    }

    #[test]
    fn all_that_was_added_is_there_in_the_end() {
        for growth in [
            vec![entry(5, 7)],
            vec![entry(0, 1), entry(7, 1), entry(u64::MAX, 2)],
            vec![entry(9, u64::MAX), entry(9, 1)],
        ] {
            let all = growth
                .iter()
                .fold(0_u64, |sum, entry| sum.saturating_add(entry.compressed));
            let sums = running_sums(&growth);
            assert_eq!(sums.last(), Some(&all));
            assert!(sums.is_sorted());
        }
        assert_eq!(running_sums(&[]), vec![0; STEPS as usize]);
    }
}
