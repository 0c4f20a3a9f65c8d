//! Retention policies that a repository keeps, so that whoever forgets by them needs no rules on
//! the command line, and all who do forget the same.
//!
//! A point obeys the policies of the narrowest scope that has any for it: of its image, else of its
//! tags (each of them; it stays if one keeps it), else of its host, else of the whole repository.
//! A point without a policy stays. A policy with a rule that this program does not know forgets
//! nothing: it is an error.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::name::Name;
use vellum_core::retention::{AgeRule, KeepLimit, RetentionRules};

use crate::error::BackupError;
use crate::journal::State;
use crate::record::{Point, Policy, PolicyScope, Record};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};

impl Policy {
    /// The policy that keeps, in `scope`, what `rules` keep.
    #[must_use]
    pub fn new(scope: PolicyScope, rules: &RetentionRules) -> Self {
        let limits = [
            ("last", rules.last),
            ("hourly", rules.hourly),
            ("daily", rules.daily),
            ("weekly", rules.weekly),
            ("monthly", rules.monthly),
            ("yearly", rules.yearly),
        ];
        let mut keep: BTreeMap<String, String> = limits
            .into_iter()
            .filter(|(_, limit)| !matches!(limit, KeepLimit::Nothing | KeepLimit::Newest(0)))
            .map(|(name, limit)| (name.to_owned(), limit.to_string()))
            .collect();
        if let Some(within) = rules.within {
            keep.insert("within".to_owned(), within.span.to_string());
        }
        let texts = |tags: &BTreeSet<Name>| tags.iter().map(ToString::to_string).collect();
        Self {
            scope,
            keep,
            keep_tags: rules.tags.iter().map(texts).collect(),
        }
    }

    /// The rules, at the time `now_ms` since 1970. An error if this program does not know one.
    pub fn rules(&self, now_ms: u64) -> Result<RetentionRules, BackupError> {
        let mut rules = RetentionRules::default();
        for (name, text) in &self.keep {
            let limit = match name.as_str() {
                "last" => &mut rules.last,
                "hourly" => &mut rules.hourly,
                "daily" => &mut rules.daily,
                "weekly" => &mut rules.weekly,
                "monthly" => &mut rules.monthly,
                "yearly" => &mut rules.yearly,
                "within" => {
                    let span = text.parse().map_err(|_| self.unknown(name))?;
                    rules.within = Some(AgeRule { span, now_ms });
                    continue;
                }
                _ => return Err(self.unknown(name)),
            };
            *limit = text.parse().map_err(|_| self.unknown(name))?;
        }
        for list in &self.keep_tags {
            let tags = list.iter().map(|tag| Name::new(tag));
            let tags: Result<BTreeSet<Name>, _> = tags.collect();
            rules.tags.push(tags.map_err(|_| self.unknown("tag"))?);
        }
        Ok(rules)
    }

    fn unknown(&self, rule: &str) -> BackupError {
        BackupError::Parameter(format!(
            "the policy {} has a rule {rule:?} that this program does not know: nothing is \
             forgotten by it",
            self.scope
        ))
    }
}

impl std::fmt::Display for PolicyScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.image, &self.tag, &self.host) {
            (Some(image), ..) => write!(f, "of image {image}"),
            (_, Some(tag), _) => write!(f, "of tag {tag}"),
            (.., Some(host)) => write!(f, "of host {host}"),
            _ => f.write_str("of the repository"),
        }
    }
}

/// The policies of a repository, ready to be asked.
pub struct PolicyTable {
    policies: Vec<(PolicyScope, RetentionRules)>,
}

impl PolicyTable {
    /// The policies of `state` at the time `now_ms` since 1970.
    pub fn of(state: &State, now_ms: u64) -> Result<Self, BackupError> {
        let policies = state.policies();
        let parsed = policies.map(|policy| Ok((policy.scope.clone(), policy.rules(now_ms)?)));
        Ok(Self {
            policies: parsed.collect::<Result<_, BackupError>>()?,
        })
    }

