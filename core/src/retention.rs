//! Retention: chooses which of many states of one thing to keep, by the rules that restic's users
//! know, with restic's outcomes.
//!
//! `--keep-last 3 --keep-daily 7` keeps the three newest and the newest of each of the seven newest
//! days that have any. A state that several rules keep counts for each of them (in PBS it would
//! count for the first only). While a rule has not kept as many as it may, it also keeps the oldest
//! state there is, so that a young history reaches back as far as it can. Pinned states are kept,
//! and count as if they were not pinned.
//!
//! It knows no time zone: the caller gives each time with the offset from UTC there and then.

mod calendar;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::name::Name;
use calendar::LocalTime;

/// The greatest number in a [`Span`]: a million years in milliseconds are far from overflowing
/// anything.
const SPAN_NUMBER_MAX: u32 = 999_999;

/// The rules of retention. Each rule keeps its states independently of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRules {
    /// The newest.
    pub last: KeepLimit,
    /// The newest of each of the newest hours that have any.
    pub hourly: KeepLimit,
    /// The same for days.
    pub daily: KeepLimit,
    /// The same for weeks, which begin on Monday.
    pub weekly: KeepLimit,
    /// The same for months.
    pub monthly: KeepLimit,
    /// The same for years.
    pub yearly: KeepLimit,
    /// The age rule: keeps all states of this long before the newest.
    pub within: Option<AgeRule>,
    /// The lists of tags: a state that has all tags of at least one list is kept. An empty list
    /// keeps states without tags.
    pub tags: Vec<BTreeSet<Name>>,
}

/// The number of states that a rule keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepLimit {
    /// No state: there is no such rule.
    #[default]
    Nothing,
    /// The newest states, this many; 0 is as [`KeepLimit::Nothing`].
    Newest(u32),
    /// All states.
    All,
}

/// A rule about age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeRule {
    /// The greatest age of a kept state, measured from the newest candidate.
    pub span: CalendarSpan,
    /// The present, in milliseconds since 1970: a candidate from the future is not taken for the
    /// newest.
    pub now_ms: u64,
}

/// A length of time as calendars have it, each number at most 999,999. Written as `1y5m7d2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarSpan {
    years: u32,
    months: u32,
    days: u32,
    hours: u32,
}

/// A state that may be kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionCandidate<'a> {
    /// The time when it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The local clock's reading then, minus UTC, in seconds: from it come the hour, day, week,
    /// month and year.
    pub offset_s: i32,
    /// The tags on it.
    pub tags: &'a BTreeSet<Name>,
    /// True if it is protected against deletion.
    pub pinned: bool,
}

/// The decision about a candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionVerdict {
    /// The reasons to keep it; without one it goes.
    pub reasons: Vec<KeepReason>,
}

/// A reason to keep a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepReason {
    /// There are no rules at all.
    NoRules,
    /// It is protected against deletion.
    Pinned,
    /// It has all tags of this list.
    Tags(BTreeSet<Name>),
    /// It is young enough.
    Within(CalendarSpan),
    /// It is the newest of its period.
    Newest(RetentionPeriod),
    /// It is not, but the oldest of all, and the rule has kept fewer than it may.
    Oldest(RetentionPeriod),
}

/// The unit in which a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionPeriod {
    /// Each candidate.
    Last,
    /// All candidates of an hour.
    Hour,
    /// All of a day.
    Day,
    /// All of a week.
    Week,
    /// All of a month.
    Month,
    /// All of a year.
    Year,
}

/// A text that is no limit or span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No limit.
    #[error("{0:?} is no number of states to keep: write a number, or `unlimited`")]
    Limit(String),
    /// No span.
    #[error(
        "{0:?} is no length of time: write for example `7d` or `1y5m7d2h` (years, months, days, \
         hours; each at most {SPAN_NUMBER_MAX})"
    )]
    Span(String),
}

