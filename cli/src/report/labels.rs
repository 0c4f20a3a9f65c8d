//! The labels of the bars of histograms.

use vellum_store::report::HistogramBucket;

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
