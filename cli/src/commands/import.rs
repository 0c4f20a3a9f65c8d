//! `vellum import`: a disk comes into the store.

mod chain;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::Serialize;
use vellum_core::change_map::ChangeMap;
use vellum_core::name::Name;
use vellum_core::source::SourceError;
use vellum_core::tree::NodeRef;
use vellum_formats::Format;
use vellum_formats::input::InputFormat;
use vellum_store::{
    ImageInput, ImportOptions, ImportReport, ImportRequest, ImportTarget, Store, StoreError,
};

use crate::chains::{self, Mapping};
use crate::command_context::CommandContext;
use crate::command_output::CommandOutput;
use crate::commands::render_healed_count;
use crate::failure::{CommandFailure, Outcome};
use crate::interruptible_stream::InterruptibleStream;
use crate::invocation::Invocation;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, report, time};
use crate::skip_free::{SkippedSpace, skip_free};
use crate::source_format::{self, ExpectedFile, ExpectedImage, FileArgs};
use crate::stream::{JudgedStream, StreamJudge, UnusableStream, WholeStream};
use crate::{lookup, size};

const RAW: InputFormat = InputFormat::Image(Format::Raw);
/// The longest change map that is read: some million ranges.
const CHANGE_MAP_LEN_MAX: u64 = 256 << 20;
const EXAMPLES: &str = "\
Example:
  vellum import disk.qcow2 web --snapshot monday
  vellum import disk.qcow2 web --update --snapshot tuesday
  vellum import --size 40G - db -- ssh db cat /dev/vda
  vellum import --chain snap2.qcow2 db --backing-map /images=/mnt/images
  vellum import disk.qcow2 web --skip-free

What other programs made:
  OVA: machine.ova web; of several disks --disk chooses (`vellum info machine.ova` lists them)
  Proxmox: unpack backup.vma.zst, then backup.vma web --disk drive-scsi0
  Parallels: the .hds in the .hdd folder; that of a snapshot over the one before, with -b
  virtnbdbackup (without its --compress): vda.full.data web, then each vda.inc.….data with -b
  VirtualBox, VMware, Hyper-V, qcow2 with a backing file: --chain stores the file with all that it
    stands on, parents beside it; over a parent that came before: -b
  qcow2 with snapshots inside: --chain stores them too
  a whole machine with its snapshots: `vellum machine import`
  others: `qemu-img convert -O qcow2` takes many; what is compressed is unpacked first

Without --chain no other file is opened but a VMDK's extents beside it. A pipe does not tell \
whether the program before it failed. With -- COMMAND Vellum runs the program itself and stores \
nothing if it fails; with --size it stores nothing if another number of bytes comes.";

/// Store a disk: a file of any format (raw, qcow2, VDI, VMDK, VHD, VHDX, OVA, VMA, Parallels,
/// virtnbdbackup), a block device, or what comes through a pipe
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The disk; - is standard input
    file: PathBuf,
    /// The new image's name, or with --update the name of one that is there
    name: String,
    #[command(flatten)]
    input: FileArgs,
    /// Store only what differs from this image or snapshot
    #[arg(
        short = 'b',
        long,
        value_name = "IMAGE[@SNAPSHOT]",
        conflicts_with = "update"
    )]
    parent: Option<String>,
    /// Store the disk as the new state of an image that is there
    #[arg(long)]
    update: bool,
    /// Store what the file stands on, too: each file below it becomes a snapshot, and so do the
    /// states that a qcow2 keeps inside. A folder's chains become an image each, NAME-FILE
    #[arg(long, conflicts_with_all = ["parent", "change_map", "size"])]
    chain: bool,
    /// With --chain: where a parent is that is not beside its child. OLD is what the child says of
    /// it (its name, a folder that the name begins with, or its identity)
    #[arg(long, value_name = "OLD=NEW", value_parser = chains::parse_mapping, requires = "chain")]
    backing_map: Vec<Mapping>,
    /// Take a snapshot of the result, in the same moment
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::parse_name)]
    snapshot: Option<Name>,
    /// Read only what this file says has changed. It is trusted. Notations: borg's, nbdinfo --map,
    /// qemu-img map
    #[arg(long, value_name = "FILE")]
    change_map: Option<PathBuf>,
    /// Read what the store seems to have before it is believed, each frame once: what is damaged is
    /// stored again, for every image that has it
    #[arg(long)]
    verify: bool,
    /// Leave out what the disk's file systems do not use: ext2 to ext4, XFS, btrfs, NTFS, FAT,
    /// exFAT, swap, LVM2, and the space between partitions. It becomes zeros, and the answer lists
    /// it. They must be unmounted; what is not understood is stored
    #[arg(long, conflicts_with_all = ["change_map", "chain"])]
    skip_free: bool,
    /// How many bytes must come through the pipe
    #[arg(long, value_parser = size::parse_size)]
    size: Option<u64>,
    /// With - as the file: store what this command prints
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct ImportSummary {
    action: &'static str,
    name: String,
    size: u64,
    /// Bytes that had to be looked at.
    read_bytes: u64,
    same_chunks: u64,
    known_chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    /// Chunks that were there, damaged, and are whole again for every image that has them.
    healed_chunks: u64,
    /// With --skip-free: bytes that the guest does not use.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<SkippedSpace>,
    seconds: f64,
}

