//! Tests of the forest and its drawing: what people were shown wrongly once, and random trees in
//! which things are deleted.

use std::collections::BTreeMap;

use super::*;
use crate::outline::OutlineRow;
use crate::units::{ChunkLen, PageIndex};

/// A line of a drawing by what it is: layer, image in whose block it is, and name. A shared base
/// has none, and stands in the place of a deleted snapshot of the same layer.
type Place = (LayerId, Option<ImageId>, Option<NodeRef>);

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn apply(tree: &mut Tree, plan: impl FnOnce(&mut Tree) -> Result<NodePlan, PlanError>) -> NodeRef {
    let planned = plan(tree).expect("a possible wish");
    tree.apply_edits(&planned.edits);
    planned.node
}

fn create(tree: &mut Tree, image: &str) -> NodeRef {
    apply(tree, |tree| tree.plan_create(&name(image), 1 << 20, 0))
}

fn take(tree: &mut Tree, image: NodeRef, snapshot: &str) -> NodeRef {
    apply(tree, |tree| {
        tree.plan_snapshot(image.image_id(), &name(snapshot), 0)
    })
}

fn child(tree: &mut Tree, image: &str, parent: NodeRef) -> NodeRef {
    apply(tree, |tree| tree.plan_child(&name(image), parent, None, 0))
}

fn delete(tree: &mut Tree, node: NodeRef) {
    let edits = match node {
        NodeRef::Image(image) => tree.plan_delete_image(image, true),
        NodeRef::Snapshot(image, serial) => tree.plan_delete_snapshot(image, serial),
    };
    tree.apply_edits(&edits.expect("not pinned"));
}

/// The lines, each with a step for every line that it hangs from, and what it stands on if the
/// drawing does not say so.
fn drawn(tree: &Tree) -> Vec<String> {
    let forest = NodeForest::from_tree(tree);
    let title = |place: usize| {
        if let Some(node) = forest.plants[place].node {
            return tree.display_name(node);
        }
        let images = forest.plants[place].sharers.iter();
        let names = images.map(|image| tree.display_name(NodeRef::Image(*image)));
        format!("({})", names.collect::<Vec<_>>().join(" "))
    };
    let rows = forest.outline(tree);
    let shown = |row: &OutlineRow| {
        let below = forest.plants[row.item]
            .parent
            .map_or_else(String::new, title);
        let note = if row.stands_elsewhere {
            format!(" on {below}")
        } else {
            String::new()
        };
        format!("{}{}{note}", ". ".repeat(row.depth), title(row.item))
    };
    rows.iter().map(shown).collect()
}

/// Writes something to an image, so that its next snapshot gets a layer of its own.
fn write(tree: &mut Tree, image: NodeRef) {
    let mut layer = Layer::clone(tree.layer_of(image).expect("it is there"));
    layer.pages.insert(PageIndex(layer.id.0));
    tree.apply_edits(&[TreeEdit::PutLayer(layer)]);
}

/// Image `web` with snapshots `a` and `b`, and image `side` on `a`.
fn grown() -> (Tree, [NodeRef; 4]) {
    let mut tree = Tree::new(ChunkLen::DEFAULT);
    let web = create(&mut tree, "web");
    let a = take(&mut tree, web, "a");
    let side = child(&mut tree, "side", a);
    write(&mut tree, web);
    let b = take(&mut tree, web, "b");
    (tree, [web, a, side, b])
}

#[test]
fn what_was_made_from_something_hangs_below_it() {
    let (tree, _) = grown();
    assert_eq!(drawn(&tree), ["web", ". web@a", ". . side", ". web@b"]);
}

#[test]
fn a_base_that_is_shared_stands_where_the_snapshot_stood() {
    let (mut tree, [web, a, side, b]) = grown();
    delete(&mut tree, a);
    assert_eq!(drawn(&tree), ["web", ". (web side)", ". . side", ". web@b"]);
    delete(&mut tree, b);
    assert_eq!(drawn(&tree), ["web", ". (web side)", ". . side"]);
    delete(&mut tree, side);
    assert_eq!(drawn(&tree), ["web"]);
    delete(&mut tree, web);
    assert!(drawn(&tree).is_empty());
}

