//! A backup of virtnbdbackup as its content: frames of data and zeros, each with where it belongs.
//!
//! ```text
//! Frame: kind (4 letters), space, start (16 hexadecimal digits), space, length (16), "\r\n".
//! Source: virtnbdbackup, libvirtnbdbackup/sparsestream/types.py.
//!
//! kind  payload                                            the failure its check guards
//! meta  length bytes of JSON, "\r\n"; the first frame      a stream of something else
//! data  length bytes, "\r\n"                               bytes at the wrong place
//! zero  none                                               –
//! stop  none; the end                                      a stream that was cut off
//!
//! Of the JSON are used: virtualSize, incremental, compressed, checkpointName, parentCheckpoint.
//! ```
//!
//! A full backup is a whole disk: what no frame names is zeros. An incremental one is a child, and
//! names the checkpoint that it stands on. Streams that were compressed (LZ4) are refused.

use std::sync::Arc;

use vellum_core::source::{ImageSource, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::identity::ParentReference;
use crate::indexed::ExtentIndex;
use crate::mapped::MappedImage;
use crate::{ImageFacts, malformed, read_up_to, refused};

const FORMAT: &str = "virtnbdbackup";
const FRAME_LEN: u64 = 4 + 1 + 16 + 1 + 16 + 2;
const LINE_END: &[u8] = b"\r\n";
/// Metadata are half a page of text.
const META_LEN_MAX: u64 = 64 << 10;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    Meta,
    Data,
    Zero,
    Stop,
}

/// The head of a frame.
struct StreamFrame {
    kind: FrameKind,
    start: u64,
    len: u64,
}

/// The metadata, and where the first frame after them is.
struct StreamMeta {
    facts: ImageFacts,
    next: u64,
}

/// Opens a backup. What an incremental one does not have is absent. Walks all frames once, 40 bytes
/// each.
///
/// # Errors
///
/// [`SourceError::Malformed`] when the file is none, or was cut off; [`SourceError::Refused`] when
/// it is compressed.
pub fn open_image(file: Arc<dyn ReadAt>) -> Result<Box<dyn ImageSource>, SourceError> {
    let meta = StreamMeta::read_from(&*file)?;
    let mut index = ExtentIndex::new(FORMAT, meta.facts.len);
    let mut at = meta.next;
    loop {
        let frame = StreamFrame::read_from(&*file, at)?;
        at += FRAME_LEN;
        match frame.kind {
            FrameKind::Stop => break,
            FrameKind::Zero => index.push_extent(frame.start, frame.len, None)?,
            FrameKind::Data => {
                index.push_extent(frame.start, frame.len, Some(at))?;
                at = after_payload(&*file, at, frame.len)?;
            }
            FrameKind::Meta => {
                return Err(malformed(FORMAT, format!("a second head at byte {at}")));
            }
        }
    }
    Ok(Box::new(MappedImage::new(index.into_map(file, false)?)))
}

/// Tells what the metadata say: the disk's length, the checkpoint that it stands on.
///
/// # Errors
///
/// As [`open_image`].
pub fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    StreamMeta::read_from(file).map(|meta| meta.facts)
}

/// The byte behind a payload and its line end.
fn after_payload(file: &dyn ReadAt, at: u64, len: u64) -> Result<u64, SourceError> {
    let end = at.checked_add(len).filter(|end| *end <= file.len());
    let end =
        end.ok_or_else(|| malformed(FORMAT, format!("the frame at byte {at} leaves the file")))?;
    if read_up_to(file, end, LINE_END.len())? != LINE_END {
        return Err(malformed(FORMAT, format!("no line end at byte {end}")));
    }
    Ok(end + LINE_END.len() as u64)
}

impl StreamFrame {
    fn read_from(file: &dyn ReadAt, at: u64) -> Result<Self, SourceError> {
        let bytes = read_up_to(file, at, FRAME_LEN as usize)?;
        Self::parse(&bytes).ok_or_else(|| {
            malformed(
                FORMAT,
                format!("no frame at byte {at}: was the stream cut off?"),
            )
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n")?;
        let mut words = line.split(' ');
        let kind = match words.next()? {
            "meta" => FrameKind::Meta,
            "data" => FrameKind::Data,
            "zero" => FrameKind::Zero,
            "stop" => FrameKind::Stop,
            _ => return None,
        };
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let frame = Self {
            kind,
            start: number()?,
            len: number()?,
        };
        words.next().is_none().then_some(frame)
    }
}

impl StreamMeta {
    fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        let frame = StreamFrame::read_from(file, 0)?;
        if frame.kind != FrameKind::Meta || frame.len > META_LEN_MAX {
            return Err(malformed(FORMAT, "it does not begin with its metadata"));
        }
        let next = after_payload(file, FRAME_LEN, frame.len)?;
        let bytes = read_up_to(file, FRAME_LEN, frame.len as usize)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(FORMAT, format!("its metadata: {error}")))?;
        let facts = Self::parse_facts(&value)?;
        Ok(Self { facts, next })
    }

