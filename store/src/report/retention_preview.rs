//! Previews the effect of retention rules on the snapshots of images, before anything is deleted.

use vellum_core::name::Name;
use vellum_core::retention::{RetentionCandidate, RetentionRules, RetentionVerdict, apply_rules};
use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::ImageId;

use crate::store::Store;

/// Verdict of rules on one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRow {
    /// The snapshot.
    pub node: NodeRef,
    /// Its name.
    pub name: String,
    /// The time when it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// The decision to keep or delete it, with the reason.
    pub verdict: RetentionVerdict,
}

impl Store {
    /// The verdicts of `rules` on the snapshots of each of `images` that have all of `tags`, one
    /// image after the other, in the order of taking. A snapshot that cannot be deleted, since it
    /// is pinned or a machine's snapshot needs it, counts as pinned. `offset_s` tells for a moment,
    /// in milliseconds since 1970, how many seconds clocks on the wall were ahead of UTC.
    #[must_use]
    pub fn preview_retention(
        &self,
        rules: &RetentionRules,
        images: &[ImageId],
        tags: &[Name],
        offset_s: &dyn Fn(u64) -> i32,
    ) -> Vec<RetentionRow> {
        let tree = self.tree();
        images
            .iter()
            .flat_map(|image| preview_rows(&tree, rules, *image, tags, offset_s))
            .collect()
    }
}

fn preview_rows(
    tree: &Tree,
    rules: &RetentionRules,
    image: ImageId,
    tags: &[Name],
    offset_s: &dyn Fn(u64) -> i32,
) -> Vec<RetentionRow> {
    let has_all = |snapshot: &&vellum_core::tree::Snapshot| {
        tags.iter().all(|tag| snapshot.marks.tags.contains(tag))
    };
    let snapshots = || tree.snapshots_of(image).filter(has_all);
    let candidate = |snapshot: &vellum_core::tree::Snapshot| {
        (
            snapshot.created_ms,
            tree.plan_delete_snapshot(image, snapshot.serial).is_err(),
        )
    };
    let facts: Vec<(u64, bool)> = snapshots().map(candidate).collect();
    let candidates: Vec<RetentionCandidate<'_>> = snapshots()
        .zip(&facts)
        .map(|(snapshot, (taken_ms, pinned))| RetentionCandidate {
            taken_ms: *taken_ms,
            offset_s: offset_s(*taken_ms),
            tags: &snapshot.marks.tags,
            pinned: *pinned,
        })
        .collect();
    let row = |(snapshot, verdict): (&vellum_core::tree::Snapshot, RetentionVerdict)| {
        let node = NodeRef::Snapshot(image, snapshot.serial);
        RetentionRow {
            node,
            name: tree.display_name(node),
            created_ms: snapshot.created_ms,
            verdict,
        }
    };
    snapshots()
        .zip(apply_rules(rules, &candidates))
        .map(row)
        .collect()
}

#[cfg(test)]
mod tests {
    use vellum_core::retention::{KeepLimit, KeepReason};

    use super::*;
    use crate::model::{name, new_store};

    #[test]
    fn each_image_keeps_its_own_and_what_cannot_go_is_told() {
        let (_dir, store) = new_store(4096);
        let images = ["a", "b"].map(|text| {
            store
                .create_image(&name(text), 4096)
                .expect("create")
                .image_id()
        });
        let machine = store.create_machine(&name("vm"), None).expect("machine");
        store.add_disk(machine, images[1]).expect("added");
        store
            .snapshot_machine(machine, &name("m"))
            .expect("machine snapshot");
        for image in images {
            for text in ["one", "two", "three"] {
                store.take_snapshot(image, &name(text)).expect("snapshot");
            }
        }
        let pinned = store.find_node("a@one").expect("there");
        store.set_pinned(pinned, true).expect("pinned");
        let rules = RetentionRules {
            last: KeepLimit::Newest(1),
            ..RetentionRules::default()
        };
        let rows = store.preview_retention(&rules, &images, &[], &|_| 0);
        let kept: Vec<(&str, bool)> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.verdict.is_kept()))
            .collect();
        let expected = [
            ("a@one", true),
            ("a@two", false),
            ("a@three", true),
            ("b@m", true),
            ("b@one", false),
            ("b@two", false),
            ("b@three", true),
        ];
        assert_eq!(kept, expected);
        assert_eq!(
            (&rows[0].verdict.reasons[..], &rows[3].verdict.reasons[..]),
            (&[KeepReason::Pinned][..], &[KeepReason::Pinned][..])
        );
    }
}
