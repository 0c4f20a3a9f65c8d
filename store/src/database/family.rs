//! Families of the database: its parts, each with keys of one kind.

/// A part of the database with keys of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// First chunk id → payload.
    Frames,
    /// First chunk id → header.
    Headers,
    /// Hash prefix → chunk id.
    Index,
    /// Layer id → layer record.
    Layers,
    /// Layer id, page index → page.
    Pages,
    /// Kind, id → image or snapshot record.
    Names,
    /// Fixed words → parameters and counters.
    Meta,
    /// The records of layers, names and meta once more: the tag of their family, their key → the
    /// same record.
    Copies,
}

impl Family {
    pub(crate) const ALL: [Self; 8] = [
        Self::Frames,
        Self::Headers,
        Self::Index,
        Self::Layers,
        Self::Pages,
        Self::Names,
        Self::Meta,
        Self::Copies,
    ];

    pub(crate) fn family_name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Headers => "headers",
            Self::Index => "index",
            Self::Layers => "layers",
            Self::Pages => "pages",
            Self::Names => "names",
            Self::Meta => "meta",
            Self::Copies => "copies",
        }
    }

    /// First byte of keys in [`Family::Copies`], for the families whose records are few and without
    /// which nothing can be found: they are kept twice, in files of their own, so that no single
    /// file stands between a person and all their disks.
    pub(crate) fn copy_tag(self) -> Option<u8> {
        match self {
            Self::Layers => Some(b'l'),
            Self::Names => Some(b'n'),
            Self::Meta => Some(b'm'),
            Self::Frames | Self::Headers | Self::Index | Self::Pages | Self::Copies => None,
        }
    }
}
