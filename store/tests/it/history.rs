//! History of a store that stopped in the middle of its work: random operations to do, and the
//! states that it may show afterwards.
//!
//! Shared by the tests that kill a process and those that take its power.

use super::content::Choices;
use super::drive;
use super::world::{Expected, Operation, World, apply_step};

/// Length of a chunk, in bytes.
pub(crate) const GRID: u64 = 4096;

/// States that the store may show if `operation` was under way: without it, and after each of its
/// commits.
pub(crate) fn states(world: &World, operation: &Operation) -> Vec<World> {
    let mut states = vec![world.clone()];
    if let Operation::Live { image, steps } = operation {
        let mut now = world.clone();
        for step in steps {
            apply_step(
                now.images
                    .get_mut(image)
                    .expect("operations name what is there"),
                step,
            );
            states.push(now.clone());
        }
    } else {
        let mut after = world.clone();
        after.apply(operation);
        states.push(after);
    }
    states
}

/// True if both have the same names and bytes.
pub(crate) fn is_same(a: &World, b: &World) -> bool {
    a.nodes()
        .map(|(name, bytes)| (name, bytes.as_slice()))
        .eq(b.nodes().map(|(name, bytes)| (name, bytes.as_slice())))
}

/// Unflushed writes to a live disk may be there chunk by chunk; everything else must be as in one
/// state.
pub(crate) fn is_mixture(states: &[World], seen: &World, operation: &Operation) -> bool {
    let Operation::Live { image, .. } = operation else {
        return false;
    };
    states.iter().any(|state| {
        let mut mixed = state.clone();
        let Some(bytes) = seen.images.get(image).map(|image| image.bytes.to_vec()) else {
            return false;
        };
        let allowed = bytes.chunks(GRID as usize).enumerate().all(|(nth, chunk)| {
            states.iter().any(|other| {
                other.images[image].bytes.chunks(GRID as usize).nth(nth) == Some(chunk)
            })
        });
        mixed.adopt(image, bytes);
        allowed && is_same(&mixed, seen)
    })
}

/// Its name, without what it is done to.
pub(crate) fn kind_of(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// The next operation: of all kinds, but heavy on those that take long enough to be hit.
pub(crate) fn pick(world: &mut World, choices: &mut fastrand::Rng) -> Operation {
    loop {
        let operation = match choices.below(12) {
            0 => {
                return Operation::Collect {
                    dry_run: false,
                    is_deep: choices.chance(1, 2),
                };
            }
            2 => pick_commit(world, choices),
            _ => world.pick(choices),
        };
        let is_suitable = match &operation {
            Operation::Reopen
            | Operation::Crash
            | Operation::Check { .. }
            | Operation::Export { .. }
            | Operation::Pin { .. } => false,
            // The model knows the effect of these, or their refusal, only within bounds.
            Operation::Rebase {
                keep_content: false,
                ..
            } => false,
            _ => world.expected(&operation) == Expected::Done,
        };
        if is_suitable {
            return drive::flushed(operation);
        }
    }
}

/// A commit that the model knows will be done, or the child that makes one possible.
fn pick_commit(world: &mut World, choices: &mut fastrand::Rng) -> Operation {
    let commits = world.images.keys().map(|image| Operation::Commit {
        image: image.clone(),
    });
    let done: Vec<Operation> = commits
        .filter(|commit| world.expected(commit) == Expected::Done)
        .collect();
    if done.is_empty() && !world.images.is_empty() {
        world.pick_child(choices)
    } else {
        done.into_iter()
            .next()
            .unwrap_or_else(|| world.pick(choices))
    }
}
