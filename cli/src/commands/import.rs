//! `vellum import`: a disk comes into the store.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;
use vellum_core::change_map::ChangeMap;
use vellum_core::name::Name;
use vellum_core::source::SourceError;
use vellum_formats::Format;
use vellum_formats::probe::{self, Verdict};
use vellum_store::{
    FileSource, ImportReport, ImportRequest, ImportTarget, Input, Store, StoreError,
};

use crate::caller::Caller;
use crate::failure::{Failure, Outcome};
use crate::output::page::{Page, plural};
use crate::output::{Answer, time};
use crate::patience::Patient;
use crate::session::Session;
use crate::stream::{CommandOutput, WholeStream};
use crate::{lookup, size};

/// The longest change map that is read: some million ranges.
const CHANGE_MAP_LEN_MAX: u64 = 256 << 20;
const EXAMPLES: &str = "\
Example:
  vellum import disk.raw web --snapshot monday
  vellum import disk.raw web --update --snapshot tuesday
  vellum import --size 40G - db -- ssh db cat /dev/vda

A pipe does not tell whether the program before it failed. With -- COMMAND Vellum runs the program \
itself and stores nothing if it fails; with --size it stores nothing if another number of bytes comes.";

/// Store a disk: a raw or qcow2 file, a block device, or what comes through a pipe
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The disk; - is standard input
    file: PathBuf,
    /// The new image's name, or with --update the name of one that is there
    name: String,
    /// raw or qcow2; without it the file's signature decides, and no other file is opened
    #[arg(short, long)]
    format: Option<Format>,
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
    /// Take a snapshot of the result, in the same moment
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::name)]
    snapshot: Option<Name>,
    /// Read only what this file says has changed. It is trusted. Notations: borg's, nbdinfo --map,
    /// qemu-img map
    #[arg(long, value_name = "FILE")]
    change_map: Option<PathBuf>,
    /// How many bytes must come through the pipe
    #[arg(long, value_parser = size::parse)]
    size: Option<u64>,
    /// With - as the file: store what this command prints
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct Imported {
    action: &'static str,
    name: String,
    size: u64,
    /// Bytes that had to be looked at.
    read_bytes: u64,
    same_chunks: u64,
    known_chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    seconds: f64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    check(args, session)?;
    let store = session.open_to_write()?;
    let target = target(args, &store)?;
    let input = input(args, session)?;
    let meter = session.watch_bytes(&format!("importing {}", args.name));
    let request = ImportRequest {
        target,
        snapshot: args.snapshot.clone(),
    };
    let report = store.import(input, &request, &meter);
    let seconds = meter.elapsed();
    drop(meter);
    let report = report.map_err(|error| explain(error, session))?;
    let name = store.tree().display(report.node);
    session
        .output
        .summary(&Imported::new(name, &report, seconds.as_secs_f64()))?;
    Ok(Outcome::Done)
}

/// What clap cannot know.
fn check(args: &Args, session: &Session) -> Result<(), Failure> {
    let piped = args.file.as_os_str() == "-";
    let says_change = args.change_map.is_some();
    if says_change && !args.update && args.parent.is_none() {
        return Err(Failure::usage(
            "a change map tells what differs from an earlier state",
            "add --update, or -b PARENT",
        ));
    }
    if piped && (says_change || args.format.is_some_and(|format| format != Format::Raw)) {
        return Err(Failure::usage(
            "what comes through a pipe is raw and read to its end",
            "import a file instead",
        ));
    }
    if !piped && !args.command.is_empty() {
        return Err(Failure::usage(
            "a command's output comes through a pipe",
            "write - as the file",
        ));
    }
    if args.size.is_some() && !piped && !is_stream(&session.caller.path(&args.file)) {
        return Err(Failure::usage(
            "--size is for pipes: a file's size is known",
            "leave it out",
        ));
    }
    Ok(())
}

fn target(args: &Args, store: &Store) -> Result<ImportTarget, Failure> {
    if args.update {
        let image = lookup::image(store, &args.name)?;
        if let Some(snapshot) = &args.snapshot {
            store.tree().check_snapshot_free(image, snapshot)?;
        }
        return Ok(ImportTarget::Update(image));
    }
    let name = Name::new(&args.name).map_err(|error| Failure::name(&args.name, error))?;
    let free = store.tree().check_free(&name);
    free.map_err(|error| {
        Failure::from(error)
            .hinted("add --update to store the disk as its new state, or choose another name")
    })?;
    let parent = args
        .parent
        .as_deref()
        .map(|parent| store.find(parent))
        .transpose()?;
    Ok(ImportTarget::New { name, parent })
}

