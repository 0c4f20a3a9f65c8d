//! What is to be kept, as it is said on the command line: with the options that restic's and Proxmox's users know.

use std::collections::BTreeSet;

use vellum_core::name::Name;
use vellum_core::retention::{Limit, Rules, Span, Within};

use crate::failure::Failure;

/// Rules; each keeps what it keeps, whatever the others say.
#[derive(clap::Args)]
#[command(next_help_heading = "What to keep (each a number, or unlimited)")]
pub(crate) struct KeepArgs {
    /// The newest
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_last: Option<Limit>,
    /// The newest of each of the newest hours that have any
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_hourly: Option<Limit>,
    /// The same for days
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_daily: Option<Limit>,
    /// The same for weeks
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_weekly: Option<Limit>,
    /// The same for months
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_monthly: Option<Limit>,
    /// The same for years
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    keep_yearly: Option<Limit>,
    /// Everything of this long before the newest, such as 7d or 1y5m7d2h
    #[arg(long, value_name = "TIME")]
    keep_within: Option<Span>,
    /// What has all of these tags; may come several times, and '' keeps what has none
    #[arg(long, value_name = "TAG,…")]
    keep_tag: Vec<String>,
}

impl KeepArgs {
    /// The rules, at the moment `now_ms` since 1970.
    pub(crate) fn rules(&self, now_ms: u64) -> Result<Rules, Failure> {
        let limit = |limit: Option<Limit>| limit.unwrap_or_default();
        Ok(Rules {
            last: limit(self.keep_last),
            hourly: limit(self.keep_hourly),
            daily: limit(self.keep_daily),
            weekly: limit(self.keep_weekly),
            monthly: limit(self.keep_monthly),
            yearly: limit(self.keep_yearly),
            within: self.keep_within.map(|span| Within { span, now_ms }),
            tags: self.keep_tag.iter().map(|list| tags(list)).collect::<Result<_, _>>()?,
        })
    }
}

/// `one,two` as tags; nothing as none.
fn tags(list: &str) -> Result<BTreeSet<Name>, Failure> {
    let words = list.split(',').filter(|_| !list.is_empty());
    words.map(|word| Name::new(word).map_err(|error| Failure::name(word, error))).collect()
}
