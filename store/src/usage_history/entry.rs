//! Entry of the growth journal: an operation, when it was, and what it added.

use serde::{Deserialize, Serialize};
use vellum_core::name::{Name, NodeSpec};
use vellum_core::units::{ImageId, LayerId};

use crate::clock::now_ms;
use crate::records::StoreRecord;

const OPERATION_LEN_MAX: usize = 32;
/// Operation in the entry that sums old ones.
pub(super) const EARLIER: &str = "earlier";

/// Chunks that an operation added to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Added {
    /// New chunks, a number.
    pub(crate) chunks: u64,
    /// Their bytes before compression.
    pub(crate) plain: u64,
    /// The payloads of their frames.
    pub(crate) compressed: u64,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageEntry {
    /// The time, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// A word, perhaps with hyphens.
    pub(crate) operation: String,
    pub(crate) image: Option<ImageId>,
    /// The name of the image, or of its snapshot. Empty if it was about no image.
    pub(crate) name: String,
    /// The layer that got what was added.
    pub(crate) layer: Option<LayerId>,
    pub(crate) added: Added,
    /// Compressed bytes that were given back.
    pub(crate) freed: u64,
}

impl Added {
    /// Sums do not overflow: bytes from outside may hold any number.
    pub(super) fn saturating_plus(self, other: Self) -> Self {
        Self {
            chunks: self.chunks.saturating_add(other.chunks),
            plain: self.plain.saturating_add(other.plain),
            compressed: self.compressed.saturating_add(other.compressed),
        }
    }
}

impl UsageEntry {
    /// An entry of now.
    pub(crate) fn new(
        operation: &str,
        image: ImageId,
        name: String,
        layer: Option<LayerId>,
        added: Added,
    ) -> Self {
        Self {
            at_ms: now_ms(),
            operation: operation.to_owned(),
            image: Some(image),
            name,
            layer,
            added,
            freed: 0,
        }
    }

    /// An entry of now about the whole store: `freed` bytes were given back.
    pub(crate) fn of_freed(operation: &str, freed: u64) -> Self {
        Self {
            operation: operation.to_owned(),
            freed,
            at_ms: now_ms(),
            ..Self::earlier_sum()
        }
    }

    pub(super) fn earlier_sum() -> Self {
        Self {
            at_ms: 0,
            operation: EARLIER.to_owned(),
            image: None,
            name: String::new(),
            layer: None,
            added: Added::default(),
            freed: 0,
        }
    }

    pub(super) fn add_up(&mut self, other: &Self) {
        self.at_ms = self.at_ms.max(other.at_ms);
        self.added = self.added.saturating_plus(other.added);
        self.freed = self.freed.saturating_add(other.freed);
    }
}

/// Time, operation, image, name, layer, what was added, what was freed.
#[derive(Serialize, Deserialize)]
pub(crate) struct UsageEntryFields(u64, String, Option<u64>, String, Option<u64>, Added, u64);

impl StoreRecord for UsageEntry {
    type Fields = UsageEntryFields;

    fn to_fields(&self) -> UsageEntryFields {
        let (image, layer) = (
            self.image.map(|image| image.0),
            self.layer.map(|layer| layer.0),
        );
        UsageEntryFields(
            self.at_ms,
            self.operation.clone(),
            image,
            self.name.clone(),
            layer,
            self.added,
            self.freed,
        )
    }

    fn from_fields(
        UsageEntryFields(at_ms, operation, image, name, layer, added, freed): UsageEntryFields,
    ) -> Option<Self> {
        let is_word = operation
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let fits = is_word
            && (1..=OPERATION_LEN_MAX).contains(&operation.len())
            && (name.is_empty() || is_node(&name));
        fits.then(|| Self {
            at_ms,
            operation,
            image: image.map(ImageId),
            name,
            layer: layer.map(LayerId),
            added,
            freed,
        })
    }
}

/// True if `text` can be the name of an image or a snapshot: it is shown to people.
fn is_node(text: &str) -> bool {
    let spec = NodeSpec::parse(text);
    Name::new(&spec.image).is_ok()
        && spec
            .snapshot
            .is_none_or(|snapshot| Name::new(&snapshot).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_no_program_wrote_is_refused() {
        let good = UsageEntry::new(
            "write",
            ImageId(1),
            "a@b".to_owned(),
            None,
            Added::default(),
        );
        let fields = |entry: &UsageEntry| UsageEntry::from_fields(entry.to_fields());
        assert_eq!(fields(&good), Some(good.clone()));
        for (operation, name) in [
            ("", "a"),
            ("Write", "a"),
            ("w\u{1b}[2J", "a"),
            ("write", "a\nb"),
            ("write", "a@\u{202e}"),
            ("write", "@"),
        ] {
            let bad = UsageEntry {
                operation: operation.to_owned(),
                name: name.to_owned(),
                ..good.clone()
            };
            assert_eq!(fields(&bad), None, "{operation:?} {name:?}");
        }
    }
}
