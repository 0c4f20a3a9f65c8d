//! Keys as a terminal sends them: bytes become key presses, whatever comes. Pure.

/// The longest sequence of bytes that is taken for one key: real ones have ten at most.
const SEQUENCE_LEN_MAX: usize = 32;
const ESCAPE: u8 = 0x1b;

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyPress {
    Char(char),
    Ctrl(char),
    Alt(char),
    Enter,
    Tab,
    BackTab,
    Escape,
    Backspace,
    Delete,
    Insert,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Function(u8),
    /// Bytes that no key is known for.
    Unknown,
}

impl KeyPress {
    /// The name of the key for people.
    pub(crate) fn key_name(self) -> String {
        match self {
            Self::Char(' ') => "Space".to_owned(),
            Self::Char(letter) => letter.escape_debug().to_string(),
            Self::Ctrl(letter) => format!("Ctrl-{}", letter.to_ascii_uppercase()),
            Self::Alt(letter) => format!("Alt-{}", letter.escape_debug()),
            Self::BackTab => "Shift-Tab".to_owned(),
            Self::Escape => "Esc".to_owned(),
            Self::PageUp => "Page Up".to_owned(),
            Self::PageDown => "Page Down".to_owned(),
            Self::Function(number) => format!("F{number}"),
            Self::Unknown => "that key".to_owned(),
            named => format!("{named:?}"),
        }
    }
}

/// Bytes that are not a whole key yet.
#[derive(Debug, Default)]
pub(crate) struct KeyDecoder {
    bytes: Vec<u8>,
}

/// The beginning of what came.
enum DecodedKey {
    /// A key of so many bytes.
    Whole(KeyPress, usize),
    /// More may belong to it.
    Partial,
}

impl KeyDecoder {
    /// Takes what a terminal sent: the keys of it. The rest waits for more.
    pub(crate) fn take_bytes(&mut self, bytes: &[u8]) -> Vec<KeyPress> {
        self.bytes.extend_from_slice(bytes);
        self.decode_keys(false)
    }

    /// The keys of what waits, when nothing followed it for a while.
    pub(crate) fn take_pause(&mut self) -> Vec<KeyPress> {
        self.decode_keys(true)
    }

    fn decode_keys(&mut self, is_over: bool) -> Vec<KeyPress> {
        let (mut keys, mut start) = (Vec::new(), 0);
        while start < self.bytes.len() {
            match decode_key(&self.bytes[start..]) {
                DecodedKey::Whole(key, len) => {
                    keys.push(key);
                    start += len;
                }
                DecodedKey::Partial if is_over => {
                    let is_escape = self.bytes[start..] == [ESCAPE];
                    keys.push(if is_escape {
                        KeyPress::Escape
                    } else {
                        KeyPress::Unknown
                    });
                    start = self.bytes.len();
                }
                DecodedKey::Partial => break,
            }
        }
        self.bytes.drain(..start);
        keys
    }
}

fn decode_key(bytes: &[u8]) -> DecodedKey {
    match bytes {
        [ESCAPE, rest @ ..] => decode_sequence(rest),
        [b'\r' | b'\n', ..] => DecodedKey::Whole(KeyPress::Enter, 1),
        [b'\t', ..] => DecodedKey::Whole(KeyPress::Tab, 1),
        [0x7f | 0x08, ..] => DecodedKey::Whole(KeyPress::Backspace, 1),
        [0, ..] => DecodedKey::Whole(KeyPress::Ctrl(' '), 1),
        [byte @ 1..=26, ..] => DecodedKey::Whole(KeyPress::Ctrl((byte + b'a' - 1) as char), 1),
        [0x1c..=0x1f, ..] => DecodedKey::Whole(KeyPress::Unknown, 1),
        _ => decode_letter(bytes),
    }
}

fn decode_letter(bytes: &[u8]) -> DecodedKey {
    let len = match bytes.first() {
        Some(0..=0x7f) => 1,
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return DecodedKey::Whole(KeyPress::Unknown, 1),
    };
    let Some(letter) = bytes.get(..len) else {
        return DecodedKey::Partial;
    };
    let letter = std::str::from_utf8(letter).ok();
    match letter.and_then(|letter| letter.chars().next()) {
        Some(letter) => DecodedKey::Whole(KeyPress::Char(letter), len),
        None => DecodedKey::Whole(KeyPress::Unknown, 1),
    }
}

/// A key that begins with an escape, whose rest is `rest`.
fn decode_sequence(rest: &[u8]) -> DecodedKey {
    match rest {
        [] | [b'[' | b'O'] => DecodedKey::Partial,
        [b'O', last, ..] => DecodedKey::Whole(cursor_key(*last, false), 3),
        [b'[', b'[', last, ..] => DecodedKey::Whole(console_function(*last), 4),
        [b'[', b'['] => DecodedKey::Partial,
        [b'[', parameters @ ..] => decode_parameters(parameters),
        // An escape, and then another key.
        [ESCAPE, ..] => DecodedKey::Whole(KeyPress::Escape, 1),
        _ => match decode_letter(rest) {
            DecodedKey::Whole(KeyPress::Char(letter), len) if !letter.is_control() => {
                DecodedKey::Whole(KeyPress::Alt(letter), 1 + len)
            }
            DecodedKey::Partial => DecodedKey::Partial,
            DecodedKey::Whole(..) => DecodedKey::Whole(KeyPress::Escape, 1),
        },
    }
}

