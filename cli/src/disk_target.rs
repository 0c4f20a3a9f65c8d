//! The target of a disk that is written (a file, a block device, a pipe, standard output), and the
//! format in which it is written there.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use vellum_core::source::ImageSource;
use vellum_formats::write::{TargetFormat, WriteOptions, WrittenImage};
use vellum_formats::{Format, UnknownFormat};
use vellum_store::{Destination, ExportTarget, ImageWriting, StoreError, Watch, carries_identity};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;
use crate::interruptible_stream::{InterruptibleStream, PATIENCE};

/// Options of every command that writes a disk.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct OutputArgs {
    /// raw, qcow2, vdi, vmdk, vhd (vpc) or vhdx [default: the one that the file's name ends in,
    /// else raw]
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = output_format)]
    output_as: Option<TargetFormat>,
    /// An option of the format, as qemu-img has them: qcow2 compression_type=zlib|zstd|none,
    /// extended_l2=on, cluster_size=BYTES; vdi, vhd subformat=fixed|dynamic; vmdk
    /// subformat=monolithicSparse|streamOptimized
    #[arg(
        short = 'o',
        long = "option",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    options: Vec<String>,
}

/// The format in which a disk is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChosenFormat {
    pub(crate) format: TargetFormat,
    /// True if nobody said it but the file's name.
    is_by_name: bool,
}

/// Endings of names that promise something that is not written here.
const OTHER_ENDINGS: [&str; 21] = [
    "avhd", "avhdx", "qcow", "qcow3", "qed", "hdd", "hds", "ova", "ovf", "vma", "dmg", "gz", "tgz",
    "bz2", "xz", "zst", "lz4", "zip", "7z", "tar", "rar",
];

/// The meaning of a file argument, `-` included.
pub(crate) enum DiskTarget {
    /// Bytes in order, zeros and all.
    Stream(Box<dyn Write + Send>),
    /// A file or device, written at any place.
    Path(PathBuf),
}

impl DiskTarget {
    /// Finds the target that `file` names, and the format: without one in `args` the file's name
    /// decides, and must promise none that is not written.
    pub(crate) fn resolve_target(
        file: &Path,
        args: &OutputArgs,
        session: &mut CommandContext,
    ) -> Result<(Self, ChosenFormat), CommandFailure> {
        if file.as_os_str() == "-" {
            return Self::stream_of(args, session);
        }
        let path = session.caller.resolve_path(file);
        let fail = |error| CommandFailure::io_error(format!("write {}", path.display()), error);
        match Destination::resolve_path(&path).map_err(fail)? {
            Destination::Descriptor(1) => Self::stream_of(args, session),
            Destination::Stream(stream) if is_standard_output(&stream, session) => {
                Self::stream_of(args, session)
            }
            Destination::Stream(stream) if is_pipe(&stream) => {
                let format = args.forward_format()?;
                let pipe = open_pipe(&stream, session)?;
                Ok((Self::Stream(Box::new(pipe)), format))
            }
            Destination::Stream(_) => Ok((Self::Path(path), args.forward_format()?)),
            Destination::File(_) => {
                let format = args.format_for(file)?;
                Ok((Self::Path(path), format))
            }
            Destination::Device(_) => {
                let chosen = args.chosen_format(TargetFormat::Raw, false)?;
                refuse_on_device(file, chosen)?;
                Ok((Self::Path(path), chosen))
            }
            Destination::Descriptor(_) => {
                let chosen = args.chosen_format(TargetFormat::Raw, false)?;
                Ok((Self::Path(path), chosen))
            }
        }
    }

    fn stream_of(
        args: &OutputArgs,
        session: &mut CommandContext,
    ) -> Result<(Self, ChosenFormat), CommandFailure> {
        let format = args.forward_format()?;
        Ok((Self::Stream(Box::new(session.disk_output()?)), format))
    }

    /// The same for the store's library.
    pub(crate) fn into_export(self, overwrite: bool) -> ExportTarget {
        match self {
            Self::Stream(stream) => ExportTarget::Stream(stream),
            Self::Path(path) => ExportTarget::File { path, overwrite },
        }
    }
}

