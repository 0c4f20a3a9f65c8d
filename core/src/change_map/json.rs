//! The JSON of change maps: one array of flat objects. Nested values are refused, so nothing here
//! recurses. It does not know what the members mean.

/// Members of one object at most: qemu writes nine, and a bound keeps looking one up cheap.
const MEMBERS_MAX: usize = 32;

/// Reads one object after the other, in memory proportional to one object.
pub(super) struct JsonScanner<'a> {
    rest: &'a [u8],
    len: usize,
    /// True if the array's bracket was read.
    inside: bool,
}

/// A value that is not nested. Text keeps its escapes: none of the words that matter has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonValue<'a> {
    Text(&'a str),
    Word(&'a str),
}

/// The members of one object.
pub(super) struct JsonObject<'a>(Vec<(&'a str, JsonValue<'a>)>);

impl<'a> JsonScanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            len: bytes.len(),
            inside: false,
        }
    }

    /// The offset of the next unread byte.
    pub(super) fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    /// The next object of the array, `None` behind its end, where the input must end too.
    pub(super) fn next_object(&mut self) -> Result<Option<JsonObject<'a>>, String> {
        let first = !self.inside;
        if first {
            self.expect_byte(b'[')?;
            self.inside = true;
        }
        if self.eat_byte(b']') {
            return if self.rest.trim_ascii().is_empty() {
                Ok(None)
            } else {
                Err("something follows the array".to_owned())
            };
        }
        if !first {
            self.expect_byte(b',')?;
        }
        self.read_object().map(Some)
    }

    fn read_object(&mut self) -> Result<JsonObject<'a>, String> {
        self.expect_byte(b'{')?;
        let mut members: Vec<(&str, JsonValue)> = Vec::new();
        while members.is_empty() || self.eat_byte(b',') {
            let (key, value) = self.read_member()?;
            if members.iter().any(|(known, _)| *known == key) || members.len() == MEMBERS_MAX {
                return Err(format!(
                    "the object has {key:?} twice, or more than {MEMBERS_MAX} members"
                ));
            }
            members.push((key, value));
        }
        self.expect_byte(b'}')?;
        Ok(JsonObject(members))
    }

    fn read_member(&mut self) -> Result<(&'a str, JsonValue<'a>), String> {
        let key = self.read_text()?;
        self.expect_byte(b':')?;
        let value = if self.peek_byte() == Some(b'"') {
            JsonValue::Text(self.read_text()?)
        } else {
            JsonValue::Word(self.read_word()?)
        };
        Ok((key, value))
    }

    fn read_text(&mut self) -> Result<&'a str, String> {
        self.expect_byte(b'"')?;
        let mut escaped = false;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let text = self.take_text(end.ok_or("the input ends inside a string")?)?;
        self.expect_byte(b'"')?;
        Ok(text)
    }

    /// A number or `true`, `false`, `null`.
    fn read_word(&mut self) -> Result<&'a str, String> {
        self.peek_byte();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = self
            .rest
            .iter()
            .position(|byte| !is_part(byte))
            .unwrap_or(self.rest.len());
        match self.take_text(end)? {
            "" => Err(
                "a number, a string, true, false or null was expected (nothing nested)".to_owned(),
            ),
            word => Ok(word),
        }
    }

    fn take_text(&mut self, len: usize) -> Result<&'a str, String> {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(taken).map_err(|_| "the text is not UTF-8".to_owned())
    }

    /// The next byte that is not white space.
    fn peek_byte(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn eat_byte(&mut self, byte: u8) -> bool {
        let found = self.peek_byte() == Some(byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        found
    }

    fn expect_byte(&mut self, byte: u8) -> Result<(), String> {
        if self.eat_byte(byte) {
            Ok(())
        } else {
            Err(format!("{:?} was expected", char::from(byte)))
        }
    }
}

impl<'a> JsonObject<'a> {
    pub(super) fn get(&self, key: &str) -> Option<JsonValue<'a>> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }

    /// A member that must be a whole number.
    pub(super) fn number_member(&self, key: &str) -> Result<u64, String> {
        match self.get(key) {
            Some(JsonValue::Word(word)) if word.bytes().all(|byte| byte.is_ascii_digit()) => {
                word.parse().ok()
            }
            _ => None,
        }
        .ok_or_else(|| format!("the object has no whole number {key:?}"))
    }

    /// A member that must be true or false.
    pub(super) fn flag_member(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            Some(JsonValue::Word("true")) => Ok(true),
            Some(JsonValue::Word("false")) => Ok(false),
            _ => Err(format!("the object has no true or false {key:?}")),
        }
    }
}
