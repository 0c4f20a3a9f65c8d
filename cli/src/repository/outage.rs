//! Tells a person that a repository's place does not answer and is waited for, and ends the waiting
//! when they have had enough.

use std::sync::Arc;
use std::time::Duration;

use vellum_backup::objects::{ObjectError, OutageWatch};

use crate::invocation::Invocation;
use crate::output::{OutputLayout, report};

/// The caller, and how it wants to be told.
pub(super) struct OutageNotice {
    pub(super) caller: Arc<Invocation>,
    /// None for one who wants to hear of errors only.
    pub(super) layout: Option<OutputLayout>,
}

impl OutageNotice {
    fn tell(&self, text: &str) {
        if let Some(layout) = self.layout {
            report::print_event(&self.caller, layout, text);
        }
    }
}

impl OutageWatch for OutageNotice {
    fn place_failed(&self, place: &str, error: &ObjectError, limit: Duration) {
        let limit = if limit < Duration::from_mins(1) {
            format!("{} s", limit.as_secs())
        } else {
            format!("{} min", limit.as_secs() / 60)
        };
        let text = format!("waiting for {place}, up to {limit}: {error}");
        self.tell(&text);
    }

    fn place_answers(&self, place: &str) {
        self.tell(&format!("{place} answers again"));
    }

    fn is_cancelled(&self) -> bool {
        self.caller.signals.is_stopped()
    }
}
