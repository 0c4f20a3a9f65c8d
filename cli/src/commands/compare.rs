//! `vellum compare`: compares the bytes of an image and a file, or of two files. Reads both.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vellum_core::tree::NodeRef;
use vellum_formats::input::InputFormat;
use vellum_store::{Store, StoreError};

use crate::command_context::CommandContext;
use crate::disk_argument::{DiskArgument, ReadDisk};
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::source_format::{self, ExpectedFile, ExpectedImage, FileArgs};
use crate::source_pair::SourcePair;

/// Compare an image or snapshot with a file of any format, or two files, byte by byte; exit code 1
/// if they differ, 2 if they cannot be compared
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum compare web@monday monday.vdi
  vellum compare before.qcow2 after.vmdk

The first is a file if the store has nothing of that name (./NAME is always one).")]
pub(crate) struct Args {
    /// The image or snapshot, or a file
    #[arg(value_name = "IMAGE[@SNAPSHOT]|FILE")]
    first: String,
    /// The file
    file: PathBuf,
    /// The file's format, of two files the first one's [default: what an image was imported from,
    /// else what the signature says]
    #[arg(short, long, value_parser = source_format::input_format)]
    format: Option<InputFormat>,
    /// Of two files the second one's
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = source_format::input_format)]
    second_format: Option<InputFormat>,
}

#[derive(Serialize)]
struct Comparison {
    identical: bool,
    name: String,
    file: String,
    /// The first byte that differs; with lengths that differ, perhaps where the shorter ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    size: u64,
    file_size: u64,
}

pub(super) fn run_compare(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let found = DiskArgument::find_node(&args.first, &FileArgs::default(), session)?;
    let (first, second) = match found {
        Some((store, node)) => with_image(args, store, node, session)?,
        None => two_files(args, session)?,
    };
    let meter = session.watch_bytes(&format!("comparing {}", first.name));
    let offset = SourcePair::new(&first, &second).first_difference(&meter)?;
    drop(meter);
    let comparison = Comparison {
        identical: offset.is_none(),
        name: first.name,
        file: args.file.display().to_string(),
        offset,
        size: first.source.len(),
        file_size: second.source.len(),
    };
    session.output.print_confirmation(&comparison)?;
    Ok(if comparison.identical {
        Outcome::Done
    } else {
        Outcome::Different
    })
}

fn with_image(
    args: &Args,
    store: Store,
    node: NodeRef,
    session: &CommandContext,
) -> Result<(ReadDisk, ReadDisk), CommandFailure> {
    let said = args.format.or(args.second_format);
    let image = ExpectedImage::from_node(&store.tree(), node, true);
    let expected = ExpectedFile {
        said,
        // The given format overrules the noted one, also where that cannot be read.
        image: said.map_or_else(|| image.map(Some), |_| Ok(None))?,
    };
    let first = DiskArgument::Node(store, node).into_read_disk(&args.first)?;
    Ok((first, open_disk(&args.file, said, &expected, session)?))
}

fn two_files(
    args: &Args,
    session: &CommandContext,
) -> Result<(ReadDisk, ReadDisk), CommandFailure> {
    let file = |path: &Path, said| {
        let expected = ExpectedFile { said, image: None };
        open_disk(path, said, &expected, session)
    };
    let first = file(Path::new(&args.first), args.format)?;
    Ok((first, file(&args.file, args.second_format)?))
}

fn open_disk(
    path: &Path,
    format: Option<InputFormat>,
    expected: &ExpectedFile,
    session: &CommandContext,
) -> Result<ReadDisk, CommandFailure> {
    let args = FileArgs { format, disk: None };
    let file =
        source_format::open_disk_file(path, &args, expected, session).map_err(|failure| {
            if matches!(
                &failure,
                CommandFailure::Store(StoreError::Io { .. } | StoreError::Source { .. })
            ) {
                failure.replace_hint("name a file that can be read, and its format with -f")
            } else {
                failure
            }
        })?;
    DiskArgument::File(Box::new(file)).into_read_disk(&path.display().to_string())
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        !self.first.contains('/')
    }
}

impl Render for Comparison {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let Some(offset) = self.offset else {
            return page.write_line(format!("{} and {} are identical", self.name, self.file));
        };
        if self.size != self.file_size {
            page.write_line(format!(
                "{} has {} bytes, {} has {}",
                self.name, self.size, self.file, self.file_size
            ))?;
        }
        page.write_line(format!(
            "{} and {} differ at byte {offset}",
            self.name, self.file
        ))
    }
}
