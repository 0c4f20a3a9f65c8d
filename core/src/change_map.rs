//! A change map: which ranges of a source must be read, which are zero, and which are as in the
//! image imported last.
//!
//! It comes from a source that knows: a storage layer, a hypervisor's dirty bitmap, `qemu-img map`.
//! **A map is trusted**: a range that it calls zero or same is not read, so a wrong map makes a
//! wrong image. Three notations are told apart by their content:
//!
//! - text as borg has it: a range is `START LENGTH KIND`; the kinds are `data`, `zero` and `same`.
//! - `nbdinfo --map`, text or JSON: a range is `offset length type what`; `data`, `hole` and
//!   `dirty` are data, `zero` and `hole,zero` are zero, `clean` is same.
//! - `qemu-img map --output=json`: a range is `start length zero data`; it is zero if `zero` is
//!   true and `data` is false, else data, and never same.
//!
//! Where a notation leaves a doubt the answer is data, since reading is always right and only
//! slower. So nbdinfo's `hole` alone, whose content is undefined, is data. And qemu's map never
//! says *same*: it describes the content of the whole backing chain, not what changed. Its
//! `present: false` (no file of the chain has the range) says that the range reads as zeros *now*;
//! a guest that discarded a file gets there, and *same* would bring the file back. Its `depth`
//! tells which file has the bytes, and nobody promised that our parent image is that file.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod json;

use std::fmt;

use crate::units::IMAGE_LEN_MAX;
use json::{JsonObject, JsonScanner, JsonValue};

/// qemu counts sources in sectors, so its map of an odd file ends up to 511 bytes behind it.
const SECTOR_LEN: u64 = 512;

/// The statement of a change map about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Read it.
    Data,
    /// It reads as zeros.
    Zero,
    /// It holds what the parent image holds.
    Same,
}

/// A range of a source, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRange {
    /// The first byte.
    pub start: u64,
    /// The length in bytes, never zero.
    pub len: u64,
    /// The kind of the range.
    pub kind: ChangeKind,
}

impl ChangeRange {
    /// The first byte after it.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.start + self.len
    }
}

/// Ranges that follow each other without gap from byte 0; neighbours differ in kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeMap {
    ranges: Vec<ChangeRange>,
}

impl ChangeMap {
    /// Reads a map in any of the notations. Takes memory in proportion to `bytes`.
    ///
    /// ```
    /// use vellum_core::change_map::{ChangeKind, ChangeMap};
    ///
    /// let map = ChangeMap::parse(b"# from the array\n0 4096 data\n0x1000 1048576 same\n")?
    ///     .for_image(1_052_672)?;
    /// assert_eq!(map.range_at(5000).map(|range| range.kind), Some(ChangeKind::Same));
    /// # Ok::<(), vellum_core::change_map::ChangeMapError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When it is in none of the notations, has gaps or overlaps, or says something whose meaning
    /// is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChangeMapError> {
        let mut map = Self::default();
        if bytes.trim_ascii_start().starts_with(b"[") {
            map.read_json(bytes)
        } else {
            map.read_text(bytes)
        }?;
        Ok(map)
    }

    /// The map for an image of `image_len` bytes, which it must cover exactly (to the sector: a map
    /// in whole sectors is cut at the image's end). This catches a map that belongs to another
    /// source.
    ///
    /// # Errors
    ///
    /// When it covers less or more.
    pub fn for_image(mut self, image_len: u64) -> Result<Self, ChangeMapError> {
        let len = self.len();
        if len != image_len && Some(len) != image_len.checked_next_multiple_of(SECTOR_LEN) {
            return Err(ChangeMapError {
                place: ChangeMapLocation::End,
                reason: format!(
                    "it covers {len} bytes, and the image has {image_len}: is it the map of \
                     another source?"
                ),
            });
        }
        self.ranges.retain(|range| range.start < image_len);
        if let Some(last) = self.ranges.last_mut() {
            last.len = image_len - last.start;
        }
        Ok(self)
    }

    /// The number of bytes that it covers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.last().map_or(0, ChangeRange::end_offset)
    }

    /// True if it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges in order.
    #[must_use]
    pub fn ranges(&self) -> &[ChangeRange] {
        &self.ranges
    }

    /// The range that holds the byte at `offset`, `None` behind the map's end. Binary search.
    #[must_use]
    pub fn range_at(&self, offset: u64) -> Option<ChangeRange> {
        let index = self
            .ranges
            .partition_point(|range| range.end_offset() <= offset);
        self.ranges.get(index).copied()
    }

    /// Adds the next range. Empty ones are dropped: qemu writes one for an empty image.
    fn push_range(&mut self, range: ParsedRange) -> Result<(), String> {
        let ParsedRange { start, len, kind } = range;
        let expected = self.len();
        if start != expected {
            return Err(format!(
                "the range starts at {start} and should at {expected}: a map is sorted and has no \
                 gaps"
            ));
        }
        if len > IMAGE_LEN_MAX - start.min(IMAGE_LEN_MAX) {
            return Err(format!(
                "the range of {len} bytes from {start} ends beyond {IMAGE_LEN_MAX}"
            ));
        }
        match self.ranges.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.kind == kind => last.len += len,
            _ => self.ranges.push(ChangeRange { start, len, kind }),
        }
        Ok(())
    }

    fn read_text(&mut self, bytes: &[u8]) -> Result<(), ChangeMapError> {
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let done = parse_line(line)
                .and_then(|range| range.map_or(Ok(()), |range| self.push_range(range)));
            done.map_err(|reason| ChangeMapError {
                place: ChangeMapLocation::Line(index as u64 + 1),
                reason,
            })?;
        }
        Ok(())
    }

    fn read_json(&mut self, bytes: &[u8]) -> Result<(), ChangeMapError> {
        let mut scanner = JsonScanner::new(bytes);
        let done = self.read_objects(&mut scanner);
        done.map_err(|reason| ChangeMapError {
            place: ChangeMapLocation::Byte(scanner.offset() as u64),
            reason,
        })
    }

    fn read_objects(&mut self, scanner: &mut JsonScanner) -> Result<(), String> {
        while let Some(object) = scanner.next_object()? {
            self.push_range(parse_object(&object)?)?;
        }
        Ok(())
    }
}

