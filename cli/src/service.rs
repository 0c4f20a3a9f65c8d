//! What `serve`, `nbd` and `mount` have in common: they own the store while they run, and do the commands of others meanwhile.

use std::time::Duration;

use vellum_store::Store;

use crate::control;
use crate::failure::Failure;
use crate::session::Session;

/// How long what is under way may take once the service is to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// An open store whose commands are done here.
pub(crate) struct Service {
    pub(crate) store: Store,
    control: control::Server,
}

impl Service {
    /// Opens the session's store, and offers to do commands on it.
    pub(crate) fn start(session: &Session) -> Result<Self, Failure> {
        let store = session.open_to_write()?;
        let control = control::Server::start(&store)?;
        Ok(Self { store, control })
    }

    /// Stops the commands that run; those that do not listen are left behind after [`GRACE`], as a crash would leave them.
    pub(crate) fn stop(self, session: &Session) {
        if !self.control.stop(GRACE) {
            session.notice("a command did not stop in time, and was left behind");
        }
    }
}
