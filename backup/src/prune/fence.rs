//! Fences sessions that died: collections no longer wait for them, and what they may still write
//! does not count.

use super::{Collection, FenceWish};
use crate::error::BackupError;
use crate::objects::ObjectName;
use crate::record::{Fence, Record};
use crate::session::OpenSession;

impl Collection<'_> {
    /// Announces the fences, then decides by what a later listing shows.
    pub(super) fn fence(&mut self, wish: &FenceWish) -> Result<(), BackupError> {
        let open: Vec<OpenSession> = match wish {
            FenceWish::None => return Ok(()),
            FenceWish::Some(ids) => self
                .others()?
                .into_iter()
                .filter(|session| ids.contains(&session.id))
                .collect(),
            FenceWish::All => self.others()?,
        };
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
        let announced = self.fences(&sessions, false);
        self.session.commit(Record {
            fenced: announced,
            ..Record::default()
        })?;
        // The listing of that commit came after the announcement, and it showed no fence for this
        // session.
        let decided = self.fences(&sessions, true);
        self.session.commit(Record {
            fenced: decided,
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

    /// The fences on the sessions, with the records of theirs that count by the journal as it was
    /// read last. A record that another decision made void stays so.
    fn fences(&self, sessions: &[String], decided: bool) -> Vec<Fence> {
        let journal = self.repository.journal();
        let counted = |session: &String| {
            let own = journal
                .iter()
                .filter(|(_, record)| record.session == *session);
            own.map(|(name, _)| name.to_string()).collect()
        };
        sessions
            .iter()
            .map(|session| Fence {
                session: session.clone(),
                counted: counted(session),
                decided,
            })
            .collect()
    }
}
