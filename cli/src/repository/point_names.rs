//! Names of a repository's points, for a shell that completes a word: quickly, without a question,
//! and silent whatever is wrong.

use std::collections::BTreeMap;

use vellum_backup::repository::{Repository, Rollback};
use vellum_backup::seal::Opener;

use super::{address, client_folders, impatient_objects, password};
use crate::invocation::Invocation;

/// The images of the repository at `place`, each with the names of its snapshots there. Nothing of
/// one that is reached over a network, or whose password a person would have to type.
pub(crate) fn images_with_snapshots(
    place: &str,
    caller: &Invocation,
) -> Option<Vec<(String, Vec<String>)>> {
    if place.contains("://") {
        return None;
    }
    let found = Repository::find(impatient_objects(place, caller).ok()?).ok()?;
    let opener = password::noted_password(password::VARIABLES, caller).map(Opener::Password);
    let repository = found
        .open(opener.as_ref(), client_folders(caller), Rollback::Refused)
        .ok()?;
    let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for point in address::sort_points(&repository.state()) {
        let snapshots = images.entry(point.name.clone()).or_default();
        let snapshot = point
            .snapshot
            .as_ref()
            .map(|snapshot| snapshot.name.clone());
        if let Some(new) = snapshot.filter(|name| !snapshots.contains(name)) {
            snapshots.push(new);
        }
    }
    Some(images.into_iter().collect())
}
