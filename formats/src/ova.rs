//! A tar archive as the files that it holds: an OVA is an OVF, its disks and a list of sums in one.
//!
//! It unpacks nothing: a member is a range of the archive. What the OVF means is `machine`.
//!
//! ```text
//! Source: POSIX pax. A member: a header of 512 bytes, then its bytes up to a whole block of 512.
//! Numbers are octal text, or (GNU) big-endian behind a first byte of 0x80.
//!
//! offset size  meaning                                       the failure its check guards
//! 0      100   name                                          –
//! 124    12    length                                        members outside the file
//! 148    8     sum of the header's bytes, its own as spaces  damage, another format
//! 156    1     kind: 0 or "0" file, "x" pax, "L" long name   –
//! 257    5     "ustar"                                       (very old archives lack it)
//! 345    155   what stands before the name
//!
//! Two blocks of zeros end the archive. Pax and long names are about the next member.
//! ```

use std::io;
use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};

use crate::write::HeaderBytes;
use crate::{lies_inside, malformed, read_up_to, refused};

const FORMAT: &str = "ova";
const BLOCK_LEN: u64 = 512;
/// An appliance has a dozen files.
const MEMBERS_MAX: usize = 4096;
/// Pax records and long names: a page.
const RECORD_LEN_MAX: u64 = 64 << 10;

const NAME_LEN_MAX: usize = 100;

/// The blocks of zeros that end an archive.
pub const ARCHIVE_END: [u8; 2 * BLOCK_LEN as usize] = [0; 2 * BLOCK_LEN as usize];

/// A file inside an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveMember {
    /// Its name as the archive has it, which may be hostile.
    pub name: String,
    /// Offset of its bytes in the archive.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A member as a file of its own.
pub struct MemberFile {
    archive: Arc<dyn ReadAt>,
    offset: u64,
    len: u64,
}

/// Fields of the next member, from pax records or a long name.
#[derive(Default)]
struct NextMember {
    name: Option<String>,
    len: Option<u64>,
}

/// The regular files of a tar archive, in its order.
///
/// # Errors
///
/// [`SourceError::Malformed`] when it is none, or was cut off.
pub fn list_members(archive: &dyn ReadAt) -> Result<Vec<ArchiveMember>, SourceError> {
    let (mut found, mut next, mut at) = (Vec::new(), NextMember::default(), 0);
    for _ in 0..MEMBERS_MAX {
        let header = read_up_to(archive, at, BLOCK_LEN as usize)?;
        if header.len() < BLOCK_LEN as usize {
            return Err(malformed(
                FORMAT,
                format!("the archive was cut off at byte {at}"),
            ));
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let header = TarHeader::parse(&header, at)?;
        let offset = at + BLOCK_LEN;
        let len = next.len.unwrap_or(header.len);
        if !lies_inside(offset, len, archive.len()) {
            return Err(malformed(
                FORMAT,
                format!("the member at byte {at} leaves the archive"),
            ));
        }
        match header.kind {
            0 | b'0' | b'7' => {
                let name = next.name.take().unwrap_or(header.name);
                found.push(ArchiveMember { name, offset, len });
                next = NextMember::default();
            }
            b'x' => next.read_pax(&read_record(archive, offset, len)?),
            b'L' => next.name = Some(text_until_zero(&read_record(archive, offset, len)?)),
            b'g' => {}
            _ => next = NextMember::default(),
        }
        at = offset + len.next_multiple_of(BLOCK_LEN);
    }
    Err(refused(
        FORMAT,
        format!("it has more than {MEMBERS_MAX} members"),
    ))
}

/// The header of a file of `len` bytes that is written into an archive; behind the bytes go zeros
/// up to a whole block of 512, behind the last file [`ARCHIVE_END`]. Owner and time are always the
/// same.
///
/// # Errors
///
/// When the name is longer than 100 bytes, or leads out of the archive's folder.
pub fn member_header(name: &str, len: u64) -> Result<[u8; BLOCK_LEN as usize], SourceError> {
    let is_plain = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "..";
    if !is_plain || name.len() > NAME_LEN_MAX {
        return Err(refused(
            FORMAT,
            format!("the name {name:?} cannot stand in it"),
        ));
    }
    let mut header = HeaderBytes::new(BLOCK_LEN as usize);
    header
        .put_field(0, name.as_bytes())
        .put_field(100, b"0000644\0")
        .put_field(108, b"0000000\0")
        .put_field(116, b"0000000\0")
        .put_field(136, b"00000000000\0")
        .put_field(148, b"        ")
        .put_field(156, b"0")
        .put_field(257, b"ustar\x0000");
    if len < 1 << 33 {
        header.put_field(124, format!("{len:011o}\0").as_bytes());
    } else {
        header.put_field(124, &[0x80, 0, 0, 0]).be_u64(128, len);
    }
    let sum: u32 = header.as_slice().iter().map(|byte| u32::from(*byte)).sum();
    header.put_field(148, format!("{sum:06o}\0 ").as_bytes());
    Ok(*header
        .as_slice()
        .first_chunk()
        .expect("a header has its length"))
}

/// Opens a member.
#[must_use]
pub fn open_member(archive: Arc<dyn ReadAt>, member: &ArchiveMember) -> MemberFile {
    MemberFile {
        archive,
        offset: member.offset,
        len: member.len,
    }
}

struct TarHeader {
    name: String,
    len: u64,
    kind: u8,
}

impl TarHeader {
    fn parse(bytes: &[u8], at: u64) -> Result<Self, SourceError> {
        let field = |from: usize, len: usize| bytes.get(from..from + len).unwrap_or_default();
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = field(148, 8).iter().map(|byte| u64::from(*byte)).sum();
        if parse_number(field(148, 8)) != Some(sum - own + 8 * u64::from(b' ')) {
            return Err(malformed(
                FORMAT,
                format!("no tar header at byte {at}: its sum is wrong"),
            ));
        }
        let len = parse_number(field(124, 12));
        let len = len
            .ok_or_else(|| malformed(FORMAT, format!("the length at byte {} is none", at + 124)))?;
        let is_ustar = field(257, 5) == b"ustar";
        let prefix = if is_ustar {
            text_until_zero(field(345, 155))
        } else {
            String::new()
        };
        let name = text_until_zero(field(0, 100));
        Ok(Self {
            name: if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            },
            len,
            kind: bytes.get(156).copied().unwrap_or_default(),
        })
    }
}