/// A range as some notation has it, not yet in its place.
#[derive(Clone, Copy)]
struct ParsedRange {
    start: u64,
    len: u64,
    kind: ChangeKind,
}

/// The range on a line of borg's or nbdinfo's text, `None` when it has none.
fn parse_line(line: &[u8]) -> Result<Option<ParsedRange>, String> {
    let line = std::str::from_utf8(line)
        .map_err(|_| "this is not text, nor JSON that starts with [".to_owned())?;
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let (start, len, kind) = match [(); 5].map(|()| words.next()) {
        [None, ..] => return Ok(None),
        [Some(start), Some(len), Some(kind), None, _] => (start, len, borg_kind(kind)?),
        [Some(start), Some(len), Some(code), Some(what), None] => {
            (start, len, nbd_kind(parse_number(code)?, what)?)
        }
        _ => {
            return Err(
                "a range is START LENGTH data|zero|same, or a line of `nbdinfo --map` \
                        (without --totals)"
                    .to_owned(),
            );
        }
    };
    Ok(Some(ParsedRange {
        start: parse_number(start)?,
        len: parse_number(len)?,
        kind,
    }))
}

fn parse_object(object: &JsonObject) -> Result<ParsedRange, String> {
    if object.get("start").is_some() {
        let (zero, data) = (object.flag_member("zero")?, object.flag_member("data")?);
        let kind = if zero && !data {
            ChangeKind::Zero
        } else {
            ChangeKind::Data
        };
        return Ok(ParsedRange {
            start: object.number_member("start")?,
            len: object.number_member("length")?,
            kind,
        });
    }
    let kind = match object.get("description") {
        Some(JsonValue::Text(what)) => nbd_kind(object.number_member("type")?, what)?,
        _ => return Err(
            "the range has neither \"start\" (qemu-img map) nor \"description\" (nbdinfo --map)"
                .to_owned(),
        ),
    };
    Ok(ParsedRange {
        start: object.number_member("offset")?,
        len: object.number_member("length")?,
        kind,
    })
}

fn borg_kind(kind: &str) -> Result<ChangeKind, String> {
    match kind {
        "data" => Ok(ChangeKind::Data),
        "zero" => Ok(ChangeKind::Zero),
        "same" => Ok(ChangeKind::Same),
        _ => Err(format!("{kind:?} is none of data, zero, same")),
    }
}

/// The number alone does not tell: 1 is a hole in one context and dirty in another. The words do,
/// so both are required to agree.
fn nbd_kind(code: u64, what: &str) -> Result<ChangeKind, String> {
    match (code, what) {
        (0, "data") | (1, "hole" | "dirty") => Ok(ChangeKind::Data),
        (2, "zero") | (3, "hole,zero") => Ok(ChangeKind::Zero),
        (0, "clean") => Ok(ChangeKind::Same),
        _ => Err(format!(
            "type {code} {what:?} is not known; use `nbdinfo --map` for content or \
             `nbdinfo --map=qemu:dirty-bitmap:NAME` for changes"
        )),
    }
}

