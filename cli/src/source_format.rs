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
use vellum_core::tree::{Node, Tree};
use vellum_formats::Format;
use vellum_formats::input::{InputChoice, InputFormat, UnknownInputFormat};
use vellum_formats::probe::{self, Container, ContainerKind, Probe, Verdict};
use vellum_store::{FileSource, ImageFile, StoreError};

use crate::failure::Failure;
use crate::session::Session;

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
pub(crate) struct Expected {
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
pub(crate) struct Reading {
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
    pub(crate) fn of(tree: &Tree, node: Node, may_guess: bool) -> Result<Self, Failure> {
        let name = tree.display(node);
        let image = tree.image(node.image());
        let noted = image.and_then(|image| image.source_format.as_ref());
        let format = noted
            .map(|noted| noted.as_str().parse())
            .transpose()
            .map_err(|error: UnknownInputFormat| {
                Failure::failed(
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
    expected: &Expected,
    session: &Session,
) -> Result<InputFormat, Failure> {
    let file = FileSource::open(path)?;
    let fail = |source: SourceError| StoreError::Source {
        name: name.to_owned(),
        source,
    };
    let seen = probe::probe(&file).map_err(fail)?;
    let reading = expected.decide(name, &seen, file.len())?;
    match reading.notice {
        Some(Notice::Remark(text)) => session.notice(&text),
        Some(Notice::Warning(text)) => session.warn(&text),
        None => {}
    }
    Ok(reading.format)
}

/// A format by qemu's or `VirtualBox`'s name for it, which is in capitals.
pub(crate) fn input_format(name: &str) -> Result<InputFormat, UnknownInputFormat> {
    name.to_ascii_lowercase().parse()
}

/// Opens the disk in `file` that `args` mean, for a command that takes it as a whole.
pub(crate) fn open(
    file: &Path,
    args: &FileArgs,
    expected: &Expected,
    session: &Session,
) -> Result<ImageFile, Failure> {
    open_as(file, args, expected, false, session)
}

/// Opens as [`open`]; with `is_over_parent` for a command whose caller names the parent.
pub(crate) fn open_as(
    file: &Path,
    args: &FileArgs,
    expected: &Expected,
    is_over_parent: bool,
    session: &Session,
) -> Result<ImageFile, Failure> {
    let path = session.caller.path(file);
    let name = file.display().to_string();
    let format = of_file(&path, &name, expected, session)?;
    let choice = InputChoice {
        disk: args.disk.as_deref(),
        is_over_parent,
    };
    let opened = ImageFile::open(&path, format, choice);
    let opened = opened.map_err(|error| unopened(error, &path, format, args))?;
    for note in &opened.facts().notes {
        session.warn(&format!("{name}: {note}"));
    }
    Ok(opened)
}

/// The failure to open a disk, with advice that is true of it.
fn unopened(error: StoreError, path: &Path, format: InputFormat, args: &FileArgs) -> Failure {
    let is_refused = matches!(
        &error,
        StoreError::Source {
            source: SourceError::Refused { .. },
            ..
        }
    );
    let failure = Failure::from(error);
    if !is_refused {
        return failure;
    }
    let Ok(file) = FileSource::open(path) else {
        return failure;
    };
    let file: Arc<dyn ReadAt> = Arc::new(file);
    if format.is_archive() {
        return match format.disks(&file).map(|disks| disks.len()) {
            Ok(0) => failure.hinted("unpack it, and name the disk's file"),
            Ok(_) => failure.hinted("choose one with --disk NAME"),
            Err(_) => failure,
        };
    }
    if args.disk.is_some() {
        return failure.hinted("leave out --disk");
    }
    let facts = format.facts(file, InputChoice::default());
    if facts.is_ok_and(|facts| facts.parent.is_some()) {
        return failure.hinted(
            "`vellum import --chain FILE NAME` stores it with what it stands on; over a parent \
             that is stored already: `vellum import FILE NAME -b PARENT`",
        );
    }
    failure
}

impl FileArgs {
    /// Returns what is known of a file that belongs to no image.
    pub(crate) fn expected(&self) -> Expected {
        Expected {
            said: self.format,
            image: None,
        }
    }
}

impl Expected {
    /// True if a file's length alone tells its format, whatever its signature is.
    pub(crate) fn is_told_by_length(&self) -> bool {
        let noted = self.image.as_ref().and_then(|image| image.format);
        self.said.is_none() && noted == Some(RAW)
    }

    /// Decides the format of a file `name` of `len` bytes with the signature in `seen`.
    pub(crate) fn decide(&self, name: &str, seen: &Probe, len: u64) -> Result<Reading, Failure> {
        let noted = self.image.as_ref().and_then(|image| image.format);
        match (self.said, &self.image, noted) {
            (Some(said), Some(image), Some(noted)) if said != noted && !image.may_guess => {
                let image = &image.name;
                Ok(Reading::noticed(
                    said,
                    Notice::Remark(format!(
                        "{image} came from {noted} so far, and from now on comes from {said}"
                    )),
                ))
            }
            (Some(said), ..) => Ok(Reading::silent(said)),
            // A file of any format may hold the same disk.
            (None, Some(image), _) if image.may_guess && !image.is_its_disk(len) => {
                guess(name, seen)
            }
            (None, Some(image), Some(noted)) => image.decide(noted, name, seen, len),
            (None, Some(image), None) if !image.may_guess => match seen.verdict() {
                Verdict::Raw => Ok(Reading::silent(RAW)),
                _ => Err(Failure::failed(
                    format!(
                        "{name}: {seen}, and it is not noted what {} comes from",
                        image.name
                    ),
                    "say with -f what the file is: raw, or the format that it looks like",
                )),
            },
            _ => guess(name, seen),
        }
    }
}

impl ExpectedImage {
    /// True if a file of `len` bytes is the disk itself, whatever a guest wrote into it.
    fn is_its_disk(&self, len: u64) -> bool {
        self.format == Some(RAW) && len == self.len
    }

    /// The same for a file that belongs to this image, which comes from `noted`.
    fn decide(
        &self,
        noted: InputFormat,
        name: &str,
        seen: &Probe,
        len: u64,
    ) -> Result<Reading, Failure> {
        let image = &self.name;
        let looks_like = seen.verdict();
        if looks_like.input() == Some(noted) {
            return Ok(Reading::silent(noted));
        }
        match (noted, looks_like) {
            (RAW, _) if self.is_its_disk(len) => Ok(Reading::noticed(
                RAW,
                Notice::Warning(format!(
                    "{name}: {seen}, and is read as raw, which {image} always was: -f says \
                     otherwise"
                )),
            )),
            (RAW, _) => Err(Failure::failed(
                format!("{name}: {seen}, and {image} is imported from raw disks"),
                "-f raw stores the file as it is; -f with another format reads it as that",
            )),
            (noted, Verdict::Raw) => Err(Failure::failed(
                format!("{name} is no {noted} image, and {image} is imported from {noted}"),
                "-f raw stores the file as it is",
            )),
            (noted, _) => Err(Failure::failed(
                format!("{name}: {seen}, and {image} is imported from {noted}"),
                "-f raw stores the file as it is; -f with another format reads it as that",
            )),
        }
    }
}

impl Reading {
    fn silent(format: InputFormat) -> Self {
        Self {
            format,
            notice: None,
        }
    }

    fn noticed(format: InputFormat, notice: Notice) -> Self {
        Self {
            format,
            notice: Some(notice),
        }
    }
}

/// The format of the signature.
fn guess(name: &str, seen: &Probe) -> Result<Reading, Failure> {
    let verdict = seen.verdict();
    match (verdict, verdict.input()) {
        (Verdict::Raw, _) => Ok(Reading::silent(RAW)),
        (_, Some(format)) if ends_as(name, format) => Ok(Reading::silent(format)),
        (_, Some(format)) => Ok(Reading::noticed(
            format,
            Notice::Remark(format!(
                "{name}: {seen}, and is read as {} (-f raw takes the file as it is)",
                if matches!(verdict, Verdict::Known(_)) {
                    "one"
                } else {
                    format.name()
                }
            )),
        )),
        (Verdict::NotYet(container), None) => Err(Failure::failed(
            format!("{name}: {seen}"),
            advice(container),
        )),
        _ => Err(Failure::failed(
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
pub(crate) fn advice(container: Container) -> &'static str {
    match container.kind() {
        ContainerKind::Image => {
            "convert it with `qemu-img convert -O qcow2`, or store the file as it is with -f raw"
        }
        ContainerKind::Packed => "unpack it first, or store the file as it is with -f raw",
        ContainerKind::Other => "-f raw stores the file as it is",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;
    const QCOW2: InputFormat = InputFormat::Image(Format::Qcow2);

    fn seen(magic: &[u8]) -> Probe {
        Probe::of(magic, &[])
    }

    fn image(format: Option<InputFormat>, may_guess: bool) -> Expected {
        Expected {
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
        let is = |expected: &Expected, magic, len| {
            expected
                .decide("file", &seen(magic), len)
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
            Expected::default(),
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
                let expected = Expected {
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
        let notice = |expected: &Expected, magic: &[u8]| {
            let reading = expected.decide("file", &seen(magic), LEN);
            reading.expect("it can be read").notice
        };
        let raw = image(Some(RAW), false);
        let told = notice(&raw, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Warning(text)) if text.contains("qcow2")));
        assert_eq!(notice(&raw, b"disk"), None);
        let changed = Expected {
            said: Some(QCOW2),
            ..raw
        };
        let told = notice(&changed, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Remark(text)) if text.contains("from now on")));
    }
}
