//! A report in Prometheus' text format: totals and one line for each image, never for each
//! snapshot, of which there may be thousands.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use vellum_store::ScrubStatus;
use vellum_store::report::{NodeUsage, SpaceReport, StoreTotals};

use crate::output::escape::escape_invisible;

/// The figures of one image, its snapshots apart.
#[derive(Clone, Copy, Debug, Default)]
struct ImageFigures {
    logical: u64,
    non_zero: u64,
    exclusive: u64,
    snapshots: u64,
    snapshots_exclusive: u64,
}

/// A figure of the whole store: its name, what it means, where it is.
type TotalsFigure = (&'static str, &'static str, fn(&StoreTotals) -> u64);
type ImageFigure = (&'static str, &'static str, fn(&ImageFigures) -> u64);

const TOTALS: [TotalsFigure; 14] = [
    ("images", "Images.", |totals| totals.images),
    ("snapshots", "Snapshots.", |totals| totals.snapshots),
    ("layers", "Layers.", |totals| totals.layers),
    ("chunks", "Chunks stored.", |totals| totals.chunks),
    (
        "logical_bytes",
        "The lengths of all images and snapshots.",
        |totals| totals.logical,
    ),
    ("allocated_bytes", "What of that maps mention.", |totals| {
        totals.allocated
    }),
    ("nonzero_bytes", "What of that is not zero.", |totals| {
        totals.non_zero
    }),
    (
        "unique_bytes",
        "Stored chunks before compression.",
        |totals| totals.unique,
    ),
    (
        "compressed_bytes",
        "Stored chunks after compression.",
        |totals| totals.compressed,
    ),
    (
        "disk_bytes",
        "Everything in the folder of the store.",
        |totals| totals.on_disk,
    ),
    (
        "header_bytes",
        "Of that, which chunks are in which frame.",
        |totals| totals.headers,
    ),
    ("index_bytes", "Of that, from names to chunks.", |totals| {
        totals.index
    }),
    ("metadata_bytes", "Of that, maps and records.", |totals| {
        totals.metadata
    }),
    (
        "dead_bytes",
        "Compressed chunks that nothing shows; a collection frees about that.",
        |totals| totals.dead,
    ),
];

const OF_IMAGES: [ImageFigure; 5] = [
    ("logical_bytes", "The length of the image.", |image| {
        image.logical
    }),
    ("nonzero_bytes", "What of the image is not zero.", |image| {
        image.non_zero
    }),
    (
        "exclusive_bytes",
        "What deleting only the image frees.",
        |image| image.exclusive,
    ),
    ("snapshots", "Snapshots of the image.", |image| {
        image.snapshots
    }),
    (
        "snapshots_exclusive_bytes",
        "What each snapshot of the image holds alone, added up.",
        |image| image.snapshots_exclusive,
    ),
];

/// A figure of the scrub: none where there is none yet.
type ScrubFigure = (&'static str, &'static str, fn(&ScrubStatus) -> Option<u64>);

const OF_SCRUB: [ScrubFigure; 8] = [
    ("rounds", "Scrub rounds that were finished.", |scrub| {
        Some(scrub.rounds)
    }),
    (
        "last_round_end_timestamp_seconds",
        "When the last whole round of the scrub ended.",
        |scrub| scrub.last_ended_s,
    ),
    (
        "records_read_timestamp_seconds",
        "When all records had been read whole last.",
        |scrub| scrub.records_read_s,
    ),
    (
        "chunks_read_timestamp_seconds",
        "When all chunks had been read last.",
        |scrub| scrub.chunks_read_s,
    ),
    (
        "parity_read_timestamp_seconds",
        "When all parity had been read last.",
        |scrub| scrub.beside_read_s,
    ),
    (
        "oldest_read_timestamp_seconds",
        "When that part of the chunks was read whole that was read first.",
        |scrub| scrub.ranges.iter().map(|(_, at_s)| *at_s).min(),
    ),
    (
        "findings",
        "What the scrub found damaged in its present or last round, and could not heal.",
        |scrub| Some(scrub.findings),
    ),
    (
        "healed",
        "What the scrub healed in its present or last round.",
        |scrub| Some(scrub.healed),
    ),
];