/// Decimal digits, or `0x` and hexadecimal ones; no sign.
fn parse_number(text: &str) -> Result<u64, String> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |digits| (digits, 16));
    let parsed = u64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| !digits.starts_with('+'));
    parsed.ok_or_else(|| format!("{text:?} is not a number of bytes (decimal or 0x)"))
}

/// The reason why a change map cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change map cannot be used: {place}: {reason}")]
pub struct ChangeMapError {
    /// The place of the fault in the map.
    pub place: ChangeMapLocation,
    /// The fault, and what would be right.
    pub reason: String,
}

/// A place in a change map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeMapLocation {
    /// A line of text, from 1.
    Line(u64),
    /// A byte of JSON, from 0.
    Byte(u64),
    /// Its end.
    End,
}

impl fmt::Display for ChangeMapLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Byte(byte) => write!(f, "byte {byte}"),
            Self::End => write!(f, "at its end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChangeKind::{Data, Same, Zero};

    /// The ranges of a map as (length, kind).
    fn read(text: &str) -> Result<Vec<(u64, ChangeKind)>, String> {
        let map = ChangeMap::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(map
            .ranges()
            .iter()
            .map(|range| (range.len, range.kind))
            .collect())
    }

    /// The samples are as the tools printed them, on an image with data, zeros and holes.
    #[test]
    fn the_notation_is_told_by_the_content() {
        for (text, ranges) in [
            ("", vec![]),
            ("[]", vec![]),
            ("# nothing\n\n", vec![]),
            (
                "0 4096 data\n4096 100 zero\n4196 4 same\n",
                vec![(4096, Data), (100, Zero), (4, Same)],
            ),
            (
                "0x0 0x1000 data # the boot sector\r\n\t4096  0X10 same",
                vec![(4096, Data), (16, Same)],
            ),
            (
                "0 1 data\n1 2 data\n3 0 same\n3 1 zero",
                vec![(3, Data), (1, Zero)],
            ),
            (
                concat!(
                    "         0       65536    0  data\n     65536    10420224    3  hole,zero\n",
                    "  10485760        4096    1  hole\n",
                ),
                vec![(65536, Data), (10_420_224, Zero), (4096, Data)],
            ),
            (
                "0 3145728 0 clean\n3145728 65536 1 dirty\n",
                vec![(3_145_728, Same), (65536, Data)],
            ),
            (
                "[\n{ \"offset\": 0, \"length\": 65536, \"type\": 0, \"description\": \"data\"},\n\
                 { \"offset\": 65536, \"length\": 4096, \"type\": 3, \
                 \"description\": \"hole,zero\"},\n\
                 { \"offset\": 69632, \"length\": 4096, \"type\": 0, \
                 \"description\": \"clean\"}\n]\n",
                vec![(65536, Data), (4096, Zero), (4096, Same)],
            ),
            (
                "[{ \"start\": 0, \"length\": 65536, \"depth\": 0, \"present\": true, \
                 \"zero\": false, \"data\": true, \"offset\": 327680, \
                 \"filename\": \"a \\\"quoted\\\\ name\"},\n\
                 { \"start\": 65536, \"length\": 10, \"depth\": 1, \"present\": false, \
                 \"zero\": true, \"data\": false},\n\
                 { \"start\": 65546, \"length\": 6, \"depth\": 0, \"present\": false, \
                 \"zero\": false, \"data\": false}]",
                vec![(65536, Data), (10, Zero), (6, Data)],
            ),
            // qemu-img of an empty image.
            (
                "[{ \"start\": 0, \"length\": 0, \"zero\": false, \"data\": false}]",
                vec![],
            ),
        ] {
            let map = ChangeMap::parse(text.as_bytes()).expect("a map");
            assert_eq!(map.is_empty(), ranges.is_empty(), "{text}");
            assert_eq!(read(text), Ok(ranges), "{text}");
        }
    }

    /// Texts that are no map, the place that the error names, and its reason.
    const NOT_UNDERSTOOD: [(&str, &str, &str); 32] = [
        ("0 10 data\n20 10 data", "line 2", "should at 10"),
        ("0 10 data\n5 10 data", "line 2", "should at 10"),
        ("5 10 data", "line 1", "should at 0"),
        ("0 10 data\n\n# x\n10 10 dirty", "line 4", "dirty"),
        ("0 10", "line 1", "START LENGTH"),
        ("0 10 data\n10 1 0 data more", "line 2", "START LENGTH"),
        ("0 -1 data", "line 1", "not a number"),
        ("0 +1 data", "line 1", "not a number"),
        ("0 0x data", "line 1", "not a number"),
        ("0 1k data", "line 1", "not a number"),
        ("0 18446744073709551616 data", "line 1", "not a number"),
        ("0 18446744073709551615 data", "line 1", "beyond"),
        ("0 1 zero\n1 72057594037927936 data", "line 2", "beyond"),
        ("0 1 1 local", "line 1", "qemu:dirty-bitmap"),
        ("0 1 1 data", "line 1", "qemu:dirty-bitmap"),
        ("0 1 0 hole,zero", "line 1", "qemu:dirty-bitmap"),
        ("  65536   0.6%   0 data", "line 1", "not a number"),
        ("\u{fffd}", "line 1", "START LENGTH"),
        ("[", "byte 1", "'{' was expected"),
        ("[{}]", "byte 2", "'\"' was expected"),
        (
            "[{\"start\":0,\"length\":1,\"zero\":true,\"data\":false},]",
            "byte 49",
            "'{' was expected",
        ),
        (
            "[{\"start\":0,\"length\":1,\"zero\":true,\"data\":false}] x",
            "byte 49",
            "follows",
        ),
        (
            "[{\"start\":0,\"length\":1,\"zero\":true,\"data\":false}",
            "byte 48",
            "',' was expected",
        ),
        ("[{\"start\":0,\"start\":1}]", "byte 21", "twice"),
        (
            "[{\"start\":0,\"length\":1.5,\"zero\":true,\"data\":false}]",
            "byte",
            "whole number \"length\"",
        ),
        (
            "[{\"start\":0,\"length\":-1,\"zero\":true,\"data\":false}]",
            "byte",
            "whole number \"length\"",
        ),
        (
            "[{\"start\":0,\"length\":1,\"zero\":1,\"data\":false}]",
            "byte",
            "true or false \"zero\"",
        ),
        (
            "[{\"start\":0,\"length\":1,\"data\":false}]",
            "byte",
            "true or false \"zero\"",
        ),
        ("[{\"start\":[0]}]", "byte 10", "nested"),
        (
            "[{\"offset\":0,\"length\":1,\"type\":0}]",
            "byte",
            "description",
        ),
        ("[{\"start", "byte 3", "inside a string"),
        ("[[[[[[[[", "byte 1", "'{' was expected"),
    ];

    #[test]
    fn what_is_not_understood_is_an_error_that_says_where() {
        for (text, place, why) in NOT_UNDERSTOOD {
            let error = read(text).expect_err(text);
            assert!(
                error.contains(place) && error.contains(why),
                "{text}: {error}"
            );
        }
        assert!(ChangeMap::parse(b"0 1 data\n\xff\xfe").is_err());
    }

    #[test]
    fn a_map_of_another_image_is_refused() {
        let map = || ChangeMap::parse(b"0 1000 data\n1000 24 zero\n").expect("a good map");
        for (image_len, fits) in [
            (0, false),
            (512, false),
            (513, true),
            (1000, true),
            (1001, true),
            (1024, true),
            (1025, false),
            (u64::MAX, false),
        ] {
            match map().for_image(image_len) {
                Ok(map) => assert!(fits && map.len() == image_len, "{image_len}"),
                Err(error) => assert!(
                    !fits && error.place == ChangeMapLocation::End,
                    "{image_len}"
                ),
            }
        }
        assert!(
            ChangeMap::default()
                .for_image(0)
                .expect("nothing maps nothing")
                .is_empty()
        );
        assert!(ChangeMap::default().for_image(1).is_err());
    }

    #[test]
    fn every_offset_is_in_one_range() {
        let map = ChangeMap::parse(b"0 3 data\n3 1 zero\n4 2 same\n").expect("a good map");
        let kinds: Vec<_> = (0..7)
            .map(|offset| map.range_at(offset).map(|range| range.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                Some(Data),
                Some(Data),
                Some(Data),
                Some(Zero),
                Some(Same),
                Some(Same),
                None
            ]
        );
    }

    #[test]
    fn any_bytes_are_a_map_or_an_error() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let words: [&[u8]; 16] = [
            b"[",
            b"{",
            b"}",
            b"]",
            b",",
            b":",
            b"\"",
            b"\\",
            b"\"start\":0",
            b"\"length\":1",
            b"\"zero\":true",
            b"\"data\":false",
            b"0 1 data\n",
            b"1",
            b" ",
            b"\xff",
        ];
        for _ in 0..50_000 {
            let text: Vec<u8> = (0..random.usize(..14))
                .flat_map(|_| *random.choice(&words).expect("not empty"))
                .copied()
                .collect();
            if let Ok(map) = ChangeMap::parse(&text) {
                assert!(map.ranges().len() <= text.len(), "{text:?}");
            }
        }
    }
}
