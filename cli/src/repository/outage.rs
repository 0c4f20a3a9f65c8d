//! Tells a person that a repository's place does not answer and is waited for, and ends the waiting
//! when they have had enough.

use std::sync::Arc;
use std::time::Duration;

use vellum_backup::objects::{ObjectError, OutageWatch};

use crate::invocation::Invocation;
use crate::output::report;

/// The caller, who is told.
pub(super) struct OutageNotice(pub(super) Arc<Invocation>);

impl OutageWatch for OutageNotice {
    fn place_failed(&self, place: &str, error: &ObjectError, limit: Duration) {
        let limit = if limit < Duration::from_mins(1) {
            format!("{} s", limit.as_secs())
        } else {
            format!("{} min", limit.as_secs() / 60)
        };
        let text = format!("waiting for {place}, up to {limit}: {error}");
        report::print_notice(&self.0, &text);
    }

    fn place_answers(&self, place: &str) {
        report::print_notice(&self.0, &format!("{place} answers again"));
    }

    fn is_cancelled(&self) -> bool {
        self.0.signals.is_stopped()
    }
}
