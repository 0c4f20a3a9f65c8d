//! The labels of bars of histograms, and of what things stand on.

use std::borrow::Cow;

use vellum_store::report::{HistogramBucket, SpaceReport};

use crate::description::{base_id, base_title};

/// Name or id of what each node, and then each base, stands on.
pub(super) fn item_parents(report: &SpaceReport) -> Vec<Option<Cow<'_, str>>> {
    let mut parents = vec![None; report.nodes.len() + report.bases.len()];
    for row in &report.outline {
        let below = row.stands_on.and_then(|below| report.outline.get(below));
        if let (Some(below), Some(parent)) = (below, parents.get_mut(row.item)) {
            *parent = item_key(report, below.item);
        }
    }
    parents
}

fn item_key(report: &SpaceReport, item: usize) -> Option<Cow<'_, str>> {
    match report.nodes.get(item) {
        Some(node) => Some(Cow::Borrowed(node.name.as_str())),
        None => report
            .bases
            .get(item - report.nodes.len())
            .map(|base| Cow::Owned(base_id(base.layer))),
    }
}

/// The name of a node or base, for people.
pub(crate) fn item_title(report: &SpaceReport, item: usize) -> String {
    let Some(node) = report.nodes.get(item) else {
        let base = report.bases.get(item - report.nodes.len());
        return base.map_or_else(String::new, |base| base_title(base.shared_by.iter()));
    };
    node.name.clone()
}

/// The number of uses of a chunk: `1`, `2–3`, `64 or more`.
pub(super) fn reference_label(bucket: &HistogramBucket) -> String {
    match bucket.to {
        Some(to) if to <= bucket.from.saturating_add(1) => bucket.from.to_string(),
        Some(to) => format!("{}–{}", bucket.from, to - 1),
        None => format!("{} or more", bucket.from),
    }
}

/// The share that compression leaves: `20–30 %`.
pub(super) fn compression_label(bucket: &HistogramBucket) -> String {
    let percent = |tenths: u64| tenths.saturating_mul(10);
    match bucket.to {
        Some(to) => format!("{}–{} %", percent(bucket.from), percent(to)),
        None => format!("{} % or more", percent(bucket.from)),
    }
}
