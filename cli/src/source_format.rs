//! The format in which a file is read: the one that the person gives; else the one noted of the
//! image that it belongs to; else, where no guest can have written it, the one of its signature.
//!
//! A guest can write any signature into its own disk. It cannot make the file longer or shorter: so
//! a file as long as the disk that is expected is that disk, whatever it looks like, and a file of
//! another length that looks like something else is a mistake.

use std::path::Path;

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::tree::{Node, Tree};
use vellum_formats::Format;
use vellum_formats::probe::{self, Container, ContainerKind, Probe, Verdict};
use vellum_store::{FileSource, StoreError};

use crate::failure::Failure;
use crate::session::Session;

/// The facts about a file before anybody looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// The format that the person gave.
    pub(crate) said: Option<Format>,
    /// The image whose next state it is, or with which it is compared.
    pub(crate) image: Option<ExpectedImage>,
}

#[derive(Clone, Debug)]
pub(crate) struct ExpectedImage {
    pub(crate) name: String,
    /// The format that its states are imported from, if that is noted.
    format: Option<Format>,
    len: u64,
    /// True if a file of an unknown format may be read by its signature: it is only looked at.
    may_guess: bool,
}

/// The format in which a file is read, and the notice for the person.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) format: Format,
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
            .map_err(|error: vellum_formats::UnknownFormat| {
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
) -> Result<Format, Failure> {
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

impl Expected {
    /// True if a file's length alone tells its format, whatever its signature is.
    pub(crate) fn is_told_by_length(&self) -> bool {
        let noted = self.image.as_ref().and_then(|image| image.format);
        self.said.is_none() && noted == Some(Format::Raw)
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
                Verdict::Raw => Ok(Reading::silent(Format::Raw)),
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
        self.format == Some(Format::Raw) && len == self.len
    }

    /// The same for a file that belongs to this image, which comes from `noted`.
    fn decide(
        &self,
        noted: Format,
        name: &str,
        seen: &Probe,
        len: u64,
    ) -> Result<Reading, Failure> {
        let image = &self.name;
        match (noted, seen.verdict()) {
            (Format::Raw, Verdict::Raw) => Ok(Reading::silent(Format::Raw)),
            (noted, Verdict::Known(found)) if noted == found => Ok(Reading::silent(noted)),
            (Format::Raw, _) if self.is_its_disk(len) => Ok(Reading::noticed(
                Format::Raw,
                Notice::Warning(format!(
                    "{name}: {seen}, and is read as raw, which {image} always was: -f says \
                     otherwise"
                )),
            )),
            (Format::Raw, _) => Err(Failure::failed(
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
    fn silent(format: Format) -> Self {
        Self {
            format,
            notice: None,
        }
    }

    fn noticed(format: Format, notice: Notice) -> Self {
        Self {
            format,
            notice: Some(notice),
        }
    }
}

/// The format of the signature.
fn guess(name: &str, seen: &Probe) -> Result<Reading, Failure> {
    match seen.verdict() {
        Verdict::Raw => Ok(Reading::silent(Format::Raw)),
        Verdict::Known(format) => Ok(Reading::noticed(
            format,
            Notice::Remark(format!(
                "{name}: {seen}, and is read as one (-f raw takes the file as it is)"
            )),
        )),
        Verdict::NotYet(container) => Err(Failure::failed(
            format!("{name}: {seen}"),
            advice(container),
        )),
        Verdict::Ambiguous => Err(Failure::failed(
            format!("{name}: {seen}"),
            "say -f raw if it is a guest's disk",
        )),
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

    fn seen(magic: &[u8]) -> Probe {
        Probe::of(magic, &[])
    }

    fn image(format: Option<Format>, may_guess: bool) -> Expected {
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
        let (r, q) = (Some(Format::Raw), Some(Format::Qcow2));
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
        let raw = image(Some(Format::Raw), false);
        let told = notice(&raw, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Warning(text)) if text.contains("qcow2")));
        assert_eq!(notice(&raw, b"disk"), None);
        let changed = Expected {
            said: Some(Format::Qcow2),
            ..raw
        };
        let told = notice(&changed, b"QFI\xfb\0\0\0\x03");
        assert!(matches!(told, Some(Notice::Remark(text)) if text.contains("from now on")));
    }
}
