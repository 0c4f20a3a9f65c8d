//! The format in which a file is read: the one that the person gives; else the one noted of the
//! image that it belongs to; else, where no guest can have written it, the one of its signature.
//! Every command that reads a disk from a file opens it here.
//!
//! A guest can write any signature into its own disk. It cannot make the file longer or shorter: so
//! a file as long as the disk that is expected is that disk, whatever it looks like, and a file of
//! another length that looks like something else is a mistake.

use std::path::Path;
use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::tree::{NodeRef, Tree};
use vellum_formats::Format;
use vellum_formats::input::{InputChoice, InputFormat, UnknownInputFormat};
use vellum_formats::probe::{self, Container, ContainerKind, FormatVerdict, Probe};
use vellum_store::{FileSource, ImageFile, StoreError};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;

const RAW: InputFormat = InputFormat::Image(Format::Raw);

/// Options of every command that reads a disk from a file.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct FileArgs {
    /// raw, qcow2, vdi, vmdk, vhd (vpc), vhdx, parallels, ova, vma or virtnbdbackup [default: what
    /// the file's signature says, or what is noted of the image that it belongs to]
    #[arg(short, long, value_parser = input_format)]
    pub(crate) format: Option<InputFormat>,
    /// Which disk of an archive (OVA, VMA) with several
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Option<String>,
}

/// The facts about a file before anybody looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpectedFile {
    /// The format that the person gave.
    pub(crate) said: Option<InputFormat>,
    /// The image whose next state it is, or with which it is compared.
    pub(crate) image: Option<ExpectedImage>,
}

#[derive(Clone, Debug)]
pub(crate) struct ExpectedImage {
    pub(crate) name: String,
    /// The format that its states are imported from, if that is noted.
    format: Option<InputFormat>,
    len: u64,
    /// True if a file of an unknown format may be read by its signature: it is only looked at.
    may_guess: bool,
}

/// The format in which a file is read, and the notice for the person.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FormatDecision {
    pub(crate) format: InputFormat,
    pub(crate) notice: Option<Notice>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The right format, but not as the person wrote it.
    Remark(String),
    /// A format that may not be what the person thinks.
    Warning(String),
}

impl ExpectedImage {
    /// The facts about `node`. `may_guess` says that nothing is stored, only looked at.
    pub(crate) fn from_node(
        tree: &Tree,
        node: NodeRef,
        may_guess: bool,
    ) -> Result<Self, CommandFailure> {
        let name = tree.display_name(node);
        let image = tree.image(node.image_id());
        let noted = image.and_then(|image| image.source_format.as_ref());
        let format = noted
            .map(|noted| noted.as_str().parse())
            .transpose()
            .map_err(|error: UnknownInputFormat| {
                CommandFailure::with_hint(
                    format!("{name} is imported from another format: {error}"),
                    "say with -f as what the file is to be read",
                )
            });
        Ok(Self {
            name,
            format: format?,
            len: tree.layer_of(node).map_or(0, |layer| layer.len),
            may_guess,
        })
    }
}

/// The format in which `path`, which people call `name`, is read; notable facts are shown to the
/// person.
pub(crate) fn of_file(
    path: &Path,
    name: &str,
    expected: &ExpectedFile,
    session: &CommandContext,
) -> Result<InputFormat, CommandFailure> {
    let file = FileSource::open_file(path)?;
    let fail = |source: SourceError| StoreError::Source {
        name: name.to_owned(),
        source,
    };
    let seen = probe::probe_file(&file).map_err(fail)?;
    let reading = expected.decide_format(name, &seen, file.len())?;
    match reading.notice {
        Some(Notice::Remark(text)) => session.print_notice(&text),
        Some(Notice::Warning(text)) => session.print_warning(&text),
        None => {}
    }
    Ok(reading.format)
}

/// A format by qemu's or `VirtualBox`'s name for it, which is in capitals.
pub(crate) fn input_format(name: &str) -> Result<InputFormat, UnknownInputFormat> {
    name.to_ascii_lowercase().parse()
}

/// Opens the disk in `file` that `args` mean, for a command that takes it as a whole.
pub(crate) fn open_disk_file(
    file: &Path,
    args: &FileArgs,
    expected: &ExpectedFile,
    session: &CommandContext,
) -> Result<ImageFile, CommandFailure> {
    open_as(file, args, expected, false, session)
}

/// Opens as [`open`]; with `is_over_parent` for a command whose caller names the parent.
pub(crate) fn open_as(
    file: &Path,
    args: &FileArgs,
    expected: &ExpectedFile,
    is_over_parent: bool,
    session: &CommandContext,
) -> Result<ImageFile, CommandFailure> {
    let path = session.caller.resolve_path(file);
    let name = file.display().to_string();
    let format = of_file(&path, &name, expected, session)?;
    let choice = InputChoice {
        disk: args.disk.as_deref(),
        is_over_parent,
    };
    let opened = ImageFile::open_disk(&path, format, choice);
    let opened = opened.map_err(|error| open_failure(error, &path, format, args))?;
    for note in &opened.facts().notes {
        session.print_warning(&format!("{name}: {note}"));
    }
    Ok(opened)
}