/// Decides each of `candidates`, in their order. Of two with the same time, the later in the list
/// counts as the newer. Sorts them: n log n.
#[must_use]
pub fn apply_rules(
    rules: &RetentionRules,
    candidates: &[RetentionCandidate<'_>],
) -> Vec<RetentionVerdict> {
    let mut newest_first: Vec<usize> = (0..candidates.len()).rev().collect();
    newest_first.sort_by_key(|at| std::cmp::Reverse(candidates[*at].taken_ms));
    judged(rules, candidates, &newest_first)
}

/// The same where the order of the list is known to be the order in which they were taken, the
/// oldest first, whatever the clocks said: a false clock makes none of them the newest.
#[must_use]
pub fn apply_in_order(
    rules: &RetentionRules,
    candidates: &[RetentionCandidate<'_>],
) -> Vec<RetentionVerdict> {
    let newest_first: Vec<usize> = (0..candidates.len()).rev().collect();
    judged(rules, candidates, &newest_first)
}

fn judged(
    rules: &RetentionRules,
    candidates: &[RetentionCandidate<'_>],
    newest_first: &[usize],
) -> Vec<RetentionVerdict> {
    if rules.is_empty() {
        return candidates
            .iter()
            .map(|_| RetentionVerdict {
                reasons: vec![KeepReason::NoRules],
            })
            .collect();
    }
    let oldest_within = rules.within.map(|within| within.oldest_kept_ms(candidates));
    let mut verdicts: Vec<RetentionVerdict> = candidates
        .iter()
        .map(|candidate| rules.independent_verdict(candidate, oldest_within))
        .collect();
    for (period, limit) in rules.period_limits() {
        let slots: Vec<i64> = newest_first
            .iter()
            .zip(0..)
            .map(|(at, nth)| period.period_number(candidates[*at].local_time(), nth))
            .collect();
        for (nth, reason) in newest_per_period(period, limit, &slots) {
            verdicts[newest_first[nth]].reasons.push(reason);
        }
    }
    verdicts
}

impl RetentionRules {
    /// True if there is no rule that could keep anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.within.is_none()
            && self.tags.is_empty()
            && self
                .period_limits()
                .iter()
                .all(|(_, limit)| limit.max_count() == 0)
    }

    fn period_limits(&self) -> [(RetentionPeriod, KeepLimit); 6] {
        [
            (RetentionPeriod::Last, self.last),
            (RetentionPeriod::Hour, self.hourly),
            (RetentionPeriod::Day, self.daily),
            (RetentionPeriod::Week, self.weekly),
            (RetentionPeriod::Month, self.monthly),
            (RetentionPeriod::Year, self.yearly),
        ]
    }

    /// The part of the verdict that does not depend on the other candidates.
    fn independent_verdict(
        &self,
        candidate: &RetentionCandidate<'_>,
        oldest_within: Option<i64>,
    ) -> RetentionVerdict {
        let pinned = candidate.pinned.then_some(KeepReason::Pinned);
        let tags = self
            .tags
            .iter()
            .filter(|list| candidate.has_tags(list))
            .map(|list| KeepReason::Tags(list.clone()));
        let is_within =
            oldest_within.is_some_and(|oldest| candidate.local_time().since_1970_ms > oldest);
        let within = self
            .within
            .filter(|_| is_within)
            .map(|within| KeepReason::Within(within.span));
        RetentionVerdict {
            reasons: pinned.into_iter().chain(tags).chain(within).collect(),
        }
    }
}

/// The states that a rule keeps, by their place in `slots`, the newest first, and the reason for
/// each. Where clocks were false, a period may come twice: its newest is the first.
fn newest_per_period(
    period: RetentionPeriod,
    limit: KeepLimit,
    slots: &[i64],
) -> Vec<(usize, KeepReason)> {
    let mut kept = Vec::new();
    let mut left = limit.max_count();
    let mut seen = BTreeSet::new();
    for (nth, slot) in slots.iter().enumerate() {
        let is_newest = !seen.contains(slot);
        if left > 0 && (is_newest || nth + 1 == slots.len()) {
            kept.push((
                nth,
                if is_newest {
                    KeepReason::Newest(period)
                } else {
                    KeepReason::Oldest(period)
                },
            ));
            seen.insert(slot);
            left -= 1;
        }
    }
    kept
}

impl RetentionVerdict {
    /// True if it stays.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl RetentionCandidate<'_> {
    fn local_time(&self) -> LocalTime {
        LocalTime::new(self.taken_ms, self.offset_s)
    }

    fn has_tags(&self, list: &BTreeSet<Name>) -> bool {
        if list.is_empty() {
            self.tags.is_empty()
        } else {
            list.is_subset(self.tags)
        }
    }
}

impl KeepLimit {
    fn max_count(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Newest(count) => count.into(),
            Self::All => u64::MAX,
        }
    }
}

impl AgeRule {
    /// The time after which states are kept, in milliseconds since 1970: all of them, if all
    /// candidates are from the future.
    fn oldest_kept_ms(&self, candidates: &[RetentionCandidate<'_>]) -> i64 {
        let past = candidates
            .iter()
            .filter(|candidate| candidate.taken_ms <= self.now_ms);
        let newest = past.max_by_key(|candidate| candidate.taken_ms);
        newest.map_or(i64::MIN, |newest| {
            newest.local_time().earlier_by(&self.span)
        })
    }
}

impl RetentionPeriod {
    /// A number that two states have in common exactly if they are of one period.
    fn period_number(self, moment: LocalTime, nth: i64) -> i64 {
        match self {
            Self::Last => nth,
            Self::Hour => moment.hour_number(),
            Self::Day => moment.day_number(),
            Self::Week => moment.week_number(),
            Self::Month => moment.month_number(),
            Self::Year => moment.year_number(),
        }
    }
}

impl FromStr for KeepLimit {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "unlimited" | "-1" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::Newest)
                .map_err(|_| RuleError::Limit(text.to_owned())),
        }
    }
}

