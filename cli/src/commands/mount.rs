//! `vellum mount`: images and snapshots as files.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::interruptible_stream::PATIENCE;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::scrubber::ScrubArgs;
use crate::service::{Service, ServiceArgs};

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
struct StoreMountSummary {
    action: &'static str,
    store: String,
    folder: String,
}

pub(super) fn run_mount(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let mut service = Service::serve_store(&args.service, &ScrubArgs::default_options(), session)?;
    let folder = service
        .mount_folder(&args.dir, args.allow_other, session)?
        .folder()
        .display()
        .to_string();
    let store = service
        .served_store()
        .map(|store| store.dir().display().to_string())
        .unwrap_or_default();
    service.run_until(
        &StoreMountSummary {
            action: "mount",
            store,
            folder,
        },
        session,
        |service| service.is_unmounted(PATIENCE),
    )
}

impl Render for StoreMountSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(format!(
            "mounted {} on {}; Ctrl-C unmounts",
            self.store, self.folder
        ))
    }
}