impl OutputArgs {
    /// The format that was asked for, or else `usual`, with its options.
    fn chosen_format(
        &self,
        usual: TargetFormat,
        is_by_name: bool,
    ) -> Result<ChosenFormat, CommandFailure> {
        let format = self.output_as.unwrap_or(usual);
        let is_by_name = is_by_name && self.output_as.is_none();
        let add = |format: TargetFormat, option: &String| format.with_option(option);
        let format = self.options.iter().try_fold(format, add);
        let format = format.map_err(|error| {
            CommandFailure::usage_error(error.to_string(), "-O names the format, -o its options")
        })?;
        Ok(ChosenFormat { format, is_by_name })
    }

    /// The format that was asked for, or else `usual`, with its options.
    pub(crate) fn format_or(&self, usual: TargetFormat) -> Result<TargetFormat, CommandFailure> {
        Ok(self.chosen_format(usual, false)?.format)
    }

    /// The format for a new file of that name.
    fn format_for(&self, file: &Path) -> Result<ChosenFormat, CommandFailure> {
        if self.output_as.is_some() {
            return self.chosen_format(TargetFormat::Raw, false);
        }
        let promised = promised_format(file)?;
        self.chosen_format(promised.unwrap_or(TargetFormat::Raw), promised.is_some())
    }

    /// The format for something that only goes forward.
    fn forward_format(&self) -> Result<ChosenFormat, CommandFailure> {
        let chosen = self.chosen_format(TargetFormat::Raw, false)?;
        if chosen.format.is_stream() {
            return Ok(chosen);
        }
        Err(CommandFailure::usage_error(
            format!(
                "a {} file is written here and there, and a stream only goes forward",
                chosen.format.image_format()
            ),
            "name a file, or take raw, vmdk with -o subformat=streamOptimized, or vdi or vhd with \
             -o subformat=fixed",
        ))
    }
}

impl ChosenFormat {
    /// The remark that output prints after the file's name: none for a raw disk.
    pub(crate) fn format_remark(self) -> String {
        let format = self.format.image_format();
        match (format, self.is_by_name) {
            (Format::Raw, _) => String::new(),
            (_, true) => format!(" as {format}, which its name says"),
            (_, false) => format!(" as {format}"),
        }
    }

    /// The format's name.
    pub(crate) fn format_name(self) -> &'static str {
        self.format.image_format().format_name()
    }
}

/// A format by qemu's or `VirtualBox`'s name for it, which is in capitals.
fn output_format(name: &str) -> Result<TargetFormat, UnknownFormat> {
    name.to_ascii_lowercase().parse()
}

fn refuse_on_device(file: &Path, chosen: ChosenFormat) -> Result<(), CommandFailure> {
    if chosen.format == TargetFormat::Raw {
        return Ok(());
    }
    Err(CommandFailure::usage_error(
        format!(
            "{} is a block device, which holds a disk and no {} file",
            file.display(),
            chosen.format_name()
        ),
        "-O raw writes the disk to it",
    ))
}

/// A disk that is written as an image file.
pub(crate) struct DiskOutput<'a> {
    pub(crate) source: &'a dyn ImageSource,
    /// Its name, for errors.
    pub(crate) name: &'a str,
    pub(crate) format: TargetFormat,
    /// Tells the content's identity; asked only if the format has one.
    pub(crate) identity: &'a dyn Fn() -> Result<[u8; 32], StoreError>,
    /// Checks the source at the end.
    pub(crate) verify: &'a dyn Fn() -> Result<(), StoreError>,
}

impl DiskOutput<'_> {
    /// Writes it.
    pub(crate) fn write_to(
        &self,
        target: ExportTarget,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        // Told before the disk is read for its identity; writing finds what comes meanwhile.
        if let ExportTarget::File {
            path,
            overwrite: false,
        } = &target
            && let Ok(Destination::File(place)) = Destination::resolve_path(path)
            && place.is_taken()
        {
            return Err(StoreError::Io {
                what: format!("write {}", path.display()),
                source: io::ErrorKind::AlreadyExists.into(),
            });
        }
        let identity = if carries_identity(self.format) {
            (self.identity)()?
        } else {
            [0; 32]
        };
        let writing = ImageWriting {
            source: self.source,
            name: self.name,
            format: self.format,
            options: &WriteOptions::new(identity),
            verify: self.verify,
        };
        writing.write_to(target, watch)
    }
}