/// The text that is read back as the limit.
impl fmt::Display for KeepLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("0"),
            Self::Newest(count) => write!(f, "{count}"),
            Self::All => f.write_str("unlimited"),
        }
    }
}

impl FromStr for CalendarSpan {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Self::parse(text)
            .filter(|span| *span != Self::default())
            .ok_or_else(|| RuleError::Span(text.to_owned()))
    }
}

impl CalendarSpan {
    /// The moment that is this long before `now_ms`, in milliseconds since 1970; 0 if it is
    /// earlier. `offset_s` is the local clock's reading then, minus UTC, in seconds.
    #[must_use]
    pub fn before_ms(&self, now_ms: u64, offset_s: i32) -> u64 {
        let earlier = LocalTime::new(now_ms, offset_s).earlier_by(self);
        u64::try_from(earlier).unwrap_or(0)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut span = Self::default();
        let parts = text.split_inclusive(|character: char| !character.is_ascii_digit());
        for part in parts {
            let unit = part.chars().next_back()?;
            let number = part
                .strip_suffix(unit)?
                .parse()
                .ok()
                .filter(|number| *number <= SPAN_NUMBER_MAX)?;
            let field = match unit {
                'y' => &mut span.years,
                'm' => &mut span.months,
                'd' => &mut span.days,
                'h' => &mut span.hours,
                _ => return None,
            };
            // A unit that comes twice is a slip of the hand.
            if std::mem::replace(field, number) != 0 {
                return None;
            }
        }
        Some(span)
    }
}

impl fmt::Display for CalendarSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.years, 'y'),
            (self.months, 'm'),
            (self.days, 'd'),
            (self.hours, 'h'),
        ];
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl fmt::Display for RetentionPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        })
    }
}

/// The words of restic.
impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRules => write!(f, "no rules"),
            Self::Pinned => write!(f, "pinned"),
            Self::Tags(list) if list.is_empty() => write!(f, "has no tags"),
            Self::Tags(list) => write!(
                f,
                "has tags {}",
                list.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
            ),
            Self::Within(span) => write!(f, "within {span}"),
            Self::Newest(period) => write!(f, "{period} snapshot"),
            Self::Oldest(period) => write!(f, "oldest {period} snapshot"),
        }
    }
}
