//! The pictures of each part of a report.

use vellum_store::report::{AttributionRow, HistogramBucket, Holder, NodeUsage, SpaceReport};

use super::{ReportPart, holders, labels};
use crate::output::Units;
use crate::picture::attribution::{AttributionSlice, HolderKind};
use crate::picture::histogram::{Bar, HistogramLabels};
use crate::picture::{Picture, attribution, changes, growth, histogram, overlap, tree};

/// Images whose changes are drawn: those that changed most.
const STRIPS_MAX: usize = 12;

const REFERENCES: HistogramLabels = HistogramLabels {
    id: "references",
    title: "Chunks by how often they are used",
    label: "used",
};
const COMPRESSIBILITY: HistogramLabels = HistogramLabels {
    id: "compressibility",
    title: "Chunks by what compression leaves",
    label: "left",
};

/// The pictures of `part`, if there is anything to draw.
pub(crate) fn of_part(report: &SpaceReport, part: ReportPart, units: Units) -> Vec<Picture> {
    match part {
        ReportPart::Nodes if !report.nodes.is_empty() => {
            let lines = 0..report.outline.len();
            vec![tree::draw_node_tree(report, lines, units)]
        }
        ReportPart::Attribution if !report.attribution.is_empty() => {
            vec![attribution::draw_attribution(
                &attribution_slices(report),
                units,
            )]
        }
        ReportPart::Overlap if report.overlap.images.len() > 1 => {
            vec![overlap::draw_overlap(&report.overlap, units)]
        }
        ReportPart::Histograms => draw_histograms(report, units),
        ReportPart::Growth if !report.growth.is_empty() => {
            vec![growth::draw_growth(&report.growth, units)]
        }
        ReportPart::Changes => draw_strips(report, units),
        _ => Vec::new(),
    }
}

fn draw_histograms(report: &SpaceReport, units: Units) -> Vec<Picture> {
    let references = (
        REFERENCES,
        histogram_bars(&report.references, labels::reference_label),
    );
    let compressibility = (
        COMPRESSIBILITY,
        histogram_bars(&report.compressibility, labels::compression_label),
    );
    let drawn = [references, compressibility]
        .into_iter()
        .filter(|(_, bars)| !bars.is_empty());
    drawn
        .map(|(subject, bars)| histogram::draw_histogram(subject, &bars, units))
        .collect()
}

fn attribution_slices(report: &SpaceReport) -> Vec<AttributionSlice> {
    let slice = |row: &AttributionRow| AttributionSlice {
        kind: holder_kind(&row.holder, &report.nodes),
        owner: holders::holder_label(&row.holder, &report.nodes),
        bytes: row.bytes,
    };
    report.attribution.iter().map(slice).collect()
}

fn holder_kind(holder: &Holder, nodes: &[NodeUsage]) -> HolderKind {
    match holder {
        Holder::Exclusive(_) => HolderKind::Alone,
        Holder::Shared(ranges) if is_one_line(ranges, nodes) => HolderKind::Lineage,
        Holder::Shared(ranges) if is_one_image(ranges, nodes) => HolderKind::Siblings,
        Holder::Shared(_) | Holder::OtherSets { .. } => HolderKind::Others,
        Holder::Unreferenced => HolderKind::Unreferenced,
        Holder::Overhead(_) => HolderKind::Overhead,
    }
}

/// True if of these nodes, which are in depth-first order, each stands on the one before.
fn is_one_line(ranges: &[(usize, usize)], nodes: &[NodeUsage]) -> bool {
    let members: Vec<usize> = ranges
        .iter()
        .flat_map(|(start, end)| *start..*end)
        .collect();
    members.windows(2).all(|pair| {
        let mut below = pair[1];
        // What stands on a node comes after it, so this ends.
        while below > pair[0] {
            let parent = nodes.get(below).and_then(|node| node.parent);
            match parent.filter(|parent| *parent < below) {
                Some(parent) => below = parent,
                None => return false,
            }
        }
        below == pair[0]
    })
}

fn is_one_image(ranges: &[(usize, usize)], nodes: &[NodeUsage]) -> bool {
    let members = ranges.iter().flat_map(|(start, end)| *start..*end);
    let mut images = members.map(|node| {
        let name = nodes.get(node).map_or("", |node| node.name.as_str());
        name.split('@').next().unwrap_or_default()
    });
    let first = images.next();
    images.all(|image| Some(image) == first)
}

fn histogram_bars(buckets: &[HistogramBucket], label: fn(&HistogramBucket) -> String) -> Vec<Bar> {
    buckets
        .iter()
        .map(|bucket| Bar {
            label: label(bucket),
            chunks: bucket.chunks,
            bytes: bucket.bytes,
        })
        .collect()
}

