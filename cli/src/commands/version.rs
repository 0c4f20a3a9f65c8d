//! `vellum version`: which program this is, and which stores and repositories it reads.

use std::env::consts::{ARCH, OS};
use std::io;

use serde::Serialize;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;

/// The capabilities of every build: a program looks here, not at the version.
const FEATURES: [&str; 10] = [
    "zstd", "lz4", "parity", "nbd", "nbd-tls", "fuse", "folder", "s3", "gs", "az",
];

/// Tell the version, the commit that it was built from, which formats of stores and repositories
/// it reads and writes
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum version
  vellum version --json")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct ProgramVersion {
    version: &'static str,
    /// The commit, if the build was told it.
    commit: Option<&'static str>,
    target: String,
    /// The formats that are written, and the newest that are read.
    store_format: u32,
    repository_format: u32,
    features: [&'static str; FEATURES.len()],
}

pub(super) fn run_version(
    _: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    session.output.print_answer(&ProgramVersion {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("VELLUM_COMMIT").filter(|commit| !commit.is_empty()),
        target: format!("{ARCH}-{OS}"),
        store_format: vellum_store::STORE_FORMAT,
        repository_format: vellum_backup::format::FORMAT,
        features: FEATURES,
    })?;
    Ok(Outcome::Done)
}

impl Render for ProgramVersion {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_field("vellum", self.version)?;
        let untold = "not told (make tells it, cargo alone does not)";
        page.write_field("commit", self.commit.unwrap_or(untold))?;
        page.write_field("for", &self.target)?;
        page.write_field("store", format!("format {}", self.store_format))?;
        page.write_field("repository", format!("format {}", self.repository_format))?;
        page.write_field("features", self.features.join(" "))
    }
}