    fn parse_facts(value: &serde_json::Value) -> Result<ImageFacts, SourceError> {
        let is = |key: &str| match value.get(key) {
            None | Some(serde_json::Value::Null) => false,
            Some(serde_json::Value::Bool(is)) => *is,
            // Compression is a level in some versions.
            Some(_) => true,
        };
        if is("compressed") {
            return Err(refused(
                FORMAT,
                "it is compressed: restore it with virtnbdrestore, and import what that writes",
            ));
        }
        let len = value.get("virtualSize").and_then(serde_json::Value::as_u64);
        let len = len.filter(|len| *len <= IMAGE_LEN_MAX);
        let len = len.ok_or_else(|| malformed(FORMAT, "its metadata lack the virtualSize"))?;
        let parent = value
            .get("parentCheckpoint")
            .and_then(serde_json::Value::as_str);
        let is_incremental = is("incremental");
        let variant = if is_incremental {
            "incremental"
        } else {
            "full"
        };
        Ok(ImageFacts {
            parent: is_incremental.then(|| ParentReference {
                identity: None,
                hints: parent.map(str::to_owned).into_iter().collect(),
                format: Some(FORMAT.to_owned()),
            }),
            ..ImageFacts::whole_image(len, variant)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_core::source::ExtentKind::{Absent, Data, Zero};

    fn stream(meta: &str, frames: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = format!("meta {:016x} {:016x}\r\n{meta}\r\n", 0, meta.len()).into_bytes();
        for (kind, start, payload) in frames {
            bytes.extend(format!("{kind} {start:016x} {:016x}\r\n", payload.len()).bytes());
            if *kind == "data" {
                bytes.extend_from_slice(payload);
                bytes.extend(b"\r\n");
            }
        }
        bytes
    }

    #[test]
    fn frames_are_found_where_they_say_and_an_end_is_required() {
        let meta = r#"{"virtualSize": 5000, "incremental": true, "parentCheckpoint": "cp.1"}"#;
        let frames: [(&str, u64, &[u8]); 4] = [
            ("data", 100, &[7; 1000]),
            ("zero", 1100, &[0; 900]),
            ("data", 4000, &[9; 1000]),
            ("stop", 0, &[]),
        ];
        let bytes = stream(meta, &frames);
        let seen = crate::probe::probe_file(&bytes).expect("read").verdict();
        assert_eq!(
            seen.input_format(),
            Some(crate::input::InputFormat::SparseStream)
        );
        let told = read_facts(&bytes).expect("told");
        assert_eq!(told.parent.expect("a parent").hints, ["cp.1"]);
        let image = open_image(Arc::new(bytes.clone())).expect("opens");
        let kinds: Vec<_> = [0, 100, 1100, 2000, 4000]
            .map(|at| {
                image
                    .extent_at(at)
                    .map(|extent| (extent.len, extent.kind))
                    .expect("told")
            })
            .into();
        let expected = [
            (100, Absent),
            (1000, Data),
            (900, Zero),
            (2000, Absent),
            (1000, Data),
        ];
        assert_eq!(kinds, expected);
        for len in 0..bytes.len() {
            assert!(
                open_image(Arc::new(bytes[..len].to_vec())).is_err(),
                "cut off at {len}"
            );
        }
    }

    #[test]
    fn what_is_said_twice_or_is_compressed_is_refused() {
        let double: [(&str, u64, &[u8]); 3] =
            [("data", 0, &[1; 9]), ("zero", 8, &[0; 9]), ("stop", 0, &[])];
        assert!(open_image(Arc::new(stream(r#"{"virtualSize": 50}"#, &double))).is_err());
        let stop: [(&str, u64, &[u8]); 1] = [("stop", 0, &[])];
        for meta in [
            r#"{"virtualSize": 50, "compressed": 1}"#,
            "{}",
            "[",
            r#"{"virtualSize": -1}"#,
        ] {
            assert!(open_image(Arc::new(stream(meta, &stop))).is_err(), "{meta}");
        }
    }
}
