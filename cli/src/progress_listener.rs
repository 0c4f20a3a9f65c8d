//! The end to which a command tells its progress, where somebody follows it elsewhere than on a
//! terminal.

use std::fmt;
use std::sync::Arc;

use vellum_store::Progress;

/// Takes the label and the progress of work.
#[derive(Clone)]
pub(crate) struct ProgressListener(Arc<dyn Fn(String, Progress) + Send + Sync>);

impl ProgressListener {
    pub(crate) fn new(listen: impl Fn(String, Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    /// Tells how far the work `label` is.
    pub(crate) fn note_progress(&self, label: String, progress: Progress) {
        (self.0)(label, progress);
    }
}

impl fmt::Debug for ProgressListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressListener")
    }
}
