//! `vellum mount`: images and snapshots as files.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::patience::PATIENCE;
use crate::scrubber::ScrubArgs;
use crate::service::{Service, ServiceArgs};
use crate::session::Session;

/// Show all images and snapshots as raw files in a folder until stopped or unmounted
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum mount /mnt/images
  fusermount3 -u /mnt/images

Images are in images/NAME.raw and can be written, snapshots in snapshots/NAME@SNAPSHOT.raw. Other \
commands work meanwhile.")]
pub(crate) struct Args {
    /// The folder, which must be empty
    dir: PathBuf,
    /// Let other users at the files
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Serialize)]
struct Mounted {
    action: &'static str,
    store: String,
    folder: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let mut service = Service::start(&args.service, &ScrubArgs::usual(), session)?;
    let folder = service
        .mount(&args.dir, args.allow_other, session)?
        .folder()
        .display()
        .to_string();
    let store = service
        .store()
        .map(|store| store.dir().display().to_string())
        .unwrap_or_default();
    service.run(
        &Mounted {
            action: "mount",
            store,
            folder,
        },
        session,
        |service| service.is_unmounted(PATIENCE),
    )
}

impl Answer for Mounted {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.line(format!(
            "mounted {} on {}; Ctrl-C unmounts",
            self.store, self.folder
        ))
    }
}
