//! Advice on a store's space: what takes the most of it, and the command that says more or gives it
//! back. It follows from a report's figures alone.

use vellum_store::report::{NodeUsage, SpaceReport};

use crate::output::escape::shell_word;
use crate::output::page::format_count;

/// Snapshots that are named at once: more, and nobody reads on.
const NAMED_MAX: usize = 3;
/// The share of all, in percent, from which something is worth a word.
const WORTH_PERCENT: u64 = 1;

/// A finding and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpaceAdvice {
    /// Names it for the page's reader and its tests.
    pub(crate) key: &'static str,
    /// The finding, up to its figure.
    pub(crate) finding: String,
    /// The bytes that it is about, if it is about bytes.
    pub(crate) bytes: Option<u64>,
    /// The bytes of which these are a share.
    pub(crate) whole: u64,
    /// The rest of the sentence, behind the figure.
    pub(crate) ending: &'static str,
    /// The images or snapshots that it is about, each with its bytes.
    pub(crate) parts: Vec<(String, u64)>,
    /// A line for a shell.
    pub(crate) command: String,
    /// The effect of that line; backticks mark commands.
    pub(crate) effect: &'static str,
}

/// Everything that is worth a word about `report`, the most useful first. `is_protected` tells the
/// snapshots that cannot be deleted.
pub(crate) fn space_advice(
    report: &SpaceReport,
    is_protected: &dyn Fn(&str) -> bool,
) -> Vec<SpaceAdvice> {
    let found = [
        dead_advice(report),
        snapshots_advice(report, is_protected),
        droppable_advice(report),
        retention_advice(report),
        target_advice(report),
    ];
    found.into_iter().flatten().collect()
}

/// True if `bytes` are enough of `whole` to be told as something to do.
pub(super) fn is_worth(bytes: u64, whole: u64) -> bool {
    bytes > 0 && bytes >= whole / 100 * WORTH_PERCENT
}

fn dead_advice(report: &SpaceReport) -> Option<SpaceAdvice> {
    let (dead, on_disk) = (report.totals.dead, report.totals.on_disk);
    is_worth(dead, on_disk).then(|| SpaceAdvice {
        key: "dead",
        finding: "Nothing needs".to_owned(),
        bytes: Some(dead),
        whole: on_disk,
        ending: "of the store any more",
        parts: Vec::new(),
        command: "vellum gc".to_owned(),
        effect: "gives that back",
    })
}

/// The snapshots that hold most alone: deleting them gives back that much at least.
fn snapshots_advice(
    report: &SpaceReport,
    is_protected: &dyn Fn(&str) -> bool,
) -> Option<SpaceAdvice> {
    let on_disk = report.totals.on_disk;
    let is_candidate = |node: &&NodeUsage| node.is_snapshot && is_worth(node.exclusive, on_disk);
    let mut snapshots: Vec<&NodeUsage> = report.nodes.iter().filter(is_candidate).collect();
    snapshots.sort_by_key(|node| std::cmp::Reverse(node.exclusive));
    let free = snapshots
        .into_iter()
        .filter(|node| !is_protected(&node.name));
    let chosen: Vec<&NodeUsage> = free.take(NAMED_MAX).collect();
    let finding = match chosen.len() {
        0 => return None,
        1 => "This snapshot holds".to_owned(),
        2 => "These two snapshots hold".to_owned(),
        _ => "These three snapshots hold".to_owned(),
    };
    let words = chosen.iter().map(|node| shell_word(&node.name));
    Some(SpaceAdvice {
        key: "snapshots",
        finding,
        bytes: Some(
            chosen
                .iter()
                .fold(0, |sum, node| sum.saturating_add(node.exclusive)),
        ),
        whole: on_disk,
        ending: "of the store alone",
        parts: chosen
            .iter()
            .map(|node| (node.name.clone(), node.exclusive))
            .collect(),
        command: format!("vellum rm -n {}", words.collect::<Vec<_>>().join(" ")),
        effect: "tells what deleting them frees and what stays; without `-n` they go, and \
                 `vellum gc` gives the space back",
    })
}

