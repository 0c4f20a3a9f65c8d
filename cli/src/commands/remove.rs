//! `vellum rm`: images and snapshots go; what stands on them stays.

use std::io;

use serde::Serialize;
use vellum_core::tree::{NodeForest, NodeRef, Tree};
use vellum_store::Store;

use super::report;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;

/// Delete images and snapshots, wherever they stand
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum rm web@monday old-test
  vellum rm -n web --with-snapshots
  vellum rm -n web@monday..@friday

IMAGE@FIRST..@LAST is all snapshots from one to the other, those two included. What a preview \
frees is counted by reading all maps. What stands on a deleted image or snapshot stays as it is. \
`vellum gc` gives the space back.")]
pub(crate) struct Args {
    /// What is to go
    #[arg(value_name = "IMAGE[@SNAPSHOT[..@LAST]]", required = true)]
    nodes: Vec<String>,
    /// An image's snapshots too
    #[arg(long)]
    with_snapshots: bool,
    /// Only say what would go, what would stay, and how much `vellum gc` would give back
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The effects of a removal.
pub(super) struct RemovalPlan {
    pub(super) gone: Vec<NodeRef>,
    /// Their children, which stay.
    pub(super) kept: Vec<NodeRef>,
}

#[derive(Serialize)]
struct RemovalSummary {
    action: &'static str,
    dry_run: bool,
    deleted: Vec<String>,
    /// Their children, which stay.
    kept: Vec<String>,
    /// Of a dry run: the bytes on disk that a collection would then give back, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_bytes: Option<u64>,
}

pub(super) fn run_remove(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    remove_nodes(session, &args.nodes, args.with_snapshots, args.dry_run)
}

/// Deletes what `texts` mean. All are looked up before the first goes.
pub(super) fn remove_nodes(
    session: &mut CommandContext,
    texts: &[String],
    with_snapshots: bool,
    dry_run: bool,
) -> Result<Outcome, CommandFailure> {
    let store = if dry_run {
        session.open_to_read()?
    } else {
        session.open_to_write()?
    };
    let nodes = removal_targets(&store, texts)?;
    let plan = preview_removal(&store.tree(), &nodes, with_snapshots)?;
    let mut removed = RemovalSummary {
        action: "delete",
        dry_run,
        deleted: node_names(&store.tree(), &plan.gone),
        kept: node_names(&store.tree(), &plan.kept),
        freed_bytes: None,
    };
    if dry_run {
        removed.freed_bytes = report::freed_by(&store, &plan.gone, session)?;
    } else {
        nodes
            .iter()
            .try_for_each(|node| delete_node(&store, *node, with_snapshots))?;
    }
    session.output.print_confirmation(&removed)?;
    Ok(Outcome::Done)
}

/// The nodes that `texts` name, each once, snapshots before images. A scratch image goes with its
/// base, so it is not named beside it.
pub(super) fn removal_targets(
    store: &Store,
    texts: &[String],
) -> Result<Vec<NodeRef>, CommandFailure> {
    let mut nodes = Vec::new();
    for text in texts {
        nodes.extend(crate::lookup::nodes_in_range(store, text)?);
    }
    nodes.sort_unstable_by_key(|node| (matches!(node, NodeRef::Image(_)), *node));
    nodes.dedup();
    let tree = store.tree();
    let base = |node: NodeRef| {
        tree.image(node.image_id())
            .and_then(|image| image.scratch_of)
            .map(NodeRef::Image)
    };
    let scratches: Vec<NodeRef> = nodes
        .iter()
        .copied()
        .filter(|node| base(*node).is_some_and(|base| nodes.contains(&base)))
        .collect();
    nodes.retain(|node| !scratches.contains(node));
    Ok(nodes)
}

/// The nodes that go and those that stay, or the reason why they cannot go.
pub(super) fn preview_removal(
    tree: &Tree,
    nodes: &[NodeRef],
    with_snapshots: bool,
) -> Result<RemovalPlan, CommandFailure> {
    let mut gone = Vec::new();
    for node in nodes {
        match *node {
            NodeRef::Snapshot(image, serial) => drop(tree.plan_delete_snapshot(image, serial)?),
            NodeRef::Image(image) => {
                let snapshots: Vec<NodeRef> = tree
                    .snapshots_of(image)
                    .map(|snapshot| NodeRef::Snapshot(image, snapshot.serial))
                    .collect();
                // Those that are named as well will be gone by then.
                let all_named =
                    with_snapshots || snapshots.iter().all(|snapshot| nodes.contains(snapshot));
                drop(tree.plan_delete_image(image, all_named)?);
                gone.extend(snapshots.into_iter().filter(|_| with_snapshots));
                gone.extend(
                    tree.scratches_of(image)
                        .map(|scratch| NodeRef::Image(scratch.id)),
                );
            }
        }
        gone.push(*node);
    }
    gone.sort_unstable();
    gone.dedup();
    let kept = standing_on(tree, &gone);
    Ok(RemovalPlan { gone, kept })
}

fn node_names(tree: &Tree, nodes: &[NodeRef]) -> Vec<String> {
    nodes.iter().map(|node| tree.display_name(*node)).collect()
}

/// What stands on `gone` and is not among it.
fn standing_on(tree: &Tree, gone: &[NodeRef]) -> Vec<NodeRef> {
    let forest = NodeForest::from_tree(tree);
    let above = gone
        .iter()
        .filter_map(|node| forest.find_node(*node))
        .flat_map(|plant| forest.nodes_above(plant));
    let mut kept: Vec<NodeRef> = above.filter(|node| !gone.contains(node)).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

fn delete_node(store: &Store, node: NodeRef, with_snapshots: bool) -> Result<(), CommandFailure> {
    match node {
        NodeRef::Snapshot(image, serial) => Ok(store.delete_snapshot(image, serial)?),
        NodeRef::Image(image) => Ok(store.delete_image(image, with_snapshots)?),
    }
}

impl Render for RemovalSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (goes, stays) = if self.dry_run {
            ("would delete", "would stay as it is")
        } else {
            ("deleted", "stays as it is")
        };
        self.deleted
            .iter()
            .try_for_each(|name| page.write_line(format!("{goes} {name}")))?;
        self.kept
            .iter()
            .try_for_each(|name| page.write_line(format!("{name} {stays}")))?;
        if let Some(freed) = self.freed_bytes {
            let freed = page.format_size(freed);
            page.write_line(format!("vellum gc would then give back {freed}"))?;
        }
        if self.dry_run {
            Ok(())
        } else {
            page.write_line("next: vellum gc gives the space back")
        }
    }
}
