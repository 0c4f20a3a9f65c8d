//! Forgets points: those that a person names, or those that retention rules do not keep. Their data
//! stays until a collection.
//!
//! Each point is forgotten by itself: a child whose parent is forgotten still restores as before,
//! since the data that it needs stays. The journal remembers what was forgotten, so that the next
//! push of a store that still has it does not bring it back ([`State::is_withheld`]).
//!
//! Rules are given, or are the policies that the repository keeps ([`crate::policy`]).
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
use crate::policy::PolicyTable;
use crate::prune::{PruneOptions, end_dead_sessions, outlook};
use crate::record::{Point, Record, Said};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};

/// The points to forget.
#[derive(Clone, Debug)]
pub enum ForgetWish {
    /// These points, by id. Pinned ones are refused.
    Points(Vec<String>),
    /// The points that rules do not keep.
    Rules(RuleWish),
}

/// Retention by rules: the snapshots of each group by themselves, and the states that images were
/// pushed in.
#[derive(Clone, Debug, Default)]
pub struct RuleWish {
    /// The rules.
    pub rules: RuleSource,
    /// The points that are meant; all others stay, and count nowhere.
    pub filter: PointFilter,
    /// The points that are counted together.
    pub grouping: Grouping,
    /// The local clock, for hours, days and all that is longer.
    pub clock: Clock,
}

/// The rules of a [`RuleWish`].
#[derive(Clone, Debug)]
pub enum RuleSource {
    /// These, for all points.
    Given(RetentionRules),
    /// The policies that the repository keeps, at this time in milliseconds since 1970. Points
    /// without a policy stay.
    Policies {
        /// The present.
        now_ms: u64,
    },
}

impl Default for RuleSource {
    fn default() -> Self {
        Self::Given(RetentionRules::default())
    }
}

/// A choice of points.
#[derive(Clone, Debug, Default)]
pub struct PointFilter {
    /// Images, by identity; none for all.
    pub images: Option<BTreeSet<String>>,
    /// The host; none for all.
    pub host: Option<String>,
    /// Lists of tags: points with all tags of one list are meant; without a list, all are.
    pub tags: Vec<BTreeSet<String>>,
}

/// All points by these rules, with the days of UTC.
impl From<RetentionRules> for ForgetWish {
    fn from(rules: RetentionRules) -> Self {
        Self::Rules(RuleWish {
            rules: RuleSource::Given(rules),
            ..RuleWish::default()
        })
    }
}

impl PointFilter {
    /// True if `point` is meant.
    #[must_use]
    pub fn accepts(&self, point: &Point) -> bool {
        let has_all = |list: &BTreeSet<String>| list.iter().all(|tag| point.tags.contains(tag));
        let of_image = |images: &BTreeSet<String>| images.contains(&point.image);
        self.images.as_ref().is_none_or(of_image)
            && (self.host.is_none() || point.host == self.host)
            && (self.tags.is_empty() || self.tags.iter().any(has_all))
    }
}

/// The points that rules count together: those that agree in all that is true here. Snapshots and
/// the images' own states are never counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The image, through renames.
    pub image: bool,
    /// The image's name.
    pub name: bool,
    /// The host.
    pub host: bool,
}

/// Image and host: stores that were copied have images of one identity.
impl Default for Grouping {
    fn default() -> Self {
        Self {
            image: true,
            name: false,
            host: true,
        }
    }
}

/// The points that are counted together have one of these.
type Group<'a> = (
    Option<usize>,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
    bool,
);

impl Grouping {
    /// The group of a point that obeys the policy with this number.
    fn group_of(self, point: &Point, policy: Option<usize>) -> Group<'_> {
        (
            policy,
            self.image.then_some(point.image.as_str()),
            self.name.then_some(point.name.as_str()),
            point.host.as_deref().filter(|_| self.host),
            point.snapshot.is_some(),
        )
    }
}

/// A local clock: its offset from UTC, in seconds, at a time in milliseconds since 1970.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn(u64) -> i32 + Send + Sync>);

/// The clock that shows UTC.
impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(|_| 0))
    }
}

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
        ForgetWish::Rules(wish) => by_rules(state, wish),
    }
}

/// Forgets what `wish` means now. If there is nothing to forget, that is no error, and no record is
/// written.
pub fn forget(
    repository: &Repository,
    wish: &ForgetWish,
    writer: Writer,
) -> Result<Vec<Decision>, BackupError> {
    repository.refuse_writer("forget points")?;
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

fn by_rules(state: &State, wish: &RuleWish) -> Result<Vec<Decision>, BackupError> {
    let table = match &wish.rules {
        RuleSource::Policies { now_ms } => Some(PolicyTable::of(state, *now_ms)?),
        RuleSource::Given(_) => None,
    };
    let policies_of = |point: &Point| match &table {
        Some(table) => table.of_point(point).into_iter().map(Some).collect(),
        None => vec![None],
    };
    let policy_rules: Vec<&RetentionRules> = table.iter().flat_map(PolicyTable::rules).collect();
    let rules_of = |policy: Option<usize>| match (policy, &wish.rules) {
        (None, RuleSource::Given(rules)) => rules,
        (policy, _) => policy_rules[policy.expect("without given rules there is a policy")],
    };
    let points = state.points_oldest_first().into_iter();
    let points: Vec<_> = points.filter(|point| wish.filter.accepts(point)).collect();
    let mut groups = BTreeMap::<Group<'_>, Vec<&Arc<Point>>>::new();
    let mut reasons = BTreeMap::<&str, Vec<KeepReason>>::new();
    for point in &points {
        let policies: Vec<Option<usize>> = policies_of(point);
        if policies.is_empty() {
            reasons.insert(point.id.as_str(), vec![KeepReason::NoRules]);
        }
        for policy in policies {
            let group = wish.grouping.group_of(point, policy);
            groups.entry(group).or_default().push(point);
        }
    }
    for ((policy, ..), points) in &groups {
        let verdicts = judged(rules_of(*policy), points, &*wish.clock.0);
        for (point, verdict) in points.iter().zip(verdicts) {
            let known = reasons.entry(point.id.as_str()).or_default();
            known.extend(verdict.reasons);
        }
    }
    Ok(decided(points, reasons))
}

/// The decisions on `points`, which are the oldest first, by image and host.
fn decided(
    mut points: Vec<&Arc<Point>>,
    mut reasons: BTreeMap<&str, Vec<KeepReason>>,
) -> Vec<Decision> {
    points.sort_by(|a, b| (&a.image, &a.host).cmp(&(&b.image, &b.host)));
    let decision = |point: &Arc<Point>| {
        let mut reasons = reasons.remove(point.id.as_str()).unwrap_or_default();
        // Several policies may keep it for one reason.
        let mut seen = Vec::new();
        reasons.retain(|reason| {
            let is_new = !seen.contains(reason);
            seen.push(reason.clone());
            is_new
        });
        Decision {
            point: point.clone(),
            reasons,
        }
    };
    points.into_iter().map(decision).collect()
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
