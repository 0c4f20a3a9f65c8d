//! Chooses the rows of a picture when there are more than anyone looks at: the weightiest, and
//! between them the number of those that are left out.

/// A row of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// One thing, by its place in the list.
    One(usize),
    /// Several in a row that are not shown one by one: half-open places.
    Folded(usize, usize),
}

/// The rows for as many things as `weights` has, of which at most `shown_max` are shown. The order
/// stays.
pub(super) fn rows<W: Ord>(weights: &[W], shown_max: usize) -> Vec<Row> {
    let mut heaviest: Vec<usize> = (0..weights.len()).collect();
    heaviest.sort_by(|a, b| weights[*b].cmp(&weights[*a]).then(a.cmp(b)));
    heaviest.truncate(shown_max);
    heaviest.sort_unstable();
    let mut rows = Vec::new();
    let mut next = 0;
    for shown in heaviest {
        rows.extend(fold(next, shown));
        rows.push(Row::One(shown));
        next = shown + 1;
    }
    rows.extend(fold(next, weights.len()));
    rows
}

/// A single thing takes no more room than the word that it is not shown.
fn fold(start: usize, end: usize) -> Option<Row> {
    match end - start {
        0 => None,
        1 => Some(Row::One(start)),
        _ => Some(Row::Folded(start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_are_shown_in_their_order_and_nothing_is_lost() {
        assert_eq!(rows::<u64>(&[], 3), []);
        assert_eq!(rows(&[1, 2, 3], 3), [Row::One(0), Row::One(1), Row::One(2)]);
        assert_eq!(
            rows(&[9, 1, 1, 8, 1, 1, 1], 2),
            [
                Row::One(0),
                Row::Folded(1, 3),
                Row::One(3),
                Row::Folded(4, 7)
            ]
        );
        assert_eq!(rows(&[1, 9, 1], 1), [Row::One(0), Row::One(1), Row::One(2)]);
        assert_eq!(rows(&[5, 5, 5], 0), [Row::Folded(0, 3)]);
    }
}