/// True if `stream` is the pipe or terminal that answers go to: then they must go elsewhere.
fn is_standard_output(stream: &Path, session: &CommandContext) -> bool {
    let output = session.caller.streams.output.file().metadata();
    let stream = std::fs::metadata(stream);
    matches!(
        (stream, output),
        (Ok(stream), Ok(output)) if (stream.dev(), stream.ino()) == (output.dev(), output.ino())
    )
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// The format that a file's name promises by its ending, if any; refused if nothing writes that.
fn promised_format(file: &Path) -> Result<Option<TargetFormat>, CommandFailure> {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let Some(ending) = ending.map(str::to_ascii_lowercase) else {
        return Ok(None);
    };
    if ending == "raw" {
        return Ok(None);
    }
    if let Ok(format) = ending.parse() {
        return Ok(Some(format));
    }
    if !OTHER_ENDINGS.contains(&ending.as_str()) {
        return Ok(None);
    }
    let file = file.display();
    Err(CommandFailure::usage_error(
        format!("{file} would be a raw disk, and by its name it is {ending}"),
        "name it .raw, or as one of the formats that -O takes; -O raw writes it as it is under any \
         name",
    ))
}

/// A pipe with a name, once somebody reads it: its opening would wait for that, deaf to Ctrl-C.
fn open_pipe(
    path: &Path,
    session: &CommandContext,
) -> Result<InterruptibleStream<File>, CommandFailure> {
    loop {
        match File::options()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
        {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                session.signals.await_stop(PATIENCE);
                session.signals.fail_if_stopped()?;
            }
            Err(error) => {
                return Err(CommandFailure::io_error(
                    format!("open {}", path.display()),
                    error,
                ));
            }
            Ok(file) => return Ok(InterruptibleStream::new(file, session.signals.clone())),
        }
    }
}

/// `failure` with the remedy of our own for what is there already, if that is what the system said.
pub(crate) fn with_remedy(failure: CommandFailure, said: Option<io::ErrorKind>) -> CommandFailure {
    if said == Some(io::ErrorKind::AlreadyExists) {
        failure.replace_hint("add --force to replace it, or name another file")
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_decides_the_format_or_is_refused() {
        let usual = |format| Some(TargetFormat::default_variant(format));
        for (name, format) in [
            ("x", None),
            ("x.raw", None),
            ("x.img", None),
            ("x.iso", None),
            ("vdi", None),
            (".vdi", None),
            ("x.vdi.raw", None),
            ("x.vdi/y", None),
            ("x.vdi", usual(Format::Vdi)),
            ("a.b/x.QCOW2", usual(Format::Qcow2)),
            ("x.vpc", usual(Format::Vhd)),
            ("x.VMDK", usual(Format::Vmdk)),
        ] {
            assert_eq!(
                promised_format(Path::new(name)).ok(),
                Some(format),
                "{name}"
            );
        }
        for name in ["x.qcow", "a.b/x.raw.gz", "x.ova"] {
            assert!(promised_format(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn what_was_asked_for_goes_before_the_name() {
        let args = |format: Option<&str>, options: &[&str]| OutputArgs {
            output_as: format.map(|format| output_format(format).expect("a format")),
            options: options.iter().map(ToString::to_string).collect(),
        };
        let chosen = |args: OutputArgs| args.format_for(Path::new("x.vdi")).ok();
        let by_name = chosen(args(None, &[])).expect("its name says it");
        assert_eq!(by_name.format_remark(), " as vdi, which its name says");
        let asked = chosen(args(Some("VHD"), &[])).expect("a format");
        assert_eq!(asked.format_remark(), " as vhd");
        assert_eq!(
            chosen(args(Some("raw"), &[])).expect("raw").format_remark(),
            ""
        );
        let fixed = chosen(args(None, &["subformat=fixed"])).expect("VDI has it");
        assert!(fixed.format.is_stream());
        assert!(chosen(args(None, &["cluster_size=4096"])).is_none());
        assert!(args(Some("qcow2"), &[]).forward_format().is_err());
        assert!(args(None, &[]).forward_format().is_ok());
    }
}
