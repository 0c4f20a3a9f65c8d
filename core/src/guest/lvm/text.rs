//! The language of LVM2's descriptions: names with numbers, texts, lists and sections.

/// Sections in sections: a description has four.
const DEPTH_MAX: usize = 8;

/// A value of a description.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DescriptionValue {
    Number(u64),
    Text(String),
    List(Vec<DescriptionValue>),
    Section(LvmSection),
}

/// A section: its entries in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LvmSection(pub(super) Vec<(String, DescriptionValue)>);

/// The section that is all of `bytes`; `None` if they are no description.
pub(super) fn parse_metadata(bytes: &[u8]) -> Option<LvmSection> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len()))?;
    let mut rest = std::str::from_utf8(bytes).ok()?;
    let found = parse_section(&mut rest, 0)?;
    rest.is_empty().then_some(found)
}

impl LvmSection {
    pub(super) fn find_value(&self, name: &str) -> Option<&DescriptionValue> {
        let found = self.0.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value)
    }

    pub(super) fn find_number(&self, name: &str) -> Option<u64> {
        match self.find_value(name)? {
            DescriptionValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn find_text(&self, name: &str) -> Option<&str> {
        match self.find_value(name)? {
            DescriptionValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn find_list(&self, name: &str) -> Option<&[DescriptionValue]> {
        match self.find_value(name)? {
            DescriptionValue::List(values) => Some(values),
            _ => None,
        }
    }

    pub(super) fn find_section(&self, name: &str) -> Option<&LvmSection> {
        match self.find_value(name)? {
            DescriptionValue::Section(section) => Some(section),
            _ => None,
        }
    }

    /// The sections in it, with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &LvmSection)> {
        self.0.iter().filter_map(|(name, value)| match value {
            DescriptionValue::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// Calls `visit` with every text in it, at any depth.
    pub(super) fn each_text<'t>(&'t self, visit: &mut dyn FnMut(&'t str)) {
        self.0.iter().for_each(|(_, value)| value.each_text(visit));
    }
}

impl DescriptionValue {
    fn each_text<'t>(&'t self, visit: &mut dyn FnMut(&'t str)) {
        match self {
            Self::Number(_) => {}
            Self::Text(text) => visit(text),
            Self::List(values) => values.iter().for_each(|value| value.each_text(visit)),
            Self::Section(section) => section.each_text(visit),
        }
    }
}

/// The entries up to the end of a section, or of the text.
fn parse_section(rest: &mut &str, depth: usize) -> Option<LvmSection> {
    let mut found = LvmSection::default();
    loop {
        skip_blank(rest);
        if rest.is_empty() || rest.starts_with('}') {
            return Some(found);
        }
        let name = parse_word(rest)?;
        skip_blank(rest);
        let value = if take_letter(rest, '{') {
            let inner = (depth < DEPTH_MAX).then(|| parse_section(rest, depth + 1))??;
            take_letter(rest, '}').then_some(DescriptionValue::Section(inner))?
        } else {
            take_letter(rest, '=').then(|| parse_value(rest))??
        };
        found.0.push((name, value));
    }
}

fn parse_value(rest: &mut &str) -> Option<DescriptionValue> {
    skip_blank(rest);
    if !take_letter(rest, '[') {
        return parse_scalar(rest);
    }
    let mut values = Vec::new();
    loop {
        skip_blank(rest);
        if take_letter(rest, ']') {
            return Some(DescriptionValue::List(values));
        }
        values.push(parse_scalar(rest)?);
        skip_blank(rest);
        take_letter(rest, ',');
    }
}

fn parse_scalar(rest: &mut &str) -> Option<DescriptionValue> {
    if take_letter(rest, '"') {
        return parse_quoted(rest).map(DescriptionValue::Text);
    }
    let word = parse_word(rest)?;
    // A number that is no count (negative, or broken) is a word.
    Some(match word.parse() {
        Ok(number) => DescriptionValue::Number(number),
        Err(_) => DescriptionValue::Text(word),
    })
}

fn parse_quoted(rest: &mut &str) -> Option<String> {
    let (mut text, mut is_escaped) = (String::new(), false);
    for (at, letter) in rest.char_indices() {
        match letter {
            '"' if !is_escaped => {
                *rest = rest.get(at + 1..)?;
                return Some(text);
            }
            '\\' if !is_escaped => is_escaped = true,
            _ => {
                text.push(letter);
                is_escaped = false;
            }
        }
    }
    None
}

fn parse_word(rest: &mut &str) -> Option<String> {
    let is_end = |letter: char| letter.is_whitespace() || "={}[],\"#".contains(letter);
    let (word, after) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
    *rest = after;
    (!word.is_empty()).then(|| word.to_owned())
}

fn take_letter(rest: &mut &str, letter: char) -> bool {
    let after = rest.strip_prefix(letter);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

/// Passes over white space and comments.
fn skip_blank(rest: &mut &str) {
    loop {
        *rest = rest.trim_start();
        if !rest.starts_with('#') {
            return;
        }
        *rest = rest
            .find('\n')
            .and_then(|end| rest.get(end..))
            .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_lvm_writes_them() {
        let bytes = b"vg {\nid = \"a\\\"b\"\n# said\nseqno = 3\nstripes = [\n\"pv0\", 0\n]\n\
            in { n = -1 }\n}\n\0";
        let found = parse_metadata(bytes).expect("a description");
        let group = found.find_section("vg").expect("there");
        assert_eq!(group.find_text("id"), Some("a\"b"));
        assert_eq!(group.find_number("seqno"), Some(3));
        assert_eq!(group.find_list("stripes").expect("there").len(), 2);
        let mut texts = Vec::new();
        found.each_text(&mut |text| texts.push(text));
        assert_eq!(texts, ["a\"b", "pv0", "-1"]);
    }

    #[test]
    fn other_texts_are_refused() {
        let deep = "a { ".repeat(1000);
        for bytes in ["}", "a {", "a = [1", "a = \"", "a", "= 1", "a = {", &deep] {
            assert_eq!(parse_metadata(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
