//! `vellum rm`: images and snapshots go; what stands on them stays.

use std::io;

use serde::Serialize;
use vellum_core::tree::{Node, Tree};
use vellum_store::Store;

use crate::failure::{Failure, Outcome};
use crate::forest::Forest;
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;

/// Delete images and snapshots, wherever they stand
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum rm web@monday old-test
  vellum rm -n web --with-snapshots

What stands on a deleted image or snapshot stays as it is. `vellum gc` gives the space back.")]
pub(crate) struct Args {
    /// What is to go
    #[arg(value_name = "IMAGE[@SNAPSHOT]", required = true)]
    nodes: Vec<String>,
    /// An image's snapshots too
    #[arg(long)]
    with_snapshots: bool,
    /// Only say what would go and what would stay
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The effects of a removal.
pub(super) struct Plan {
    pub(super) gone: Vec<Node>,
    /// Their children, which stay.
    pub(super) kept: Vec<Node>,
}

#[derive(Serialize)]
struct Removed {
    action: &'static str,
    dry_run: bool,
    deleted: Vec<String>,
    /// Their children, which stay.
    kept: Vec<String>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    remove(session, &args.nodes, args.with_snapshots, args.dry_run)
}

/// Deletes what `texts` mean. All are looked up before the first goes.
pub(super) fn remove(
    session: &mut Session,
    texts: &[String],
    with_snapshots: bool,
    dry_run: bool,
) -> Result<Outcome, Failure> {
    let store = if dry_run {
        session.open_to_read()?
    } else {
        session.open_to_write()?
    };
    let nodes = targets(&store, texts)?;
    let removed = {
        let tree = store.tree();
        let plan = preview(&tree, &nodes, with_snapshots)?;
        Removed {
            action: "delete",
            dry_run,
            deleted: names(&tree, &plan.gone),
            kept: names(&tree, &plan.kept),
        }
    };
    if !dry_run {
        nodes
            .iter()
            .try_for_each(|node| delete(&store, *node, with_snapshots))?;
    }
    session.output.confirm(&removed)?;
    Ok(Outcome::Done)
}

/// The nodes that `texts` name, each once, snapshots before images. A scratch image goes with its
/// base, so it is not named beside it.
pub(super) fn targets(store: &Store, texts: &[String]) -> Result<Vec<Node>, Failure> {
    let mut nodes: Vec<Node> = texts
        .iter()
        .map(|text| store.find_whole(text))
        .collect::<Result<_, _>>()?;
    nodes.sort_unstable_by_key(|node| (matches!(node, Node::Image(_)), *node));
    nodes.dedup();
    let tree = store.tree();
    let base = |node: Node| {
        tree.image(node.image())
            .and_then(|image| image.scratch_of)
            .map(Node::Image)
    };
    let scratches: Vec<Node> = nodes
        .iter()
        .copied()
        .filter(|node| base(*node).is_some_and(|base| nodes.contains(&base)))
        .collect();
    nodes.retain(|node| !scratches.contains(node));
    Ok(nodes)
}

/// The nodes that go and those that stay, or the reason why they cannot go.
pub(super) fn preview(tree: &Tree, nodes: &[Node], with_snapshots: bool) -> Result<Plan, Failure> {
    let mut gone = Vec::new();
    for node in nodes {
        match *node {
            Node::Snapshot(image, serial) => drop(tree.plan_delete_snapshot(image, serial)?),
            Node::Image(image) => {
                let snapshots: Vec<Node> = tree
                    .snapshots(image)
                    .map(|snapshot| Node::Snapshot(image, snapshot.serial))
                    .collect();
                // Those that are named as well will be gone by then.
                let all_named =
                    with_snapshots || snapshots.iter().all(|snapshot| nodes.contains(snapshot));
                drop(tree.plan_delete_image(image, all_named)?);
                gone.extend(snapshots.into_iter().filter(|_| with_snapshots));
                gone.extend(
                    tree.scratches_of(image)
                        .map(|scratch| Node::Image(scratch.id)),
                );
            }
        }
        gone.push(*node);
    }
    gone.sort_unstable();
    gone.dedup();
    let kept = standing_on(tree, &gone);
    Ok(Plan { gone, kept })
}

fn names(tree: &Tree, nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| tree.display(*node)).collect()
}

/// The direct children of `gone` that are not among it.
fn standing_on(tree: &Tree, gone: &[Node]) -> Vec<Node> {
    let forest = Forest::of(tree);
    let above = gone
        .iter()
        .filter_map(|node| forest.find(*node))
        .flat_map(|plant| &plant.children);
    let mut kept: Vec<Node> = above
        .filter_map(|child| forest.plants[*child].node)
        .filter(|node| !gone.contains(node))
        .collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

fn delete(store: &Store, node: Node, with_snapshots: bool) -> Result<(), Failure> {
    match node {
        Node::Snapshot(image, serial) => Ok(store.delete_snapshot(image, serial)?),
        Node::Image(image) => Ok(store.delete_image(image, with_snapshots)?),
    }
}

impl Answer for Removed {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (goes, stays) = if self.dry_run {
            ("would delete", "would stay as it is")
        } else {
            ("deleted", "stays as it is")
        };
        self.deleted
            .iter()
            .try_for_each(|name| page.line(format!("{goes} {name}")))?;
        self.kept
            .iter()
            .try_for_each(|name| page.line(format!("{name} {stays}")))?;
        if self.dry_run {
            Ok(())
        } else {
            page.line("next: vellum gc gives the space back")
        }
    }
}