impl NextMember {
    /// Records "LENGTH KEY=VALUE\n"; those that say nothing of name or length are skipped.
    fn read_pax(&mut self, records: &[u8]) {
        let mut rest = records;
        while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
            let (digits, _) = rest.split_at(space);
            let len = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse::<usize>().ok());
            let Some(record) = len.and_then(|len| rest.get(space + 1..len)) else {
                return;
            };
            let record = text_until_zero(record);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", path)) => self.name = Some(path.to_owned()),
                Some(("size", size)) => self.len = size.parse().ok(),
                _ => {}
            }
            rest = rest.get(space + 1 + record.len()..).unwrap_or_default();
        }
    }
}

fn read_record(archive: &dyn ReadAt, offset: u64, len: u64) -> Result<Vec<u8>, SourceError> {
    if len > RECORD_LEN_MAX {
        return Err(malformed(
            FORMAT,
            format!("a name of {len} bytes at byte {offset}"),
        ));
    }
    read_up_to(archive, offset, len as usize)
}

/// A number in octal text or GNU's binary notation.
fn parse_number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest.iter().try_fold(0_u64, |sum, byte| {
            sum.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let digits = field.iter().copied().skip_while(|byte| *byte == b' ');
    let digits: Vec<u8> = digits.take_while(u8::is_ascii_digit).collect();
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

/// The text up to the first zero.
fn text_until_zero(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

impl ReadAt for MemberFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if !lies_inside(offset, buffer.len() as u64, self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.archive.read_exact_at(buffer, self.offset + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
        put(0, name.as_bytes());
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend_from_slice(content);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    fn archive() -> Vec<u8> {
        let long = format!("{}.vmdk", "long".repeat(40));
        [
            member("a.ovf", b'0', b"<Envelope/>"),
            member("folder", b'5', b""),
            member("././@LongLink", b'L', long.as_bytes()),
            member("short.vmdk", b'0', &[7; 1000]),
            member("pax", b'x', b"17 path=b c.vmdk\n10 size=3\n"),
            member("d.vmdk", b'0', &[8; 3]),
            vec![0; 1024],
        ]
        .concat()
    }

    #[test]
    fn members_are_found_under_their_whole_names() {
        let bytes = archive();
        let found = list_members(&bytes).expect("an archive");
        let names: Vec<_> = found
            .iter()
            .map(|member| (member.name.len(), member.len))
            .collect();
        assert_eq!(names, [(5, 11), (165, 1000), (8, 3)]);
        assert_eq!(found[2].name, "b c.vmdk");
        let file = open_member(Arc::new(bytes), &found[1]);
        let mut content = vec![0; 1000];
        file.read_exact_at(&mut content, 0).expect("read");
        assert_eq!(content, [7; 1000]);
        assert!(file.read_exact_at(&mut [0], 1000).is_err());
    }

    #[test]
    fn what_is_written_is_found_again() {
        let mut bytes = Vec::new();
        for (name, content) in [("a.ovf", &[1_u8; 512][..]), ("b c.vmdk", &[2; 513])] {
            bytes.extend(member_header(name, content.len() as u64).expect("a name"));
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend(ARCHIVE_END);
        let found = list_members(&bytes).expect("an archive");
        let told: Vec<_> = found
            .iter()
            .map(|member| (member.name.as_str(), member.len))
            .collect();
        assert_eq!(told, [("a.ovf", 512), ("b c.vmdk", 513)]);
        let long = member_header("x", 1 << 40).expect("a name");
        let parsed = TarHeader::parse(&long, 0).expect("a header");
        assert_eq!(parsed.len, 1 << 40);
        for name in ["", "..", "a/b", "/etc", &"x".repeat(101)] {
            assert!(member_header(name, 1).is_err(), "{name}");
        }
    }

    #[test]
    fn damage_and_a_cut_are_errors() {
        let whole = archive();
        // Bytes behind the sum's digits mean nothing.
        for at in (0..154).chain(156..512) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            assert!(list_members(&bytes).is_err(), "byte {at}");
        }
        for len in (0..whole.len() - 1024).step_by(100) {
            assert!(
                list_members(&whole[..len].to_vec()).is_err(),
                "cut off at {len}"
            );
        }
    }
}