pub(super) fn run_import(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.chain {
        return chain::run_chain_import(args, session);
    }
    check_arguments(args, session)?;
    let store = session.open_to_write()?;
    bring_in(args, &store, session)?;
    Ok(Outcome::Done)
}

fn bring_in(
    args: &Args,
    store: &Store,
    session: &mut CommandContext,
) -> Result<(), CommandFailure> {
    let target = import_target(args, store)?;
    let expected = expected_file(args, store, &target)?;
    let input = open_input(args, &expected, session)?;
    for sentence in input.left_behind() {
        session.print_warning(&format!("{} {sentence}", input.name()));
    }
    let meter = session.watch_bytes(&format!("importing {}", args.name));
    let (input, skipped) = if args.skip_free {
        skip_free(input, &meter)?
    } else {
        (input, None)
    };
    let request = ImportRequest {
        target,
        snapshot: args.snapshot.clone(),
    };
    let options = ImportOptions {
        verify: args.verify,
    };
    let report = store.import_with(input, &request, options, &meter);
    let seconds = meter.elapsed_time();
    drop(meter);
    let report = report.map_err(|error| import_failure(error, session))?;
    let name = store.tree().display_name(report.node);
    session.output.print_summary(&ImportSummary {
        skipped,
        ..ImportSummary::new(name, &report, seconds.as_secs_f64())
    })
}

/// Checks the rules that clap cannot know.
fn check_arguments(args: &Args, session: &CommandContext) -> Result<(), CommandFailure> {
    let piped = args.file.as_os_str() == "-";
    let says_change = args.change_map.is_some();
    if says_change && !args.update && args.parent.is_none() {
        return Err(CommandFailure::usage_error(
            "a change map tells what differs from an earlier state",
            "add --update, or -b PARENT",
        ));
    }
    if piped && says_change {
        return Err(CommandFailure::usage_error(
            "what comes through a pipe is read to its end",
            "import a file instead",
        ));
    }
    let is_once = piped || is_stream(&session.caller.resolve_path(&args.file));
    if args.skip_free && is_once {
        return Err(CommandFailure::usage_error(
            "what file systems use is read here and there, and a pipe goes by once",
            "write it to a file first, and import that",
        ));
    }
    if let Some(format) = args.input.format.filter(|format| piped && *format != RAW) {
        return Err(CommandFailure::usage_error(
            format!("{format} is read here and there, and a pipe goes by once"),
            "write it to a file first, and import that",
        ));
    }
    if !piped && !args.command.is_empty() {
        return Err(CommandFailure::usage_error(
            "a command's output comes through a pipe",
            "write - as the file",
        ));
    }
    if args.size.is_some() && !is_once {
        return Err(CommandFailure::usage_error(
            "--size is for pipes: a file's size is known",
            "leave it out",
        ));
    }
    Ok(())
}

fn import_target(args: &Args, store: &Store) -> Result<ImportTarget, CommandFailure> {
    if args.update {
        let image = lookup::find_image(store, &args.name)?;
        if let Some(snapshot) = &args.snapshot {
            store.tree().check_snapshot_free(image, snapshot)?;
        }
        return Ok(ImportTarget::Update(image));
    }
    let name =
        Name::new(&args.name).map_err(|error| CommandFailure::invalid_name(&args.name, error))?;
    let free = store.tree().check_free(&name);
    free.map_err(|error| {
        CommandFailure::from(error)
            .replace_hint("add --update to store the disk as its new state, or choose another name")
    })?;
    let parent = args
        .parent
        .as_deref()
        .map(|parent| store.find_node(parent))
        .transpose()?;
    Ok(ImportTarget::New { name, parent })
}

/// The facts about the file before it is looked at.
fn expected_file(
    args: &Args,
    store: &Store,
    target: &ImportTarget,
) -> Result<ExpectedFile, CommandFailure> {
    let image = match target {
        ImportTarget::Update(image) if args.input.format.is_none() => {
            let node = NodeRef::Image(*image);
            Some(ExpectedImage::from_node(&store.tree(), node, false)?)
        }
        // The given format overrules the noted one, also where that cannot be read.
        ImportTarget::Update(image) => {
            ExpectedImage::from_node(&store.tree(), NodeRef::Image(*image), false).ok()
        }
        ImportTarget::New { .. } => None,
    };
    Ok(ExpectedFile {
        said: args.input.format,
        image,
    })
}