fn draw_strips(report: &SpaceReport, units: Units) -> Vec<Picture> {
    let changed = |strip: &vellum_store::report::ChangeStrip| {
        strip
            .steps
            .iter()
            .flat_map(|step| &step.cells)
            .fold(0_u64, |sum, cell| sum.saturating_add(*cell))
    };
    let mut strips: Vec<_> = report
        .changes
        .iter()
        .filter(|strip| changed(strip) > 0)
        .collect();
    strips.sort_by_key(|strip| std::cmp::Reverse(changed(strip)));
    strips.truncate(STRIPS_MAX);
    strips
        .into_iter()
        .enumerate()
        .map(|(nth, strip)| changes::draw_changes(strip, nth, units))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// Every picture of every kind of report.
    fn pictures() -> Vec<(&'static str, Picture)> {
        let reports = [
            ("hostile", sample::hostile_report()),
            ("large", sample::large_report(10_000)),
            ("empty", SpaceReport::default()),
        ];
        let of_report = |(name, report): (&'static str, SpaceReport)| {
            ReportPart::ALL
                .into_iter()
                .flat_map(|part| of_part(&report, part, Units::Iec))
                .map(|picture| (name, picture))
                .collect::<Vec<_>>()
        };
        reports.into_iter().flat_map(of_report).collect()
    }

    /// Across, what a shape takes of a width of `width` pixels: from and to. Text is not measured.
    fn extent(element: roxmltree::Node, width: f64) -> Option<(f64, f64)> {
        let number = |name: &str| element.attribute(name).unwrap_or("0");
        let pixels = |text: &str| match text.strip_suffix('%') {
            Some(percent) => percent
                .parse::<f64>()
                .map(|percent| width * percent / 100.0),
            None => text.parse::<f64>(),
        };
        let shift = element.attribute("transform").map_or("0", |shift| {
            shift
                .trim_start_matches("translate(")
                .trim_end_matches(" 0)")
        });
        let start = pixels(number("x")).ok()? + shift.parse::<f64>().ok()?;
        Some((start, start + pixels(number("width")).ok()?))
    }

    #[test]
    fn a_picture_is_well_formed_and_stays_within_its_frame() {
        for (name, picture) in pictures() {
            let file = picture.standalone_svg();
            let document = roxmltree::Document::parse(&file)
                .unwrap_or_else(|error| panic!("{name}, {}: {error}", picture.title()));
            let height: f64 = document
                .root_element()
                .attribute("height")
                .and_then(|height| height.parse().ok())
                .expect("a height");
            assert!(
                height < 6000.0,
                "{name}, {}: {height} pixels",
                picture.title()
            );
            for element in document
                .descendants()
                .filter(|element| ["rect", "text"].contains(&element.tag_name().name()))
            {
                for width in [326.0, 358.0, 700.0] {
                    let (start, end) = extent(element, width).expect("a place");
                    assert!(
                        start >= -0.5 && end <= width + 1.0,
                        "{name}, {}: {start} to {end} of {width}",
                        picture.title()
                    );
                }
                let bottom: f64 = ["y", "height"]
                    .into_iter()
                    .filter_map(|key| element.attribute(key)?.parse::<f64>().ok())
                    .sum();
                assert!(
                    bottom <= height,
                    "{name}, {}: {bottom} of {height}",
                    picture.title()
                );
            }
        }
    }

    #[test]
    fn every_part_that_has_a_picture_draws_it() {
        let report = sample::hostile_report();
        let drawn: Vec<ReportPart> = ReportPart::ALL
            .into_iter()
            .filter(|part| !of_part(&report, *part, Units::Iec).is_empty())
            .collect();
        assert_eq!(
            drawn,
            [
                ReportPart::Nodes,
                ReportPart::Attribution,
                ReportPart::Overlap,
                ReportPart::Histograms,
                ReportPart::Growth,
                ReportPart::Changes
            ]
        );
    }

    /// The folder of pictures as somebody last approved them.
    fn golden() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/golden")
    }

    fn usual() -> Vec<Picture> {
        let report = sample::usual_report();
        ReportPart::ALL
            .into_iter()
            .flat_map(|part| of_part(&report, part, Units::Iec).into_iter().take(2))
            .collect()
    }

    #[test]
    fn pictures_are_as_they_were_looked_at() {
        for picture in usual() {
            let path = golden().join(format!("{}.svg", picture.id()));
            let known = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(
                known == picture.inline_svg(),
                "{} is drawn differently: look at it, then run write_golden_pictures",
                path.display()
            );
        }
    }

    /// Writes the pictures drawn now as the right ones; not a test.
    #[test]
    #[ignore = "writes golden files"]
    fn write_golden_pictures() {
        std::fs::create_dir_all(golden()).expect("a folder");
        for picture in usual() {
            std::fs::write(
                golden().join(format!("{}.svg", picture.id())),
                picture.inline_svg(),
            )
            .expect("room");
        }
    }
}