fn droppable_advice(report: &SpaceReport) -> Option<SpaceAdvice> {
    let held = report
        .droppable
        .iter()
        .fold(0_u64, |sum, found| sum.saturating_add(found.held));
    let unique = report.totals.unique;
    let mut most: Vec<_> = report
        .droppable
        .iter()
        .filter(|found| found.held > 0)
        .collect();
    most.sort_by_key(|found| std::cmp::Reverse(found.held));
    let named = most.into_iter().take(NAMED_MAX);
    is_worth(held, unique).then(|| SpaceAdvice {
        key: "droppable",
        finding: "Guests have freed".to_owned(),
        bytes: Some(held),
        whole: unique,
        ending: "of what is stored, before compression",
        parts: named
            .map(|found| (found.image.clone(), found.held))
            .collect(),
        command: "fstrim --all".to_owned(),
        effect: "in the guest, while it runs from the store, lets go of it",
    })
}

fn retention_advice(report: &SpaceReport) -> Option<SpaceAdvice> {
    let (count, on_disk) = (report.totals.snapshots, report.totals.on_disk);
    let snapshots = report.nodes.iter().filter(|node| node.is_snapshot);
    // Each by itself: together they hold more.
    let alone = snapshots.fold(0_u64, |sum, node| sum.saturating_add(node.exclusive));
    let bytes = is_worth(alone, on_disk).then_some(alone);
    let snapshots = format_count(count, "snapshot");
    (count > 1).then(|| SpaceAdvice {
        key: "retention",
        finding: match bytes {
            Some(_) => format!("The {snapshots}, each by itself, hold"),
            None => format!("There are {snapshots}"),
        },
        bytes,
        whole: on_disk,
        ending: "of the store alone",
        parts: Vec::new(),
        command: "vellum report --keep-daily 7 --keep-weekly 4".to_owned(),
        effect: "tells which of them such rules would keep, and what the others would free",
    })
}

fn target_advice(report: &SpaceReport) -> Option<SpaceAdvice> {
    (!report.nodes.is_empty()).then(|| SpaceAdvice {
        key: "target",
        finding: "A given amount must come free".to_owned(),
        bytes: None,
        whole: 0,
        ending: "",
        parts: Vec::new(),
        command: format!(
            "vellum report --target {}",
            example_target(report.totals.on_disk)
        ),
        effect: "tells which deletions free that at the least loss",
    })
}

/// About a tenth of `on_disk`, as a person would write it.
fn example_target(on_disk: u64) -> String {
    let mib = (on_disk / 10) >> 20;
    if mib < 1024 {
        format!("{}M", mib.max(1))
    } else {
        format!("{}G", mib / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn keys(report: &SpaceReport) -> Vec<&'static str> {
        let advice = space_advice(report, &|_| false);
        advice.iter().map(|advice| advice.key).collect()
    }

    #[test]
    fn what_is_protected_is_not_proposed_and_hostile_names_are_words() {
        let report = sample::hostile_report();
        let all = space_advice(&report, &|_| false);
        let chosen = |all: &[SpaceAdvice]| {
            all.iter()
                .find(|advice| advice.key == "snapshots")
                .map(|advice| (advice.parts.clone(), advice.command.clone()))
        };
        let (parts, command) = chosen(&all).expect("its snapshots hold much");
        assert_eq!(parts.len(), NAMED_MAX);
        for (name, _) in &parts {
            assert!(command.contains(&shell_word(name)), "{command}");
        }
        let protected = parts[0].0.clone();
        let without = space_advice(&report, &|name| name == protected);
        let (rest, command) = chosen(&without).expect("others hold much, too");
        assert_eq!(rest[..2], parts[1..], "the next takes its place");
        assert!(!command.contains(&shell_word(&protected)), "{command}");
        assert_eq!(chosen(&space_advice(&report, &|_| true)), None);
    }

    #[test]
    fn an_example_fits_its_store() {
        for (on_disk, target) in [
            (0, "1M"),
            (245 << 20, "24M"),
            (10 << 30, "1G"),
            (1 << 40, "102G"),
        ] {
            assert_eq!(example_target(on_disk), target);
        }
    }

    #[test]
    fn what_is_not_worth_a_word_gets_none() {
        assert_eq!(keys(&SpaceReport::default()), [""; 0]);
        let mut report = sample::usual_report();
        assert_eq!(
            keys(&report),
            ["dead", "snapshots", "droppable", "retention", "target"]
        );
        report.totals.dead = report.totals.on_disk / 200;
        report.droppable.clear();
        report
            .nodes
            .iter_mut()
            .for_each(|node| node.exclusive = report.totals.on_disk / 200);
        assert_eq!(keys(&report), ["retention", "target"]);
    }
}