#[test]
fn a_base_of_images_whose_origin_is_gone_is_in_nobodys_history() {
    let mut tree = Tree::new(ChunkLen::DEFAULT);
    let golden = create(&mut tree, "golden");
    let v1 = take(&mut tree, golden, "v1");
    let one = child(&mut tree, "one", v1);
    child(&mut tree, "two", v1);
    write(&mut tree, one);
    child(&mut tree, "three", one);
    delete(&mut tree, golden);
    let all = [
        "(one two three)",
        ". one",
        ". . (one three)",
        ". . . three",
        ". two",
    ];
    assert_eq!(drawn(&tree), all);
    delete(&mut tree, one);
    assert_eq!(drawn(&tree), ["(two three)", ". two", ". three"]);
}

#[test]
fn a_state_that_goes_on_from_an_older_snapshot_says_so() {
    let (mut tree, [web, a, ..]) = grown();
    let NodeRef::Snapshot(image, serial) = a else {
        unreachable!("it is a snapshot")
    };
    apply(&mut tree, |tree| tree.plan_restore(image, serial, None, 0));
    write(&mut tree, web);
    take(&mut tree, web, "c");
    assert_eq!(
        drawn(&tree),
        ["web", ". web@a", ". . side", ". web@b", ". web@c on web@a"]
    );
}

#[test]
fn two_names_of_one_layer_are_both_drawn() {
    let (mut tree, [web, ..]) = grown();
    take(&mut tree, web, "c");
    assert_eq!(
        drawn(&tree),
        ["web", ". web@a", ". . side", ". web@b", ". web@c"]
    );
}

/// Nothing was written to `web` since, nor to `copy`: all names are of one layer.
#[test]
fn a_copy_hangs_from_the_snapshot_that_was_the_newest_then() {
    let mut tree = Tree::new(ChunkLen::DEFAULT);
    let web = create(&mut tree, "web");
    let a = take(&mut tree, web, "a");
    let copy = child(&mut tree, "copy", a);
    let b = take(&mut tree, web, "b");
    let mine = take(&mut tree, copy, "mine");
    assert_eq!(
        drawn(&tree),
        ["web", ". web@a", ". . copy", ". . . copy@mine", ". web@b"]
    );
    for node in [b, a] {
        delete(&mut tree, node);
    }
    let all = ["web", ". (web copy)", ". . copy", ". . . copy@mine"];
    assert_eq!(drawn(&tree), all);
    delete(&mut tree, mine);
    assert_eq!(drawn(&tree), all[..3]);
}

#[test]
fn a_deep_tree_of_branches_needs_no_deep_stack() {
    let mut tree = Tree::new(ChunkLen::DEFAULT);
    let mut top = create(&mut tree, "0");
    for nth in 1..2000 {
        write(&mut tree, top);
        let base = take(&mut tree, top, "s");
        top = child(&mut tree, &nth.to_string(), base);
    }
    let forest = NodeForest::from_tree(&tree);
    let rows = forest.outline(&tree);
    assert_eq!(rows.len(), 2 * 2000 - 1);
    assert_eq!(rows.last().map(|row| row.depth), Some(2 * 1999));
}

/// A random change; what is deleted is returned.
fn change(tree: &mut Tree, random: &mut fastrand::Rng, nth: usize) -> Option<NodeRef> {
    let nodes: Vec<NodeRef> = tree.all_nodes().collect();
    let Some(node) = random.choice(&nodes).copied() else {
        create(tree, &format!("image{nth}"));
        return None;
    };
    match (random.u8(..9), node) {
        (0, _) => _ = create(tree, &format!("image{nth}")),
        (1 | 2, _) => _ = take(tree, NodeRef::Image(node.image_id()), &format!("s{nth}")),
        (3 | 4, _) => {
            // Of copies to which nobody wrote, layers do not tell which was made from which.
            let copy = child(tree, &format!("image{nth}"), node);
            write(tree, copy);
        }
        (5, NodeRef::Snapshot(image, serial)) => {
            apply(tree, |tree| tree.plan_restore(image, serial, None, 0));
        }
        (6, NodeRef::Image(_)) => write(tree, node),
        _ if nodes.len() > 20 => {
            delete(tree, node);
            return Some(node);
        }
        _ => {}
    }
    None
}

