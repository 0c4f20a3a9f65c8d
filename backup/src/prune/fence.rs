//! Fences sessions that died: collections no longer wait for them, and what they may still write
//! does not count.
//!
//! Those of this machine are ended without being asked: their processes are seen to be gone
//! ([`crate::process`]). A request of theirs may still be under way, so they are fenced as all
//! others. A fence that an earlier collection announced and did not decide is decided, too: no
//! other collection is open.

use super::{Collection, FenceWish};
use crate::error::BackupError;
use crate::objects::ObjectName;
use crate::record::Record;
use crate::session::OpenSession;

impl Collection<'_> {
    /// True if this collection ends `session`.
    pub(super) fn is_to_end(&self, session: &OpenSession, wish: &FenceWish) -> bool {
        let is_wished = match wish {
            FenceWish::None => false,
            FenceWish::Some(ids) => ids.contains(&session.id),
            FenceWish::All => true,
        };
        is_wished || session.is_dead(self.session.writer())
    }

    /// Announces the fences, then decides by what a later listing shows.
    pub(super) fn fence(&mut self, wish: &FenceWish) -> Result<(), BackupError> {
        let mut open = self.others()?;
        open.retain(|session| self.is_to_end(session, wish));
        let left = self.session.state().undecided().map(str::to_owned);
        let mut sessions: Vec<String> = open
            .iter()
            .map(|session| session.id.to_string())
            .chain(left)
            .collect();
        sessions.sort_unstable();
        sessions.dedup();
        if sessions.is_empty() {
            return Ok(());
        }
        self.session.commit(Record {
            fenced: self.repository.journal().fences(&sessions, false),
            ..Record::default()
        })?;
        // The listing of that commit came after the announcement, and it showed no fence for this
        // session.
        self.session.commit(Record {
            fenced: self.repository.journal().fences(&sessions, true),
            ..Record::default()
        })?;
        for session in &open {
            let name = ObjectName::Session(session.id).to_string();
            self.repository
                .objects()
                .delete(&name)
                .map_err(|error| self.repository.failed(error))?;
        }
        self.report.fenced = open;
        Ok(())
    }
}
