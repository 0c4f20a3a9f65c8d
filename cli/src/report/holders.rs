//! The holders of chunks, in words short enough for a cell.

use vellum_store::report::{Holder, NodeUsage};

/// Names that a cell tells.
const NAMES_MAX: usize = 3;

/// The kind of a holder, as programs read it.
pub(super) fn holder_key(holder: &Holder) -> &'static str {
    match holder {
        Holder::Exclusive(_) => "exclusive",
        Holder::Shared(_) => "shared",
        Holder::OtherSets { .. } => "other-sets",
        Holder::Unreferenced => "unreferenced",
        Holder::Overhead(_) => "overhead",
    }
}

/// The number of holders, where that is one number.
pub(super) fn holder_count(holder: &Holder) -> Option<u64> {
    match holder {
        Holder::Exclusive(_) => Some(1),
        Holder::Shared(ranges) => Some(
            ranges
                .iter()
                .map(|(start, end)| end.saturating_sub(*start) as u64)
                .sum(),
        ),
        Holder::Unreferenced => Some(0),
        Holder::OtherSets { .. } | Holder::Overhead(_) => None,
    }
}

/// The first names of those who hold it, at most `names_max`.
pub(super) fn holder_names<'a>(
    holder: &Holder,
    nodes: &'a [NodeUsage],
    names_max: usize,
) -> Vec<&'a str> {
    let ranges = match holder {
        Holder::Exclusive(node) => vec![(*node, node + 1)],
        Holder::Shared(ranges) => ranges.clone(),
        _ => Vec::new(),
    };
    let held = ranges
        .into_iter()
        .flat_map(|(start, end)| nodes.get(start..end.min(nodes.len())).unwrap_or_default());
    held.take(names_max)
        .map(|node| node.name.as_str())
        .collect()
}

/// The names of the holders, for people.
pub(super) fn holder_label(holder: &Holder, nodes: &[NodeUsage]) -> String {
    match holder {
        Holder::Exclusive(node) => format!("{} alone", node_name(nodes, *node)),
        Holder::Shared(_) => shared_label(holder, nodes),
        Holder::OtherSets { holders_min, sets } => other_sets(*holders_min, *sets),
        Holder::Unreferenced => "nobody".to_owned(),
        Holder::Overhead(what) => (*what).to_owned(),
    }
}

fn node_name(nodes: &[NodeUsage], node: usize) -> &str {
    nodes.get(node).map_or("?", |node| node.name.as_str())
}

fn shared_label(holder: &Holder, nodes: &[NodeUsage]) -> String {
    let names = holder_names(holder, nodes, NAMES_MAX);
    let rest = holder_count(holder)
        .unwrap_or(0)
        .saturating_sub(names.len() as u64);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    format!("{}{more}", names.join(", "))
}

/// `sets` sets of from `holders_min` to less than twice as many holders.
fn other_sets(holders_min: u64, sets: u64) -> String {
    let last = holders_min.saturating_mul(2).saturating_sub(1);
    let of = if last <= holders_min {
        holders_min.to_string()
    } else {
        format!("{holders_min} to {last}")
    };
    if sets == 1 {
        format!("another set of {of}")
    } else {
        format!("{sets} other sets of {of}")
    }
}