fn decode_parameters(bytes: &[u8]) -> DecodedKey {
    let end = bytes.iter().position(|byte| (0x40..=0x7e).contains(byte));
    let Some(end) = end else {
        return if bytes.len() > SEQUENCE_LEN_MAX {
            DecodedKey::Whole(KeyPress::Unknown, 2 + bytes.len())
        } else {
            DecodedKey::Partial
        };
    };
    let number = bytes[..end].split(|byte| *byte == b';').next();
    let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    let has_modifier = bytes[..end].contains(&b';');
    let key = match (bytes[end], number) {
        (b'~', Some(number)) if !has_modifier => numbered_key(number),
        (b'~', _) => KeyPress::Unknown,
        (last, _) => cursor_key(last, has_modifier),
    };
    DecodedKey::Whole(key, 2 + end + 1)
}

fn cursor_key(last: u8, has_modifier: bool) -> KeyPress {
    match last {
        _ if has_modifier => KeyPress::Unknown,
        b'A' => KeyPress::Up,
        b'B' => KeyPress::Down,
        b'C' => KeyPress::Right,
        b'D' => KeyPress::Left,
        b'H' => KeyPress::Home,
        b'F' => KeyPress::End,
        b'Z' => KeyPress::BackTab,
        b'M' => KeyPress::Enter,
        b'P' => KeyPress::Function(1),
        b'Q' => KeyPress::Function(2),
        b'R' => KeyPress::Function(3),
        b'S' => KeyPress::Function(4),
        _ => KeyPress::Unknown,
    }
}

fn console_function(last: u8) -> KeyPress {
    match last {
        b'A'..=b'E' => KeyPress::Function(last - b'A' + 1),
        _ => KeyPress::Unknown,
    }
}

fn numbered_key(number: u8) -> KeyPress {
    match number {
        1 | 7 => KeyPress::Home,
        2 => KeyPress::Insert,
        3 => KeyPress::Delete,
        4 | 8 => KeyPress::End,
        5 => KeyPress::PageUp,
        6 => KeyPress::PageDown,
        11..=15 => KeyPress::Function(number - 10),
        17..=21 => KeyPress::Function(number - 11),
        23 | 24 => KeyPress::Function(number - 12),
        _ => KeyPress::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_is_its_key_however_it_is_cut() {
        let rows: &[(&[u8], &[KeyPress])] = &[
            (b"a", &[KeyPress::Char('a')]),
            (
                "é日".as_bytes(),
                &[KeyPress::Char('é'), KeyPress::Char('日')],
            ),
            (b"\x1b[A\x1b[B", &[KeyPress::Up, KeyPress::Down]),
            (b"\x1bOC\x1bOD", &[KeyPress::Right, KeyPress::Left]),
            (b"\x1b[1~\x1b[4~", &[KeyPress::Home, KeyPress::End]),
            (b"\x1b[5~\x1b[6~", &[KeyPress::PageUp, KeyPress::PageDown]),
            (b"\x1b[3~\x1b[Z", &[KeyPress::Delete, KeyPress::BackTab]),
            (
                b"\r\t\x7f",
                &[KeyPress::Enter, KeyPress::Tab, KeyPress::Backspace],
            ),
            (b"\x03\x0c", &[KeyPress::Ctrl('c'), KeyPress::Ctrl('l')]),
            (
                b"\x1bOP\x1b[15~\x1b[24~",
                &[
                    KeyPress::Function(1),
                    KeyPress::Function(5),
                    KeyPress::Function(12),
                ],
            ),
            (b"\x1bx", &[KeyPress::Alt('x')]),
            (b"\x1b[1;5Az", &[KeyPress::Unknown, KeyPress::Char('z')]),
            (b"\xffz", &[KeyPress::Unknown, KeyPress::Char('z')]),
            (b"\x1b[[Az", &[KeyPress::Function(1), KeyPress::Char('z')]),
        ];
        for (bytes, keys) in rows {
            for cut in 0..=bytes.len() {
                let mut decoder = KeyDecoder::default();
                let mut found = decoder.take_bytes(&bytes[..cut]);
                found.extend(decoder.take_bytes(&bytes[cut..]));
                assert_eq!(&found, keys, "{bytes:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_escape_alone_is_a_key_once_nothing_follows() {
        let mut decoder = KeyDecoder::default();
        assert_eq!(decoder.take_bytes(b"\x1b"), []);
        assert_eq!(decoder.take_pause(), [KeyPress::Escape]);
        assert_eq!(decoder.take_bytes(b"\x1b["), []);
        assert_eq!(decoder.take_pause(), [KeyPress::Unknown]);
        assert_eq!(decoder.take_pause(), []);
    }

    #[test]
    fn no_bytes_wait_for_ever_or_grow() {
        let mut decoder = KeyDecoder::default();
        let mut endless = b"\x1b[".to_vec();
        endless.extend([b'1'; 1000]);
        assert!(decoder.take_bytes(&endless).contains(&KeyPress::Unknown));
        assert!(decoder.bytes.len() <= SEQUENCE_LEN_MAX);
        for byte in 0..=u8::MAX {
            let mut decoder = KeyDecoder::default();
            let mut keys = decoder.take_bytes(&[byte]);
            keys.extend(decoder.take_pause());
            assert_eq!(keys.len(), 1, "{byte}");
        }
    }
}
