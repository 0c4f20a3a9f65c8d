//! `vellum serve`: one process that owns the store, for as long as it is wanted.

use std::io;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::service::Service;
use crate::session::Session;

/// Own the store until stopped; all other commands work meanwhile
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum serve")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Serving {
    action: &'static str,
    store: String,
}

pub(super) fn run(_: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let service = Service::start(session)?;
    session.output.confirm(&Serving { action: "serve", store: service.store.dir().display().to_string() })?;
    session.output.flush()?;
    session.signals.await_stop().map_err(|error| Failure::io("listen for signals", error))?;
    service.stop(session);
    Ok(Outcome::Done)
}

impl Answer for Serving {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.line(format!("serving {}; Ctrl-C stops", self.store))
    }
}
