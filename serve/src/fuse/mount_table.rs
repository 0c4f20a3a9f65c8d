//! Mounts and their folders, as Linux lists them in `/proc/self/mountinfo`: a pure parser of its
//! text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The number of a mounted file system: no two that are mounted at the same time share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountNumber {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    pub(super) number: MountNumber,
    pub(super) path: PathBuf,
    /// `fuse`, `fuse.vellum`, `ext4`
    pub(super) kind: String,
    pub(super) source: String,
}

/// All lines of `table` that can be read, in order: of several at one path the last is on top.
pub(super) fn parse_table(table: &[u8]) -> impl DoubleEndedIterator<Item = MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(read_line)
}

/// The mount that is seen at `path`.
pub(super) fn topmost_mount_at(table: &[u8], path: &Path) -> Option<MountEntry> {
    parse_table(table).rfind(|mounted| mounted.path == path)
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw`, with any number of
/// fields in front of the dash.
fn read_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    let path = PathBuf::from(OsString::from_vec(unescape_field(fields.get(4)?)));
    let dash = fields.iter().skip(6).position(|field| field == b"-")? + 6;
    let text = |field: usize| {
        fields
            .get(field)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let number = MountNumber {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    };
    Some(MountEntry {
        number,
        path,
        kind: text(dash + 1)?,
        source: text(dash + 2)?,
    })
}

/// Blanks, tabs, line ends and backslashes stand in the table as a backslash and three octal
/// digits.
fn unescape_field(mut field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    while let Some((&first, rest)) = field.split_first() {
        let digits = rest
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            field = &rest[3..];
        } else {
            bytes.push(first);
            field = rest;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        60 24 0:41 / /mnt/with\\040blank\\134 rw,nosuid shared:3 master:1 - fuse.vellum vellum \
        rw,user_id=0\n\
        torn 24 0:\n\
        61 24 0:42 / /mnt/twice rw - tmpfs none rw\n\
        62 24 0:43 / /mnt/twice rw - fuse vellum rw\n";

    #[test]
    fn the_topmost_mount_is_found_by_its_path() {
        for (path, expected) in [
            ("/", Some((0, "ext4"))),
            ("/mnt/with blank\\", Some((41, "fuse.vellum"))),
            ("/mnt/twice", Some((43, "fuse"))),
            ("/mnt", None),
        ] {
            let found = topmost_mount_at(TABLE, Path::new(path));
            assert_eq!(
                found
                    .as_ref()
                    .map(|mounted| (mounted.number.minor, mounted.kind.as_str())),
                expected,
                "{path}"
            );
        }
        assert_eq!(
            topmost_mount_at(TABLE, Path::new("/mnt/twice")).map(|mounted| mounted.source),
            Some("vellum".to_owned())
        );
    }

    #[test]
    fn no_line_is_too_odd_to_be_passed_over() {
        for len in 0..TABLE.len() {
            assert!(parse_table(&TABLE[..len]).count() <= 4, "{len}");
        }
        assert_eq!(unescape_field(b"\\04\\999\\"), b"\\04\\999\\");
    }
}
