//! The retention rules on the command line, with the options that restic's and Proxmox's users
//! know.

use std::collections::BTreeSet;

use vellum_core::name::Name;
use vellum_core::retention::{AgeRule, CalendarSpan, KeepLimit, RetentionRules};

use crate::failure::CommandFailure;

/// Rules; each keeps what it keeps, whatever the others say.
#[derive(clap::Args)]
#[command(
    next_help_heading = "What to keep (each a number, or unlimited; days are the local clock's)"
)]
#[group(id = "keep", multiple = true)]
pub(crate) struct KeepArgs {
    /// The newest
    #[arg(long = "keep-last", value_name = "COUNT", allow_hyphen_values = true)]
    last: Option<KeepLimit>,
    /// The newest of each of the newest hours that have any
    #[arg(long = "keep-hourly", value_name = "COUNT", allow_hyphen_values = true)]
    hourly: Option<KeepLimit>,
    /// The same for days
    #[arg(long = "keep-daily", value_name = "COUNT", allow_hyphen_values = true)]
    daily: Option<KeepLimit>,
    /// The same for weeks
    #[arg(long = "keep-weekly", value_name = "COUNT", allow_hyphen_values = true)]
    weekly: Option<KeepLimit>,
    /// The same for months
    #[arg(
        long = "keep-monthly",
        value_name = "COUNT",
        allow_hyphen_values = true
    )]
    monthly: Option<KeepLimit>,
    /// The same for years
    #[arg(long = "keep-yearly", value_name = "COUNT", allow_hyphen_values = true)]
    yearly: Option<KeepLimit>,
    /// Everything of this long before the newest, such as 7d or 1y5m7d2h
    #[arg(long = "keep-within", value_name = "TIME")]
    within: Option<CalendarSpan>,
    /// What has all of these tags; may come several times, and '' keeps what has none
    #[arg(long = "keep-tag", value_name = "TAG,…")]
    tags: Vec<String>,
}

impl KeepArgs {
    /// True if there is any option, even one that keeps nothing.
    pub(crate) fn are_given(&self) -> bool {
        let limits = [
            self.last,
            self.hourly,
            self.daily,
            self.weekly,
            self.monthly,
            self.yearly,
        ];
        limits.iter().any(Option::is_some) || self.within.is_some() || !self.tags.is_empty()
    }

    /// The rules, at the moment `now_ms` since 1970.
    pub(crate) fn retention_rules(&self, now_ms: u64) -> Result<RetentionRules, CommandFailure> {
        let limit = |limit: Option<KeepLimit>| limit.unwrap_or_default();
        Ok(RetentionRules {
            last: limit(self.last),
            hourly: limit(self.hourly),
            daily: limit(self.daily),
            weekly: limit(self.weekly),
            monthly: limit(self.monthly),
            yearly: limit(self.yearly),
            within: self.within.map(|span| AgeRule { span, now_ms }),
            tags: self
                .tags
                .iter()
                .map(|list| parse_tag_list(list))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// `one,two` as tags; nothing as none.
pub(crate) fn parse_tag_list(list: &str) -> Result<BTreeSet<Name>, CommandFailure> {
    let words = list.split(',').filter(|_| !list.is_empty());
    words
        .map(|word| Name::new(word).map_err(|error| CommandFailure::invalid_name(word, error)))
        .collect()
}
