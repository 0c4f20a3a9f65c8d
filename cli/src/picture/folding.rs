//! Chooses the rows of a picture when there are more than anyone looks at: the weightiest, and
//! between them the number of those that are left out.

/// A row of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FoldedRow {
    /// One thing, by its place in the list.
    One(usize),
    /// Several in a row that are not shown one by one: half-open places.
    Folded(usize, usize),
}

/// The rows for as many things as `weights` has, of which at most `shown_max` are shown. The order
/// stays.
pub(super) fn folded_rows<W: Ord>(weights: &[W], shown_max: usize) -> Vec<FoldedRow> {
    let mut heaviest: Vec<usize> = (0..weights.len()).collect();
    heaviest.sort_by(|a, b| weights[*b].cmp(&weights[*a]).then(a.cmp(b)));
    heaviest.truncate(shown_max);
    heaviest.sort_unstable();
    let mut rows = Vec::new();
    let mut next = 0;
    for shown in heaviest {
        rows.extend(fold_range(next, shown));
        rows.push(FoldedRow::One(shown));
        next = shown + 1;
    }
    rows.extend(fold_range(next, weights.len()));
    rows
}

/// A single thing takes no more room than the word that it is not shown.
fn fold_range(start: usize, end: usize) -> Option<FoldedRow> {
    match end - start {
        0 => None,
        1 => Some(FoldedRow::One(start)),
        _ => Some(FoldedRow::Folded(start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_are_shown_in_their_order_and_nothing_is_lost() {
        assert_eq!(folded_rows::<u64>(&[], 3), []);
        assert_eq!(
            folded_rows(&[1, 2, 3], 3),
            [FoldedRow::One(0), FoldedRow::One(1), FoldedRow::One(2)]
        );
        assert_eq!(
            folded_rows(&[9, 1, 1, 8, 1, 1, 1], 2),
            [
                FoldedRow::One(0),
                FoldedRow::Folded(1, 3),
                FoldedRow::One(3),
                FoldedRow::Folded(4, 7)
            ]
        );
        assert_eq!(
            folded_rows(&[1, 9, 1], 1),
            [FoldedRow::One(0), FoldedRow::One(1), FoldedRow::One(2)]
        );
        assert_eq!(folded_rows(&[5, 5, 5], 0), [FoldedRow::Folded(0, 3)]);
    }
}
