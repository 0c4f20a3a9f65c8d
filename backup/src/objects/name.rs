//! The names of a repository's objects. Listings are hostile input: a text is one of these names,
//! letter for letter, or it is none.

use std::fmt;

use vellum_core::identity::SessionId;

use crate::hexadecimal;

/// The length of an object's ID in bytes.
pub const OBJECT_ID_LEN: usize = 32;

/// The name of an object: the BLAKE3-256 of its bytes as they are stored, so that anybody can check
/// it, also without a key. Objects begin with random bytes: no two writers ever make the same name,
/// and one that was condemned is never made again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; OBJECT_ID_LEN]);

impl ObjectId {
    /// The ID of an object that is stored as `stored`.
    #[must_use]
    pub fn of(stored: &[u8]) -> Self {
        Self(*blake3::hash(stored).as_bytes())
    }

    /// The ID that `text` writes: 64 lower-case hexadecimal digits, nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hexadecimal::read_exact(text).map(Self)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal::write(&self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

/// A kind of object, by the folder it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// The repository's file: one, at the top.
    Repository,
    /// The master key, wrapped.
    Key,
    /// Chunks.
    Pack,
    /// The places of chunks.
    Index,
    /// The maps of contents.
    Maps,
    /// A record of the journal: points pushed or forgotten, collections.
    Record,
    /// A process that is changing the repository.
    Session,
}

impl ObjectKind {
    /// The prefix of names of this kind: whole steps of the path, as [`super::Objects::list`] wants
    /// it.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Repository => "vellum.repository",
            Self::Key => "keys/",
            Self::Pack => "packs/",
            Self::Index => "index/",
            Self::Maps => "maps/",
            Self::Record => "journal/",
            Self::Session => "sessions/",
        }
    }
}

/// The name of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `vellum.repository`
    Repository,
    /// `keys/ID`
    Key(ObjectId),
    /// `packs/XX/ID`, where XX are the first two digits of ID
    Pack(ObjectId),
    /// `index/ID`
    Index(ObjectId),
    /// `maps/ID`
    Maps(ObjectId),
    /// `journal/COUNTER-ID`, the counter in 16 hexadecimal digits
    Record {
        /// One more than the greatest that the writer saw.
        counter: u64,
        /// The record.
        id: ObjectId,
    },
    /// `sessions/SESSION`
    Session(SessionId),
}

impl ObjectName {
    /// The name that `text` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == ObjectKind::Repository.prefix() {
            return Some(Self::Repository);
        }
        let (folder, rest) = text.split_once('/')?;
        match folder {
            "keys" => ObjectId::parse(rest).map(Self::Key),
            "packs" => {
                let (first, id) = rest.split_once('/')?;
                ObjectId::parse(id)
                    .filter(|_| first.len() == 2 && id.starts_with(first))
                    .map(Self::Pack)
            }
            "index" => ObjectId::parse(rest).map(Self::Index),
            "maps" => ObjectId::parse(rest).map(Self::Maps),
            "journal" => {
                let (counter, id) = rest.split_once('-')?;
                let counter = u64::from_be_bytes(hexadecimal::read_exact(counter)?);
                Some(Self::Record {
                    counter,
                    id: ObjectId::parse(id)?,
                })
            }
            "sessions" => SessionId::parse(rest).map(Self::Session),
            _ => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Repository => ObjectKind::Repository,
            Self::Key(_) => ObjectKind::Key,
            Self::Pack(_) => ObjectKind::Pack,
            Self::Index(_) => ObjectKind::Index,
            Self::Maps(_) => ObjectKind::Maps,
            Self::Record { .. } => ObjectKind::Record,
            Self::Session(_) => ObjectKind::Session,
        }
    }

    /// Its ID, if its name is the hash of its bytes.
    #[must_use]
    pub fn id(&self) -> Option<ObjectId> {
        match self {
            Self::Repository | Self::Session(_) => None,
            Self::Key(id)
            | Self::Pack(id)
            | Self::Index(id)
            | Self::Maps(id)
            | Self::Record { id, .. } => Some(*id),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().prefix())?;
        match self {
            Self::Repository => Ok(()),
            Self::Key(id) | Self::Index(id) | Self::Maps(id) => write!(f, "{id}"),
            Self::Pack(id) => write!(f, "{:02x}/{id}", id.0[0]),
            Self::Record { counter, id } => write!(f, "{counter:016x}-{id}"),
            Self::Session(session) => write!(f, "{session}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_lies_in_its_folder() {
        let id = ObjectId::of(b"an object");
        let names = [
            ObjectName::Repository,
            ObjectName::Key(id),
            ObjectName::Pack(id),
            ObjectName::Index(id),
            ObjectName::Maps(id),
            ObjectName::Record { counter: 0, id },
            ObjectName::Record {
                counter: u64::MAX,
                id,
            },
            ObjectName::Session(SessionId([9; 16])),
        ];
        for name in names {
            let text = name.to_string();
            assert_eq!(ObjectName::parse(&text), Some(name), "{text}");
            assert!(text.starts_with(name.kind().prefix()), "{text}");
        }
    }

    #[test]
    fn hostile_names_of_a_listing_are_no_names() {
        let id = ObjectId::of(b"an object").to_string();
        let other = if id.starts_with("00") { "01" } else { "00" };
        for hostile in [
            String::new(),
            "/".to_owned(),
            "keys/".to_owned(),
            id.clone(),
            format!("/keys/{id}"),
            format!("./keys/{id}"),
            format!("keys//{id}"),
            format!("keys/../{id}"),
            format!("keys/{id}/"),
            format!("keys/{id}\0"),
            format!("keys/{id}\n"),
            format!("keys/{}", id.to_uppercase()),
            format!("keys/{}", &id[1..]),
            format!("packs/{id}"),
            format!("packs/{other}/{id}"),
            format!("packs/{}/{id}", &id[..1]),
            format!("packs//{id}"),
            format!("journal/{id}"),
            format!("journal/1-{id}"),
            format!("journal/+00000000000000f-{id}"),
            format!("journal/000000000000000F-{id}"),
            format!("sessions/{id}"),
            "vellum.repository/".to_owned(),
            "../vellum.repository".to_owned(),
            "keys/é".to_owned(),
        ] {
            assert_eq!(ObjectName::parse(&hostile), None, "{hostile:?}");
        }
    }
}
