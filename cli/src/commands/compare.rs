//! `vellum compare`: compares the bytes of an image and a file, or of two files. Reads both.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vellum_core::tree::Node;
use vellum_formats::input::InputFormat;
use vellum_store::{Store, StoreError};

use crate::disk_argument::{DiskArgument, ReadDisk};
use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;
use crate::source_format::{self, Expected, ExpectedImage, FileArgs};
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

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
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
    session.output.confirm(&comparison)?;
    Ok(if comparison.identical {
        Outcome::Done
    } else {
        Outcome::Different
    })
}

fn with_image(
    args: &Args,
    store: Store,
    node: Node,
    session: &Session,
) -> Result<(ReadDisk, ReadDisk), Failure> {
    let said = args.format.or(args.second_format);
    let image = ExpectedImage::of(&store.tree(), node, true);
    let expected = Expected {
        said,
        // The given format overrules the noted one, also where that cannot be read.
        image: said.map_or_else(|| image.map(Some), |_| Ok(None))?,
    };
    let first = DiskArgument::Node(store, node).read(&args.first)?;
    Ok((first, open(&args.file, said, &expected, session)?))
}

fn two_files(args: &Args, session: &Session) -> Result<(ReadDisk, ReadDisk), Failure> {
    let file = |path: &Path, said| {
        let expected = Expected { said, image: None };
        open(path, said, &expected, session)
    };
    let first = file(Path::new(&args.first), args.format)?;
    Ok((first, file(&args.file, args.second_format)?))
}

fn open(
    path: &Path,
    format: Option<InputFormat>,
    expected: &Expected,
    session: &Session,
) -> Result<ReadDisk, Failure> {
    let args = FileArgs { format, disk: None };
    let file = source_format::open(path, &args, expected, session).map_err(|failure| {
        if matches!(
            &failure,
            Failure::Store(StoreError::Io { .. } | StoreError::Source { .. })
        ) {
            failure.hinted("name a file that can be read, and its format with -f")
        } else {
            failure
        }
    })?;
    DiskArgument::File(Box::new(file)).read(&path.display().to_string())
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        !self.first.contains('/')
    }
}

impl Answer for Comparison {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let Some(offset) = self.offset else {
            return page.line(format!("{} and {} are identical", self.name, self.file));
        };
        if self.size != self.file_size {
            page.line(format!(
                "{} has {} bytes, {} has {}",
                self.name, self.size, self.file, self.file_size
            ))?;
        }
        page.line(format!(
            "{} and {} differ at byte {offset}",
            self.name, self.file
        ))
    }
}
