//! `vellum backup mount`: the points of a repository as files.

use std::io;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::patience::PATIENCE;
use crate::repository::{KeyArgs, words};
use crate::service::{self, Service};
use crate::session::Session;
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
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    cache_size: Option<u64>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Mounted {
    action: &'static str,
    repository: String,
    folder: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::exactly(&args.words, &["DIR"], &session.caller)?;
    let mut service = Service::of_repository(
        &named.place,
        &args.key,
        service::limits(args.cache_size, None),
        session,
    )?;
    let folder = service
        .mount(named.rest[0].as_ref(), args.allow_other, session)?
        .folder()
        .display()
        .to_string();
    let mounted = Mounted {
        action: "backup mount",
        repository: named.place,
        folder,
    };
    service.run(&mounted, session, |service| service.is_unmounted(PATIENCE))
}

impl Answer for Mounted {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.line(format!(
            "mounted {} on {}; Ctrl-C unmounts",
            self.repository, self.folder
        ))
    }
}