/// Each line, and after it the lines that it hangs from.
fn places(tree: &Tree) -> Vec<(Option<NodeRef>, Vec<Place>)> {
    let forest = NodeForest::from_tree(tree);
    let rows = forest.outline(tree);
    let place = |row: &OutlineRow| {
        let plant = &forest.plants[row.item];
        let is_image = matches!(plant.node, Some(NodeRef::Image(_)));
        // The layer of an image may become another; the image is the same.
        let layer = if is_image { LayerId(0) } else { plant.layer };
        (layer, plant.owner, plant.node)
    };
    let upwards = |row: &OutlineRow| {
        std::iter::successors(Some(*row), |row| row.hangs_from.map(|above| rows[above]))
            .map(|row| place(&row))
            .collect()
    };
    rows.iter()
        .map(|row| (forest.plants[row.item].node, upwards(row)))
        .collect()
}

/// The items that the drawing says something stands on, by its lines alone.
fn check_lines(forest: &NodeForest, rows: &[OutlineRow]) {
    let mut items: Vec<usize> = rows.iter().map(|row| row.item).collect();
    items.sort_unstable();
    assert_eq!(items, (0..forest.plants.len()).collect::<Vec<_>>());
    for (nth, row) in rows.iter().enumerate() {
        let plant = &forest.plants[row.item];
        assert_eq!(row.stands_on.map(|below| rows[below].item), plant.parent);
        assert_eq!(
            row.depth,
            row.hangs_from.map_or(0, |above| rows[above].depth + 1)
        );
        assert!(row.hangs_from.is_none_or(|above| above < nth));
        let is_beside = |other: &&OutlineRow| {
            other.hangs_from == row.hangs_from && forest.plants[other.item].owner == plant.owner
        };
        let is_member = |other: &&OutlineRow| {
            other.hangs_from == Some(nth) && forest.plants[other.item].owner == plant.owner
        };
        let is_image = matches!(plant.node, Some(NodeRef::Image(_)));
        let before = if is_image {
            rows.iter().rfind(is_member).map(|found| found.item)
        } else if plant.owner.is_some() {
            rows[..nth].iter().rfind(is_beside).map(|found| found.item)
        } else {
            None
        };
        let head = if is_image || plant.owner.is_none() {
            Some(row)
        } else {
            row.hangs_from.map(|above| &rows[above])
        };
        let says = before.or_else(|| head?.hangs_from.map(|above| rows[above].item));
        assert_eq!(
            row.stands_elsewhere,
            says != plant.parent,
            "{nth}: {rows:?}"
        );
    }
}

#[test]
fn a_deletion_moves_nothing_whose_line_above_stays() {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("a number"),
    );
    println!("VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut deletions = 0;
    for _ in 0..40 {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        for nth in 0..120 {
            let (before, shown) = (places(&tree), drawn(&tree));
            if change(&mut tree, &mut random, nth).is_some() {
                deletions += 1;
                let told = format!("{shown:#?} became {:#?}", drawn(&tree));
                check_places(&before, &places(&tree), &told);
            }
            let forest = NodeForest::from_tree(&tree);
            check_lines(&forest, &forest.outline(&tree));
        }
    }
    assert!(deletions > 100, "{deletions}");
}

/// Fails if something moved all of whose lines above are still there.
fn check_places(
    before: &[(Option<NodeRef>, Vec<Place>)],
    after: &[(Option<NodeRef>, Vec<Place>)],
    told: &str,
) {
    let there: BTreeSet<Place> = after.iter().map(|(_, upwards)| upwards[0]).collect();
    let now: BTreeMap<NodeRef, (usize, &Vec<Place>)> = after
        .iter()
        .enumerate()
        .filter_map(|(row, (node, upwards))| Some(((*node)?, (row, upwards))))
        .collect();
    let mut last = None;
    for (node, upwards) in before {
        let Some((row, new)) = node.and_then(|node| now.get(&node)) else {
            continue;
        };
        let stays = |place: &Place| {
            let base = (place.0, place.1, None);
            let now = [*place, base];
            now.into_iter().find(|now| there.contains(now))
        };
        let still: Option<Vec<Place>> = upwards.iter().map(stays).collect();
        if let Some(still) = still {
            assert_eq!(still, **new, "{told}");
            assert!(last < Some(*row), "{node:?}: {told}");
            last = Some(*row);
        }
    }
}