/// The failure to open a disk, with advice that is true of it.
fn open_failure(
    error: StoreError,
    path: &Path,
    format: InputFormat,
    args: &FileArgs,
) -> CommandFailure {
    let is_refused = matches!(
        &error,
        StoreError::Source {
            source: SourceError::Refused { .. },
            ..
        }
    );
    let failure = CommandFailure::from(error);
    if !is_refused {
        return failure;
    }
    let Ok(file) = FileSource::open_file(path) else {
        return failure;
    };
    let file: Arc<dyn ReadAt> = Arc::new(file);
    if format.is_archive() {
        return match format.list_disks(&file).map(|disks| disks.len()) {
            Ok(0) => failure.replace_hint("unpack it, and name the disk's file"),
            Ok(_) => failure.replace_hint("choose one with --disk NAME"),
            Err(_) => failure,
        };
    }
    if args.disk.is_some() {
        return failure.replace_hint("leave out --disk");
    }
    let facts = format.read_facts(file, InputChoice::default());
    if facts.is_ok_and(|facts| facts.parent.is_some()) {
        return failure.replace_hint(
            "`vellum import --chain FILE NAME` stores it with what it stands on; over a parent \
             that is stored already: `vellum import FILE NAME -b PARENT`",
        );
    }
    failure
}

impl FileArgs {
    /// Returns what is known of a file that belongs to no image.
    pub(crate) fn expected_file(&self) -> ExpectedFile {
        ExpectedFile {
            said: self.format,
            image: None,
        }
    }
}

impl ExpectedFile {
    /// True if a file's length alone tells its format, whatever its signature is.
    pub(crate) fn is_told_by_length(&self) -> bool {
        let noted = self.image.as_ref().and_then(|image| image.format);
        self.said.is_none() && noted == Some(RAW)
    }

    /// Decides the format of a file `name` of `len` bytes with the signature in `seen`.
    pub(crate) fn decide_format(
        &self,
        name: &str,
        seen: &Probe,
        len: u64,
    ) -> Result<FormatDecision, CommandFailure> {
        let noted = self.image.as_ref().and_then(|image| image.format);
        match (self.said, &self.image, noted) {
            (Some(said), Some(image), Some(noted)) if said != noted && !image.may_guess => {
                let image = &image.name;
                Ok(FormatDecision::with_notice(
                    said,
                    Notice::Remark(format!(
                        "{image} came from {noted} so far, and from now on comes from {said}"
                    )),
                ))
            }
            (Some(said), ..) => Ok(FormatDecision::without_notice(said)),
            // A file of any format may hold the same disk.
            (None, Some(image), _) if image.may_guess && !image.is_its_disk(len) => {
                guess_format(name, seen)
            }
            (None, Some(image), Some(noted)) => image.decide_format(noted, name, seen, len),
            (None, Some(image), None) if !image.may_guess => match seen.verdict() {
                FormatVerdict::Raw => Ok(FormatDecision::without_notice(RAW)),
                _ => Err(CommandFailure::with_hint(
                    format!(
                        "{name}: {seen}, and it is not noted what {} comes from",
                        image.name
                    ),
                    "say with -f what the file is: raw, or the format that it looks like",
                )),
            },
            _ => guess_format(name, seen),
        }
    }
}

impl ExpectedImage {
    /// True if a file of `len` bytes is the disk itself, whatever a guest wrote into it.
    fn is_its_disk(&self, len: u64) -> bool {
        self.format == Some(RAW) && len == self.len
    }

    /// The same for a file that belongs to this image, which comes from `noted`.
    fn decide_format(
        &self,
        noted: InputFormat,
        name: &str,
        seen: &Probe,
        len: u64,
    ) -> Result<FormatDecision, CommandFailure> {
        let image = &self.name;
        let looks_like = seen.verdict();
        if looks_like.input_format() == Some(noted) {
            return Ok(FormatDecision::without_notice(noted));
        }
        match (noted, looks_like) {
            (RAW, _) if self.is_its_disk(len) => Ok(FormatDecision::with_notice(
                RAW,
                Notice::Warning(format!(
                    "{name}: {seen}, and is read as raw, which {image} always was: -f says \
                     otherwise"
                )),
            )),
            (RAW, _) => Err(CommandFailure::with_hint(
                format!("{name}: {seen}, and {image} is imported from raw disks"),
                "-f raw stores the file as it is; -f with another format reads it as that",
            )),
            (noted, FormatVerdict::Raw) => Err(CommandFailure::with_hint(
                format!("{name} is no {noted} image, and {image} is imported from {noted}"),
                "-f raw stores the file as it is",
            )),
            (noted, _) => Err(CommandFailure::with_hint(
                format!("{name}: {seen}, and {image} is imported from {noted}"),
                "-f raw stores the file as it is; -f with another format reads it as that",
            )),
        }
    }
}

impl FormatDecision {
    fn without_notice(format: InputFormat) -> Self {
        Self {
            format,
            notice: None,
        }
    }

    fn with_notice(format: InputFormat, notice: Notice) -> Self {
        Self {
            format,
            notice: Some(notice),
        }
    }
}