    /// The rules of each policy, by its number.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &RetentionRules> {
        self.policies.iter().map(|(_, rules)| rules)
    }

    /// The numbers of the policies that `point` obeys.
    pub(crate) fn of_point(&self, point: &Point) -> Vec<usize> {
        let is_tag = |tag: &String| point.tags.contains(tag);
        let fits: [&dyn Fn(&PolicyScope) -> bool; 4] = [
            &|scope| scope.image.as_ref() == Some(&point.image),
            &|scope| scope.image.is_none() && scope.tag.as_ref().is_some_and(is_tag),
            &|scope| {
                let is_host = scope.host.is_some() && scope.host == point.host;
                is_host && scope.image.is_none() && scope.tag.is_none()
            },
            &|scope| *scope == PolicyScope::default(),
        ];
        let of = |fits: &&dyn Fn(&PolicyScope) -> bool| {
            let numbered = self.policies.iter().enumerate();
            let fitting = numbered.filter(|(_, (scope, _))| fits(scope));
            fitting.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let mut scopes = fits.iter().map(of);
        scopes
            .find(|numbers| !numbers.is_empty())
            .unwrap_or_default()
    }
}

/// Keeps these policies in the repository, each instead of what was kept for its scope.
pub fn set_policies(
    repository: &Repository,
    policies: Vec<Policy>,
    writer: Writer,
) -> Result<(), BackupError> {
    repository.refuse_writer("set policies")?;
    let mut session = Session::begin(repository, SessionKind::Forget, writer)?;
    session.commit(Record {
        policies: policies.into_iter().map(Into::into).collect(),
        ..Record::default()
    })?;
    session.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(scope: PolicyScope, rules: &[(&str, &str)]) -> Policy {
        let texts = rules
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Policy {
            scope,
            keep: texts.collect(),
            keep_tags: Vec::new(),
        }
    }

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        let rules = RetentionRules {
            last: KeepLimit::Newest(3),
            yearly: KeepLimit::All,
            within: Some(AgeRule {
                span: "1y5m7d2h".parse().expect("a span"),
                now_ms: 7,
            }),
            tags: vec![BTreeSet::new(), [Name::new("gold").expect("a name")].into()],
            ..RetentionRules::default()
        };
        let policy = Policy::new(PolicyScope::default(), &rules);
        assert_eq!(policy.keep["last"], "3");
        assert_eq!(policy.rules(7).expect("they are known"), rules);
        let text = serde_json::to_string(&policy).expect("JSON");
        assert_eq!(serde_json::from_str::<Policy>(&text).expect("JSON"), policy);
    }

    #[test]
    fn rules_of_a_newer_program_are_errors() {
        for (name, text) in [("fortnightly", "7"), ("daily", "some"), ("within", "")] {
            let policy = policy(PolicyScope::default(), &[(name, text)]);
            let error = policy.rules(0).expect_err("it is not known");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_narrowest_scope_decides() {
        let some = |text: &str| Some(text.to_owned());
        let scopes = [
            PolicyScope::default(),
            PolicyScope {
                image: some("i"),
                ..PolicyScope::default()
            },
            PolicyScope {
                tag: some("t"),
                ..PolicyScope::default()
            },
            PolicyScope {
                tag: some("u"),
                ..PolicyScope::default()
            },
            PolicyScope {
                host: some("h"),
                ..PolicyScope::default()
            },
        ];
        let table = PolicyTable {
            policies: scopes
                .map(|scope| (scope, RetentionRules::default()))
                .into(),
        };
        let sample: Point = serde_json::from_str(
            r#"{"id":"","image":"x","name":"","content":"","len":0,"mode":"","time_ms":0}"#,
        )
        .expect("a point");
        for (image, tags, host, expected) in [
            ("i", &["t", "u"][..], Some("h"), &[1][..]),
            ("x", &["t", "u"], Some("h"), &[2, 3]),
            ("x", &["u"], None, &[3]),
            ("x", &[], Some("h"), &[4]),
            ("x", &["v"], Some("g"), &[0]),
        ] {
            let point = Point {
                image: image.to_owned(),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                host: host.map(str::to_owned),
                ..sample.clone()
            };
            assert_eq!(
                table.of_point(&point),
                expected,
                "{image} {tags:?} {host:?}"
            );
        }
    }
}
