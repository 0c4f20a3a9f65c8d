//! The JSON of change maps: one array of flat objects. Nested values are refused, so nothing here
//! recurses. It does not know what the members mean.

/// Members of one object at most: qemu writes nine, and a bound keeps looking one up cheap.
const MEMBERS_MAX: usize = 32;

/// Reads one object after the other, in memory proportional to one object.
pub(super) struct Scanner<'a> {
    rest: &'a [u8],
    len: usize,
    /// True if the array's bracket was read.
    inside: bool,
}

/// A value that is not nested. Text keeps its escapes: none of the words that matter has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Word(&'a str),
}

/// The members of one object.
pub(super) struct Object<'a>(Vec<(&'a str, Value<'a>)>);

impl<'a> Scanner<'a> {
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
    pub(super) fn next_object(&mut self) -> Result<Option<Object<'a>>, String> {
        let first = !self.inside;
        if first {
            self.expect(b'[')?;
            self.inside = true;
        }
        if self.eat(b']') {
            return if self.rest.trim_ascii().is_empty() {
                Ok(None)
            } else {
                Err("something follows the array".to_owned())
            };
        }
        if !first {
            self.expect(b',')?;
        }
        self.object().map(Some)
    }

    fn object(&mut self) -> Result<Object<'a>, String> {
        self.expect(b'{')?;
        let mut members: Vec<(&str, Value)> = Vec::new();
        while members.is_empty() || self.eat(b',') {
            let (key, value) = self.member()?;
            if members.iter().any(|(known, _)| *known == key) || members.len() == MEMBERS_MAX {
                return Err(format!(
                    "the object has {key:?} twice, or more than {MEMBERS_MAX} members"
                ));
            }
            members.push((key, value));
        }
        self.expect(b'}')?;
        Ok(Object(members))
    }

    fn member(&mut self) -> Result<(&'a str, Value<'a>), String> {
        let key = self.text()?;
        self.expect(b':')?;
        let value = if self.peek() == Some(b'"') {
            Value::Text(self.text()?)
        } else {
            Value::Word(self.word()?)
        };
        Ok((key, value))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        self.expect(b'"')?;
        let mut escaped = false;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let text = self.take(end.ok_or("the input ends inside a string")?)?;
        self.expect(b'"')?;
        Ok(text)
    }

    /// A number or `true`, `false`, `null`.
    fn word(&mut self) -> Result<&'a str, String> {
        self.peek();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = self
            .rest
            .iter()
            .position(|byte| !is_part(byte))
            .unwrap_or(self.rest.len());
        match self.take(end)? {
            "" => Err(
                "a number, a string, true, false or null was expected (nothing nested)".to_owned(),
            ),
            word => Ok(word),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a str, String> {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(taken).map_err(|_| "the text is not UTF-8".to_owned())
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(format!("{:?} was expected", char::from(byte)))
        }
    }
}

impl<'a> Object<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }

    /// A member that must be a whole number.
    pub(super) fn number(&self, key: &str) -> Result<u64, String> {
        match self.get(key) {
            Some(Value::Word(word)) if word.bytes().all(|byte| byte.is_ascii_digit()) => {
                word.parse().ok()
            }
            _ => None,
        }
        .ok_or_else(|| format!("the object has no whole number {key:?}"))
    }

    /// A member that must be true or false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            Some(Value::Word("true")) => Ok(true),
            Some(Value::Word("false")) => Ok(false),
            _ => Err(format!("the object has no true or false {key:?}")),
        }
    }
}