fn open_input(
    args: &Args,
    expected: &ExpectedFile,
    session: &CommandContext,
) -> Result<ImageInput, CommandFailure> {
    let name = args.file.display().to_string();
    if args.file.as_os_str() != "-" {
        let path = session.caller.resolve_path(&args.file);
        let map = args
            .change_map
            .as_deref()
            .map(|map| change_map(map, &session.caller))
            .transpose()?;
        let is_raw = args.input.format.is_none_or(|format| format == RAW);
        if is_raw && map.is_none() && is_stream(&path) {
            // A pipe's opening would wait for its other end.
            let opened = File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(&path);
            let file =
                opened.map_err(|error| CommandFailure::io_error(format!("open {name}"), error))?;
            let reader = InterruptibleStream::new(file, session.signals.clone());
            return Ok(stream_input(args, expected, session, name, reader));
        }
        // Over a parent that the person names, a differencing image is read as what it changes.
        let is_over_parent = args.parent.is_some();
        let file =
            source_format::open_as(&args.file, &args.input, expected, is_over_parent, session)?;
        return Ok(ImageInput::of_file(file, map)?);
    }
    if let Some(program) = args.command.first() {
        let output = CommandOutput::spawn_command(&args.command, &session.caller)?;
        let name = program.display().to_string();
        return Ok(stream_input(args, expected, session, name, output));
    }
    let (name, input) = ("standard input", session.caller.streams.input.clone());
    Ok(stream_input(
        args,
        expected,
        session,
        name.to_owned(),
        input,
    ))
}

/// Content that comes once and in order, and must come whole.
fn stream_input(
    args: &Args,
    expected: &ExpectedFile,
    session: &CommandContext,
    name: String,
    reader: impl Read + Send + 'static,
) -> ImageInput {
    let whole = WholeStream::new(reader, args.size, session.signals.clone());
    let caller = Arc::clone(&session.caller);
    let judge = StreamJudge::new(&name, expected.clone(), move |warning: &str| {
        report::print_notice(&caller, &format!("warning: {warning}"));
    });
    ImageInput::of_stream(Box::new(JudgedStream::new(whole, judge)), name)
}

pub(super) fn is_stream(path: &Path) -> bool {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device())
}

fn change_map(path: &Path, caller: &Invocation) -> Result<ChangeMap, CommandFailure> {
    let what = format!("read the change map {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(caller.resolve_path(path))
        .and_then(|file| file.take(CHANGE_MAP_LEN_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| CommandFailure::io_error(what, error))?;
    if bytes.len() as u64 > CHANGE_MAP_LEN_MAX {
        return Err(CommandFailure::with_hint(
            format!(
                "the change map {} is over {CHANGE_MAP_LEN_MAX} bytes",
                path.display()
            ),
            "import without it",
        ));
    }
    let misread = |error| {
        CommandFailure::with_hint(
            format!("the change map {} cannot be read: {error}", path.display()),
            "nothing was stored",
        )
    };
    ChangeMap::parse(&bytes).map_err(misread)
}

/// Stores the disk in `file` as image `name`: as its new state if it is there, else as a new image.
pub(super) fn store_file(
    file: &Path,
    input: &FileArgs,
    name: &str,
    store: &Store,
    session: &mut CommandContext,
) -> Result<(), CommandFailure> {
    let is_there = store.find_whole(name).is_ok();
    let args = Args {
        file: file.to_owned(),
        name: name.to_owned(),
        input: input.clone(),
        parent: None,
        update: is_there,
        chain: false,
        backing_map: Vec::new(),
        snapshot: None,
        change_map: None,
        skip_free: false,
        verify: false,
        size: None,
        command: Vec::new(),
    };
    bring_in(&args, store, session)
}

/// An interruption may reach the source first.
fn import_failure(error: StoreError, session: &CommandContext) -> CommandFailure {
    match error {
        StoreError::Source { .. } if session.signals.is_stopped() => StoreError::Interrupted.into(),
        StoreError::Source {
            name,
            source: SourceError::Io { offset, source },
        } => match source.downcast::<UnusableStream>() {
            Ok(UnusableStream { message, advice }) => CommandFailure::with_hint(message, advice),
            Err(source) => StoreError::Source {
                name,
                source: SourceError::Io { offset, source },
            }
            .into(),
        },
        other => other.into(),
    }
}

impl Args {
    /// True if standard input is stored.
    pub(super) fn reads_input(&self) -> bool {
        self.file.as_os_str() == "-" && self.command.is_empty()
    }
}

impl ImportSummary {
    fn new(name: String, report: &ImportReport, seconds: f64) -> Self {
        Self {
            action: "import",
            name,
            size: report.len,
            read_bytes: report.read_bytes,
            same_chunks: report.same,
            known_chunks: report.known,
            new_chunks: report.new,
            new_bytes: report.new_bytes,
            healed_chunks: report.healed,
            skipped: None,
            seconds,
        }
    }
}

impl Render for ImportSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (size, new) = (
            page.format_size(self.size),
            page.format_size(self.new_bytes),
        );
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "imported {}, {size}: {new} new ({}, {} known, {} unchanged) in {took}",
            self.name,
            format_count(self.new_chunks, "chunk"),
            self.known_chunks,
            self.same_chunks
        ))?;
        render_healed_count(page, self.healed_chunks)?;
        self.skipped
            .as_ref()
            .map_or(Ok(()), |skipped| skipped.render_lines(page))
    }
}