/// The format of the signature.
fn guess_format(name: &str, seen: &Probe) -> Result<FormatDecision, CommandFailure> {
    let verdict = seen.verdict();
    match (verdict, verdict.input_format()) {
        (FormatVerdict::Raw, _) => Ok(FormatDecision::without_notice(RAW)),
        (_, Some(format)) if ends_as(name, format) => Ok(FormatDecision::without_notice(format)),
        (_, Some(format)) => Ok(FormatDecision::with_notice(
            format,
            Notice::Remark(format!(
                "{name}: {seen}, and is read as {} (-f raw takes the file as it is)",
                if matches!(verdict, FormatVerdict::Known(_)) {
                    "one"
                } else {
                    format.format_name()
                }
            )),
        )),
        (FormatVerdict::NotYet(container), None) => Err(CommandFailure::with_hint(
            format!("{name}: {seen}"),
            container_advice(container),
        )),
        _ => Err(CommandFailure::with_hint(
            format!("{name}: {seen}"),
            "say -f raw if it is a guest's disk",
        )),
    }
}

/// True if the file's name says by its ending that it is of `format`.
fn ends_as(name: &str, format: InputFormat) -> bool {
    let ending = Path::new(name).extension();
    let ending = ending.and_then(|ending| ending.to_str());
    let ending = ending.unwrap_or_default().to_ascii_lowercase();
    match format {
        InputFormat::Parallels => ["hds", "hdd"].contains(&ending.as_str()),
        format => ending.parse() == Ok(format),
    }
}

/// Advice for a file that is no disk.
pub(crate) fn container_advice(container: Container) -> &'static str {
    match container.container_kind() {
        ContainerKind::Image => {
            "convert it with `qemu-img convert -O qcow2`, or store the file as it is with -f raw"
        }
        ContainerKind::Packed => "unpack it first, or store the file as it is with -f raw",
        _ if container == Container::Xml => {
            "`vellum machine import FILE` takes the machine that it describes; -f raw stores the \
             file as it is"
        }
        ContainerKind::Other => "-f raw stores the file as it is",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;
    const QCOW2: InputFormat = InputFormat::Image(Format::Qcow2);

    fn seen(magic: &[u8]) -> Probe {
        Probe::from_head_and_tail(magic, &[])
    }

    fn image(format: Option<InputFormat>, may_guess: bool) -> ExpectedFile {
        ExpectedFile {
            said: None,
            image: Some(ExpectedImage {
                name: "web".to_owned(),
                format,
                len: LEN,
                may_guess,
            }),
        }
    }

    #[test]
    fn what_a_guest_wrote_never_decides() {
        let (raw, qcow2, gzip) = (
            &b"disk"[..],
            &b"QFI\xfb\0\0\0\x03"[..],
            &b"\x1f\x8b\x08\0"[..],
        );
        let (r, q) = (Some(RAW), Some(QCOW2));
        let is = |expected: &ExpectedFile, magic, len| {
            expected
                .decide_format("file", &seen(magic), len)
                .ok()
                .map(|reading| reading.format)
        };
        for (format, magic, len, wanted) in [
            (r, raw, LEN, r),
            (r, raw, 7, r),
            (r, qcow2, LEN, r),
            (r, gzip, LEN, r),
            (r, qcow2, LEN + 1, None),
            (r, gzip, 7, None),
            (q, qcow2, 7, q),
            (q, qcow2, LEN, q),
            (q, raw, LEN, None),
            (q, gzip, 7, None),
            (None, raw, 7, r),
            (None, qcow2, LEN, None),
            (None, gzip, LEN, None),
        ] {
            assert_eq!(
                is(&image(format, false), magic, len),
                wanted,
                "{format:?} {magic:?} {len}"
            );
        }
        // A new image, and one that a file is only held against.
        assert_eq!(is(&image(r, true), qcow2, LEN), r, "it is the disk itself");
        for expected in [
            ExpectedFile::default(),
            image(None, true),
            image(r, true),
            image(q, true),
        ] {
            for (magic, wanted) in [(raw, r), (qcow2, q), (gzip, None)] {
                assert_eq!(is(&expected, magic, 7), wanted, "{magic:?}");
            }
        }
        // A format that the person gives is believed.
        for format in [None, r, q] {
            for said in [r, q] {
                let expected = ExpectedFile {
                    said,
                    ..image(format, false)
                };
                for magic in [raw, qcow2, gzip] {
                    assert_eq!(is(&expected, magic, 7), said);
                }
            }
        }
    }

    #[test]
    fn what_differs_is_told() {
        let notice = |expected: &ExpectedFile, magic: &[u8]| {
            let reading = expected.decide_format("file", &seen(magic), LEN);
            reading.expect("it can be read").notice
        };
        let raw = image(Some(RAW), false);
        let told = notice(&raw, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Warning(text)) if text.contains("qcow2")));
        assert_eq!(notice(&raw, b"disk"), None);
        let changed = ExpectedFile {
            said: Some(QCOW2),
            ..raw
        };
        let told = notice(&changed, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Remark(text)) if text.contains("from now on")));
    }
}
