//! `vellum backup mount`: the points of a repository as files.

use std::io;

use serde::Serialize;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::interruptible_stream::PATIENCE;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::repository::{AccessArgs, repo_args};
use crate::service::{self, Service};
use crate::size;

/// Show all points as raw files in a folder until stopped or unmounted, and fetch only what is read
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  vellum backup mount /mnt/backup /mnt/then\n  fusermount3 -u /mnt/then"
)]
pub(crate) struct Args {
    /// The repository, and the folder, which must be empty
    #[arg(value_names = ["REPO", "DIR"], num_args = 0..=2)]
    words: Vec<String>,
    /// Let other users at the files
    #[arg(long)]
    allow_other: bool,
    /// Disk for what was fetched, so that it is fetched once; 0 for none [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    cache_size: Option<u64>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct RepositoryMountSummary {
    action: &'static str,
    repository: String,
    folder: String,
}

pub(super) fn run_backup_mount(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::repository_and_words(&args.words, &["DIR"], &session.caller)?;
    let mut service = Service::of_repository(
        &named.place,
        &args.access,
        service::cache_limits(args.cache_size, None),
        session,
    )?;
    let folder = service
        .mount_folder(named.rest[0].as_ref(), args.allow_other, session)?
        .folder()
        .display()
        .to_string();
    let mounted = RepositoryMountSummary {
        action: "backup mount",
        repository: named.place,
        folder,
    };
    service.run_until(&mounted, session, |service| service.is_unmounted(PATIENCE))
}

impl Render for RepositoryMountSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(format!(
            "mounted {} on {}; Ctrl-C unmounts",
            self.repository, self.folder
        ))
    }
}
