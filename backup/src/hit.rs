//! Finds the points that damage affects; runs only once there is some.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::PageEntry;

use crate::catalog::Place;
use crate::contents::{parent_of, read_part};
use crate::error::BackupError;
use crate::format::address;
use crate::journal::State;
use crate::reader::Reader;
use crate::record::{Content, MapPart};

/// The error with the points that need the damaged ones of these frames. Cost: reading each frame
/// alone, and every map of the source.
pub(crate) fn by_frames(source: &Reader<'_>, group: &[Place], error: BackupError) -> BackupError {
    let bad = |place: &&Place| {
        matches!(
            source.frames(std::slice::from_ref(*place)),
            Err(BackupError::Damaged { .. })
        )
    };
    let chunks = |error: &BackupError| {
        let mut lost = IdSet::new();
        if matches!(error, BackupError::Damaged { .. }) {
            for place in group.iter().filter(bad) {
                let first = address(place.segment, place.first);
                place
                    .presence
                    .offsets()
                    .for_each(|at| lost.insert(first.advance_by(at.into())));
            }
        }
        lost
    };
    let lost = chunks(&error);
    let needs = |content: &Content, part: &MapPart| {
        let pages =
            read_part(source.repository(), source.catalog(), content, part).unwrap_or_default();
        pages
            .iter()
            .flat_map(|(_, page)| page.runs())
            .any(|run| match run.slot {
                PageEntry::Chunk(first) => {
                    (0..run.len).any(|at| lost.contains(first.advance_by(at.into())))
                }
                PageEntry::Zero | PageEntry::Absent => false,
            })
    };
    if lost.is_empty() {
        error
    } else {
        with_points(source, error, needs)
    }
}

/// The error with the points that need the map that it names, if it is one of the source.
pub(crate) fn by_map(source: &Reader<'_>, error: BackupError) -> BackupError {
    match &error {
        BackupError::Damaged { object, points, .. }
            if points.is_empty() && object.starts_with("maps/") =>
        {
            let object = object.clone();
            with_points(source, error, |_, part| object.starts_with(&part.object))
        }
        _ => error,
    }
}

fn with_points(
    source: &Reader<'_>,
    error: BackupError,
    needs: impl Fn(&Content, &MapPart) -> bool,
) -> BackupError {
    let BackupError::Damaged { object, reason, .. } = error else {
        return error;
    };
    let state = source.repository().state();
    let is_hit = |content: &Content| content.parts.iter().any(|part| needs(content, part));
    let entries = state
        .contents()
        .filter_map(|(id, entries)| Some((id, entries.first()?)));
    let hit: BTreeSet<ContentId> = entries
        .filter(|(_, entry)| is_hit(&entry.content))
        .map(|(id, _)| id)
        .collect();
    BackupError::Damaged {
        object,
        reason,
        points: built_on(&state, &hit),
    }
}

/// The ids of points whose content is one of `hit`, or relative to one.
fn built_on(state: &State, hit: &BTreeSet<ContentId>) -> Vec<String> {
    let mut known = BTreeMap::<ContentId, bool>::new();
    let mut stands_on = |content: ContentId| {
        let (mut path, mut next, mut seen, mut is_hit) =
            (Vec::new(), Some(content), HashSet::new(), false);
        while let Some(id) = next.filter(|id| seen.insert(*id)) {
            if let Some(found) = known
                .get(&id)
                .copied()
                .or_else(|| hit.contains(&id).then_some(true))
            {
                is_hit = found;
                break;
            }
            path.push(id);
            next = state
                .content(id)
                .and_then(|entry| parent_of(&entry.content));
        }
        known.extend(path.into_iter().map(|id| (id, is_hit)));
        is_hit
    };
    let points = state
        .points()
        .filter(|point| ContentId::parse(&point.content).is_some_and(&mut stands_on));
    points.map(|point| point.id.clone()).collect()
}