fn input(args: &Args, session: &Session) -> Result<Input, Failure> {
    let name = args.file.display().to_string();
    if args.file.as_os_str() != "-" {
        let path = session.caller.path(&args.file);
        let map = args
            .change_map
            .as_deref()
            .map(|map| change_map(map, &session.caller))
            .transpose()?;
        let is_raw = args.format.is_none_or(|format| format == Format::Raw);
        if is_raw && map.is_none() && is_stream(&path) {
            // A pipe's opening would wait for its other end.
            let opened = File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(&path);
            let file = opened.map_err(|error| Failure::io(format!("open {name}"), error))?;
            return Ok(stream(
                args,
                session,
                name,
                Patient::new(file, session.signals.clone()),
            ));
        }
        let format = args
            .format
            .map_or_else(|| probed(&path, name, session), Ok)?;
        return Ok(Input::open(&path, format, map)?);
    }
    if let Some(program) = args.command.first() {
        let output = CommandOutput::start(&args.command, &session.caller)?;
        return Ok(stream(args, session, program.display().to_string(), output));
    }
    Ok(stream(
        args,
        session,
        "standard input".to_owned(),
        session.caller.streams.input.clone(),
    ))
}

/// Content that comes once and in order, and must come whole.
fn stream(
    args: &Args,
    session: &Session,
    name: String,
    reader: impl Read + Send + 'static,
) -> Input {
    Input::stream(
        Box::new(WholeStream::new(reader, args.size, session.signals.clone())),
        name,
    )
}

pub(super) fn is_stream(path: &Path) -> bool {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device())
}

/// The format that the file's signature speaks for.
pub(super) fn probed(path: &Path, name: String, session: &Session) -> Result<Format, Failure> {
    let fail = |source: SourceError| StoreError::Source {
        name: name.clone(),
        source,
    };
    let seen = probe::probe(&FileSource::open(path)?).map_err(fail)?;
    match seen.verdict() {
        Verdict::Raw => Ok(Format::Raw),
        Verdict::Known(format) => {
            session.notice(&format!(
                "{name}: {seen}, and is read as one (-f raw stores the file as it is)"
            ));
            Ok(format)
        }
        Verdict::NotYet(_) => {
            let advice = "convert it with `qemu-img convert -O qcow2`, or store the file as it is with -f raw";
            Err(Failure::failed(format!("{name}: {seen}"), advice))
        }
        Verdict::Ambiguous => Err(Failure::failed(
            format!("{name}: {seen}"),
            "say -f raw if it is a guest's disk",
        )),
    }
}

fn change_map(path: &Path, caller: &Caller) -> Result<ChangeMap, Failure> {
    let what = format!("read the change map {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(caller.path(path))
        .and_then(|file| file.take(CHANGE_MAP_LEN_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::io(what, error))?;
    if bytes.len() as u64 > CHANGE_MAP_LEN_MAX {
        return Err(Failure::failed(
            format!(
                "the change map {} is over {CHANGE_MAP_LEN_MAX} bytes",
                path.display()
            ),
            "import without it",
        ));
    }
    let misread = |error| {
        Failure::failed(
            format!("the change map {} cannot be read: {error}", path.display()),
            "nothing was stored",
        )
    };
    ChangeMap::parse(&bytes).map_err(misread)
}

/// An interruption may reach the source first.
fn explain(error: StoreError, session: &Session) -> Failure {
    match error {
        StoreError::Source { .. } if session.signals.is_stopped() => StoreError::Interrupted.into(),
        other => other.into(),
    }
}

impl Args {
    /// Whether standard input is what is stored.
    pub(super) fn reads_input(&self) -> bool {
        self.file.as_os_str() == "-" && self.command.is_empty()
    }
}

impl Imported {
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
            seconds,
        }
    }
}

impl Answer for Imported {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (size, new) = (page.size(self.size), page.size(self.new_bytes));
        let took = time::span(self.seconds);
        page.line(format!(
            "imported {}, {size}: {new} new ({}, {} known, {} unchanged) in {took}",
            self.name,
            plural(self.new_chunks, "chunk"),
            self.known_chunks,
            self.same_chunks
        ))
    }
}
