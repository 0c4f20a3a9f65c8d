//! The recorder's log: the calls that changed the folder, in the order of the kernel.
//!
//! All numbers are in the machine's byte order: a log is read where it was written.
//!
//! ```text
//! offset  size  meaning
//!      0     4  kind
//!      4     4  descriptor
//!      8     8  number: an offset, a length, flags
//!     16     4  length of a
//!     20     4  length of b
//!     24        a, then b
//! ```

/// One change, or something that the recorded process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A path was opened; made if it was not there and `creates`; cut to nothing if `truncates`.
    Open {
        /// The descriptor from now on.
        fd: i32,
        /// True if it is made if it is not there.
        creates: bool,
        /// True if its content is cut to nothing.
        truncates: bool,
        /// Relative to the root, as all paths here; the root itself is empty.
        path: String,
    },
    /// A descriptor ended.
    Close {
        /// The descriptor.
        fd: i32,
    },
    /// A descriptor got a twin.
    Duplicate {
        /// The descriptor.
        fd: i32,
        /// The twin.
        copy: i32,
    },
    /// Bytes were written.
    Write {
        /// The descriptor.
        fd: i32,
        /// In bytes.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A file was cut, or extended with zeros.
    SetLen {
        /// The descriptor.
        fd: i32,
        /// In bytes.
        len: u64,
    },
    /// A file was extended with zeros if it was shorter.
    Grow {
        /// The descriptor.
        fd: i32,
        /// In bytes.
        len: u64,
    },
    /// A name moved, over another if there was one.
    Rename {
        /// Its old path.
        from: String,
        /// Its new path.
        to: String,
    },
    /// A file got a second name.
    Link {
        /// The name that it had.
        from: String,
        /// The second.
        to: String,
    },
    /// A file's name went.
    Unlink {
        /// The path.
        path: String,
    },
    /// A folder was made.
    MakeFolder {
        /// Its path.
        path: String,
    },
    /// An empty folder went.
    RemoveFolder {
        /// Its path.
        path: String,
    },
    /// A file or folder was synced, and the call returned.
    Sync {
        /// The descriptor.
        fd: i32,
    },
    /// The whole file system was synced.
    SyncAll,
    /// The recorded process said something.
    Mark(String),
    /// An event that the log cannot tell.
    Escape(String),
}

/// Bytes before an entry's two texts.
const HEAD_LEN: usize = 24;

/// The events of a log. Fails, saying where, on bytes that no recorder wrote; an entry that is cut
/// off at the end is one of those.
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Event>, String> {
    let total = bytes.len();
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let at = total - bytes.len();
        let (event, rest) =
            parse_one(bytes).ok_or_else(|| format!("no entry of a log at byte {at} of {total}"))?;
        events.push(event);
        bytes = rest;
    }
    Ok(events)
}

fn parse_one(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
    let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let number = u64::from_ne_bytes(head.get(8..16)?.try_into().ok()?);
    let (a, rest) = rest.split_at_checked(word(16)? as usize)?;
    let (b, rest) = rest.split_at_checked(word(20)? as usize)?;
    let fd = word(4)?.cast_signed();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let event = match word(0)? {
        1 => Event::Open {
            fd,
            creates: number & 1 != 0,
            truncates: number & 2 != 0,
            path: text(a)?,
        },
        2 => Event::Close { fd },
        3 => Event::Duplicate {
            fd,
            copy: i32::try_from(number).ok()?,
        },
        4 => Event::Write {
            fd,
            offset: number,
            bytes: a.to_vec(),
        },
        5 => Event::SetLen { fd, len: number },
        6 => Event::Grow { fd, len: number },
        7 => Event::Rename {
            from: text(a)?,
            to: text(b)?,
        },
        8 => Event::Link {
            from: text(a)?,
            to: text(b)?,
        },
        9 => Event::Unlink { path: text(a)? },
        10 => Event::MakeFolder { path: text(a)? },
        11 => Event::RemoveFolder { path: text(a)? },
        12 => Event::Sync { fd },
        13 => Event::SyncAll,
        14 => Event::Mark(text(a)?),
        15 => Event::Escape(text(a)?),
        _ => return None,
    };
    Some((event, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u32, fd: i32, number: u64, a: &[u8], b: &[u8]) -> Vec<u8> {
        let lens = [
            (a.len() as u32).to_ne_bytes(),
            (b.len() as u32).to_ne_bytes(),
        ]
        .concat();
        [
            &kind.to_ne_bytes()[..],
            &fd.to_ne_bytes(),
            &number.to_ne_bytes(),
            &lens,
            a,
            b,
        ]
        .concat()
    }

    #[test]
    fn a_log_is_read_as_it_was_written_and_a_cut_one_is_refused() {
        let bytes = [
            entry(1, 7, 3, b"a/b", b""),
            entry(4, 7, 512, b"xyz", b""),
            entry(7, -1, 0, b"a/b", b"c"),
        ]
        .concat();
        let expected = vec![
            Event::Open {
                fd: 7,
                creates: true,
                truncates: true,
                path: "a/b".to_owned(),
            },
            Event::Write {
                fd: 7,
                offset: 512,
                bytes: b"xyz".to_vec(),
            },
            Event::Rename {
                from: "a/b".to_owned(),
                to: "c".to_owned(),
            },
        ];
        assert_eq!(parse(&bytes), Ok(expected));
        let whole = [24 + 3, 24 + 3 + 24 + 3];
        for end in (1..bytes.len()).filter(|end| !whole.contains(end)) {
            assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(parse(&entry(99, 0, 0, b"", b"")).is_err());
    }
}
