//! XML as these descriptions need it: a bounded tree to read, escaped texts to write.

use roxmltree::{Document, Node, ParsingOptions};

use super::{DESCRIPTION_LEN_MAX, DescriptionError, description_error};
use crate::identity::DiskIdentity;

/// A node takes at least four bytes of text, so the text bounds them too.
const NODES_MAX: u32 = 1 << 20;
/// The deepest nesting. A chain of snapshots nests twice a snapshot.
const DEPTH_MAX: usize = 4096;

/// The text as a tree.
pub(super) fn parse_document(text: &str) -> Result<Document<'_>, DescriptionError> {
    if text.len() > DESCRIPTION_LEN_MAX {
        return Err(description_error(format!(
            "a text of {} bytes is too long",
            text.len()
        )));
    }
    if nesting_depth(text) > DEPTH_MAX {
        return Err(description_error(format!(
            "it nests deeper than {DEPTH_MAX}"
        )));
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options)
        .map_err(|error| description_error(error.to_string()))
}

/// Counts how deep elements nest at most, before anything is parsed: generously, since comments
/// count as well.
fn nesting_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for piece in text.split('<').skip(1) {
        if piece.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else if !piece.starts_with(['!', '?']) && !piece.contains("/>") {
            depth += 1;
            deepest = deepest.max(depth);
        }
    }
    deepest
}

/// The first child element of that name, whatever its namespace.
pub(super) fn child_element<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    child_elements(node, name).next()
}

/// The child elements of that name.
pub(super) fn child_elements<'a, 'i>(
    node: Node<'a, 'i>,
    name: &str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// The attribute of that name, whatever its namespace.
pub(super) fn attribute_value<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let mut attributes = node.attributes();
    let found = attributes.find(|attribute| attribute.name() == name)?;
    Some(found.value())
}

/// The text inside the child element of that name.
pub(super) fn child_text(node: Node, name: &str) -> Option<String> {
    let text = child_element(node, name)?.text()?.trim();
    Some(text.to_owned())
}

/// A UUID as it is printed, in braces or not.
pub(super) fn parse_uuid(text: &str) -> Option<DiskIdentity> {
    let text = text.trim_start_matches('{').trim_end_matches('}');
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let mut bytes = [0; 16];
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(DiskIdentity::Uuid(bytes))
}

/// Text as it may stand in an element or in an attribute. What XML has no way to say is left out.
pub(super) fn escape_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}