/// The whole text.
pub(crate) fn render_prometheus(report: &SpaceReport, scrub: &ScrubStatus) -> String {
    let mut text = String::new();
    for (name, help, figure) in TOTALS {
        push_metric_head(&mut text, &format!("vellum_{name}"), help);
        let _ = writeln!(text, "vellum_{name} {}", figure(&report.totals));
    }
    let images = image_figures(&report.nodes);
    for (name, help, figure) in OF_IMAGES {
        let each = images
            .iter()
            .map(|(image, figures)| (*image, figure(figures)));
        show_images(&mut text, &format!("vellum_image_{name}"), help, each);
    }
    let held = report
        .overlap
        .images
        .iter()
        .enumerate()
        .map(|(nth, image)| (image.as_str(), diagonal_overlap(report, nth)));
    show_images(
        &mut text,
        "vellum_image_held_bytes",
        "What the image and its snapshots hold, also together with others.",
        held,
    );
    push_metric_head(
        &mut text,
        "vellum_report_uncounted",
        "Things that could not be read and are in no figure.",
    );
    let _ = writeln!(text, "vellum_report_uncounted {}", report.uncounted.len());
    push_metric_head(
        &mut text,
        "vellum_report_timestamp_seconds",
        "When the report was taken.",
    );
    let _ = writeln!(
        text,
        "vellum_report_timestamp_seconds {}.{:03}",
        report.taken_ms / 1000,
        report.taken_ms % 1000
    );
    for (name, help, figure) in OF_SCRUB {
        if let Some(figure) = figure(scrub) {
            push_metric_head(&mut text, &format!("vellum_scrub_{name}"), help);
            let _ = writeln!(text, "vellum_scrub_{name} {figure}");
        }
    }
    text
}

fn push_metric_head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn show_images<'a>(
    text: &mut String,
    name: &str,
    help: &str,
    images: impl Iterator<Item = (&'a str, u64)>,
) {
    push_metric_head(text, name, help);
    for (image, figure) in images {
        let _ = writeln!(text, "{name}{{image=\"{}\"}} {figure}", escape_label(image));
    }
}

/// A label's value. Backslashes come first, or they would escape what follows.
pub(crate) fn escape_label(value: &str) -> String {
    escape_invisible(value)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn diagonal_overlap(report: &SpaceReport, nth: usize) -> u64 {
    report
        .overlap
        .bytes
        .get(nth * (report.overlap.images.len() + 1))
        .copied()
        .unwrap_or(0)
}

fn image_figures(nodes: &[NodeUsage]) -> BTreeMap<&str, ImageFigures> {
    let mut images: BTreeMap<&str, ImageFigures> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.is_snapshot) {
        let figures = images.entry(&node.name).or_default();
        (figures.logical, figures.non_zero, figures.exclusive) =
            (node.logical, node.non_zero, node.exclusive);
    }
    for node in nodes.iter().filter(|node| node.is_snapshot) {
        let image = node
            .name
            .split_once('@')
            .map_or(node.name.as_str(), |(image, _)| image);
        let figures = images.entry(image).or_default();
        figures.snapshots += 1;
        figures.snapshots_exclusive = figures.snapshots_exclusive.saturating_add(node.exclusive);
    }
    images
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::sample;

    /// Takes a line apart as the format's rules say; the name, the label's value as its reader sees
    /// it, the figure.
    fn parsed(line: &str) -> (String, Option<String>, f64) {
        let (series, figure) = line.rsplit_once(' ').expect("a figure");
        let figure = figure.parse().expect("a number");
        let Some((name, rest)) = series.split_once('{') else {
            return (series.to_owned(), None, figure);
        };
        let value = rest
            .strip_prefix("image=\"")
            .and_then(|rest| rest.strip_suffix("\"}"))
            .expect("one label");
        let mut read = String::new();
        let mut characters = value.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some('n') => read.push('\n'),
                    Some(escaped @ ('\\' | '"')) => read.push(escaped),
                    other => panic!("{other:?} cannot be escaped in {line}"),
                },
                '"' => panic!("the label ends too early in {line}"),
                other => read.push(other),
            }
        }
        (name.to_owned(), Some(read), figure)
    }

    #[test]
    fn hostile_names_are_labels_and_every_series_is_explained_and_single() {
        let report = sample::hostile_report();
        let text = render_prometheus(&report, &ScrubStatus::default());
        let (mut explained, mut seen, mut names) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(
                    explained.insert(rest.strip_suffix(" gauge").expect("a gauge").to_owned()),
                    "{line} is there twice"
                );
            } else if !line.starts_with("# HELP ") {
                let (name, label, _) = parsed(line);
                assert!(explained.contains(&name), "{line} is not explained");
                names.extend(label.clone());
                assert!(seen.insert((name, label)), "{line} is there twice");
            }
        }
        for node in report.nodes.iter().filter(|node| !node.is_snapshot) {
            assert!(
                names.contains(&*escape_invisible(&node.name)),
                "{}",
                node.name
            );
        }
    }

    #[test]
    fn thousands_of_snapshots_are_no_thousands_of_series() {
        assert!(
            render_prometheus(&sample::large_report(10_000), &ScrubStatus::default())
                .lines()
                .count()
                < 2000
        );
    }
}
