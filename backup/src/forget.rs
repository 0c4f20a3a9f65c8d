//! Forgets points: those that a person names, or those that retention rules do not keep. Their data
//! stays until a collection.
//!
//! Each point is forgotten by itself: a child whose parent is forgotten still restores as before,
//! since the data that it needs stays. The journal remembers what was forgotten, so that the next
//! push of a store that still has it does not bring it back ([`State::is_withheld`]).
//!
//! **Rules count snapshots.** The states that an image had when it was pushed are counted by
//! themselves, as if they were of another image, and so are the points of each host: stores that
//! were copied have images of one identity. So no push takes the place of a snapshot, and an
//! image of which nobody takes snapshots keeps as many states. Of both, the order in which the
//! image had them decides which is the newest, and no clock ([`State::points_oldest_first`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vellum_core::name::Name;
use vellum_core::retention::{
    KeepReason, RetentionCandidate, RetentionRules, RetentionVerdict, apply_in_order,
};

use crate::error::BackupError;
use crate::journal::State;
use crate::objects::ObjectErrorKind;
use crate::prune::{PruneOptions, end_dead_sessions, outlook};
use crate::record::{Point, Record, Said};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};

/// The points to forget.
#[derive(Clone, Debug)]
pub enum ForgetWish {
    /// These points, by id. Pinned ones are refused.
    Points(Vec<String>),
    /// The points that the rules do not keep, for the snapshots of each image by themselves, and
    /// for the states that it was pushed in, and each host; of all images, or of those with these
    /// identities.
    Rules {
        /// The rules of retention.
        rules: RetentionRules,
        /// Images; none for all.
        images: Option<BTreeSet<String>>,
        /// The host whose points are meant; none for all.
        host: Option<String>,
        /// The local clock's offset from UTC in seconds at a time in milliseconds since 1970: its
        /// reading minus UTC.
        offset_s: Clock,
    },
}

/// A local clock: its offset from UTC, in seconds, at a time in milliseconds since 1970.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn(u64) -> i32 + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock(…)")
    }
}

/// The decision about a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The point.
    pub point: Arc<Point>,
    /// The reasons to keep it; without one it goes.
    pub reasons: Vec<KeepReason>,
}

impl Decision {
    /// True if the point goes.
    #[must_use]
    pub fn goes(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Decides `wish` for the points of a repository: decisions grouped by image, the oldest first.
pub fn plan(state: &State, wish: &ForgetWish) -> Result<Vec<Decision>, BackupError> {
    match wish {
        ForgetWish::Points(ids) => by_id(state, ids),
        ForgetWish::Rules {
            rules,
            images,
            host,
            offset_s,
        } => {
            let is_wanted = |point: &Point| {
                let of_image = |images: &BTreeSet<String>| images.contains(&point.image);
                images.as_ref().is_none_or(of_image) && (host.is_none() || point.host == *host)
            };
            Ok(by_rules(state, rules, &is_wanted, &*offset_s.0))
        }
    }
}

/// Forgets what `wish` means now. If there is nothing to forget, that is no error, and no record is
/// written.
pub fn forget(
    repository: &Repository,
    wish: &ForgetWish,
    writer: Writer,
) -> Result<Vec<Decision>, BackupError> {
    let mut session = Session::begin(repository, SessionKind::Forget, writer.clone())?;
    let decisions = plan(session.state(), wish)?;
    let forgotten: Vec<Said> = decisions
        .iter()
        .filter(|decision| decision.goes())
        .flat_map(|decision| session.state().point_as_said(&decision.point.id))
        .collect();
    if !forgotten.is_empty() {
        session.commit_in_parts(Record {
            forgotten,
            ..Record::default()
        })?;
    }
    session.end()?;
    // It is forgotten, whatever becomes of what others left.
    drop(end_dead_sessions(repository, &writer));
    Ok(decisions)
}

/// The bytes of packs that a collection right after `decisions` would free. None if the repository
/// lost something: then it is not collected, and points can be forgotten nevertheless. Cost: reads
/// index and maps.
pub fn freed_len(
    repository: &Repository,
    decisions: &[Decision],
) -> Result<Option<u64>, BackupError> {
    let goes = decisions
        .iter()
        .filter(|decision| decision.goes())
        .map(|decision| decision.point.id.clone());
    match outlook(repository, &goes.collect(), &PruneOptions::default()) {
        Ok(report) => Ok(Some(report.freed_len)),
        Err(BackupError::Damaged { .. }) => Ok(None),
        Err(BackupError::Objects { source, .. }) if source.kind == ObjectErrorKind::Missing => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn by_id(state: &State, ids: &[String]) -> Result<Vec<Decision>, BackupError> {
    let decision = |id: &String| {
        let point = state
            .point(id)
            .ok_or_else(|| BackupError::Parameter(format!("there is no point {id}")))?;
        if point.pinned {
            return Err(BackupError::Parameter(format!(
                "{} ({id}) is pinned: it is not forgotten",
                point.name
            )));
        }
        Ok(Decision {
            point: point.clone(),
            reasons: Vec::new(),
        })
    };
    ids.iter().map(decision).collect()
}

fn by_rules(
    state: &State,
    rules: &RetentionRules,
    is_wanted: &dyn Fn(&Point) -> bool,
    offset_s: &dyn Fn(u64) -> i32,
) -> Vec<Decision> {
    let mut groups = BTreeMap::<_, Vec<&Arc<Point>>>::new();
    let wanted = |point: &&Arc<Point>| is_wanted(point);
    let points = state.points_oldest_first();
    for point in points.iter().copied().filter(wanted) {
        let group = (&point.image, &point.host, point.snapshot.is_some());
        groups.entry(group).or_default().push(point);
    }
    let mut reasons = BTreeMap::<&str, Vec<KeepReason>>::new();
    for points in groups.values() {
        let verdicts = judged(rules, points, offset_s).into_iter();
        let ids = points.iter().map(|point| point.id.as_str());
        reasons.extend(ids.zip(verdicts.map(|verdict| verdict.reasons)));
    }
    let mut decided: Vec<&Arc<Point>> = points.into_iter().filter(wanted).collect();
    decided.sort_by(|a, b| (&a.image, &a.host).cmp(&(&b.image, &b.host)));
    decided
        .into_iter()
        .map(|point| Decision {
            point: point.clone(),
            reasons: reasons.remove(point.id.as_str()).unwrap_or_default(),
        })
        .collect()
}

/// The verdicts on points, which are given in the order in which the image had them.
fn judged(
    rules: &RetentionRules,
    points: &[&Arc<Point>],
    offset_s: &dyn Fn(u64) -> i32,
) -> Vec<RetentionVerdict> {
    let tags: Vec<BTreeSet<Name>> = points
        .iter()
        .map(|point| {
            point
                .tags
                .iter()
                .filter_map(|tag| Name::new(tag).ok())
                .collect()
        })
        .collect();
    let candidate = |(point, tags)| {
        let point: &&Arc<Point> = point;
        RetentionCandidate {
            taken_ms: point.time_ms,
            offset_s: offset_s(point.time_ms),
            tags,
            pinned: point.pinned,
        }
    };
    let candidates: Vec<RetentionCandidate<'_>> = points.iter().zip(&tags).map(candidate).collect();
    apply_in_order(rules, &candidates)
}
