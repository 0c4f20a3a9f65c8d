//! Reads and writes RocksDB's manifest without RocksDB: the tables that make up the database, their
//! levels, and the log from which on records are in no table.
//!
//! ```text
//! A manifest is a log (see `logs`) whose records are edits, applied one after the other. An edit
//! is fields:
//!
//! varint tag  field
//! 1           comparator: string
//! 2, 9        logs below this number are in tables
//! 3           next number of a file
//! 4           last sequence number
//! 5           compaction cursor: level, string
//! 6           a table goes: level, number
//! 10          smallest log that is needed
//! 103         a table comes: level, number, length, first key, last key (strings, internal),
//!             smallest and largest sequence number, then fields of tag and string until tag 1
//! 200         the family that the edit is about; none: family 0
//! 201         name of a new family: string
//! 202         the family is dropped
//! 203         greatest family number: varint
//! 300         so many edits follow of this change: varint
//! 8192 + …    string: may be skipped
//! ```
//!
//! Source: RocksDB's `db/version_edit.cc`.

use std::collections::BTreeMap;

use vellum_core::wire::{WireReader, put_varint};

use super::block::tag_of;

const COMPARATOR: u64 = 1;
const LOG_NUMBER: u64 = 2;
const NEXT_FILE: u64 = 3;
const LAST_SEQUENCE: u64 = 4;
const CURSOR: u64 = 5;
const TABLE_GOES: u64 = 6;
const PREVIOUS_LOG: u64 = 9;
const MIN_LOG: u64 = 10;
const TABLE_COMES: u64 = 103;
const FAMILY: u64 = 200;
const FAMILY_COMES: u64 = 201;
const FAMILY_GOES: u64 = 202;
const FAMILY_MAX: u64 = 203;
const GROUP: u64 = 300;
/// Tags from here on are followed by a string and may be skipped.
const SKIPPABLE: u64 = 1 << 13;
const TIMESTAMPS_PERSISTED: u64 = SKIPPABLE + 9;
const DB_ID: u64 = SKIPPABLE + 1;
/// Ends what a table that comes has beside the fields that all have.
const TABLE_END: u64 = 1;
/// Orders tables of level 0: among what a table has beside the fields that all have.
const TABLE_EPOCH: u64 = 13;
const COMPARATOR_NAME: &[u8] = b"leveldb.BytewiseComparator";

/// A table, as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableRecord {
    pub(super) level: u64,
    pub(super) number: u64,
    pub(super) len: u64,
    /// The first and the last internal key.
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    pub(super) smallest: u64,
    pub(super) largest: u64,
    /// Its other fields, as they are written, without their end.
    pub(super) rest: Vec<u8>,
}

/// A family, as a manifest has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FamilyRecord {
    pub(super) name: Vec<u8>,
    /// Logs with smaller numbers hold nothing of it that is not in tables.
    pub(super) log_number: u64,
    pub(super) tables: BTreeMap<u64, TableRecord>,
}

/// Content of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) families: BTreeMap<u64, FamilyRecord>,
    pub(super) next_file: u64,
    pub(super) last_sequence: u64,
    pub(super) db_id: Option<Vec<u8>>,
}

impl TableRecord {
    pub(super) fn first_key(&self) -> &[u8] {
        user_key(&self.first)
    }

    pub(super) fn last_key(&self) -> &[u8] {
        user_key(&self.last)
    }

    /// True if there may be a key that both have.
    pub(super) fn shares_keys_with(&self, other: &Self) -> bool {
        self.first_key() <= other.last_key() && other.first_key() <= self.last_key()
    }

    /// Adds the epoch, which orders tables of level 0: for a table that no manifest names.
    pub(super) fn with_epoch(mut self, epoch: u64) -> Self {
        let mut value = Vec::new();
        put_varint(&mut value, epoch);
        put_varint(&mut self.rest, TABLE_EPOCH);
        put_string(&mut self.rest, &value);
        self
    }
}

fn user_key(key: &[u8]) -> &[u8] {
    tag_of(key).map_or(key, |_| &key[..key.len() - 8])
}

impl Manifest {
    /// Combines the edits; nothing if one of them cannot be understood.
    pub(super) fn from_edits<'e>(edits: impl IntoIterator<Item = &'e [u8]>) -> Option<Self> {
        let mut manifest = Self::default();
        let family = FamilyRecord {
            name: b"default".to_vec(),
            ..FamilyRecord::default()
        };
        manifest.families.insert(0, family);
        let mut missing = 0;
        for edit in edits {
            missing = manifest.apply_edit(edit)?;
        }
        // A change of several families is all of its edits, or none.
        (missing == 0).then_some(manifest)
    }

    /// Applies an edit; how many more belong to the same change.
    fn apply_edit(&mut self, edit: &[u8]) -> Option<u64> {
        let (mut reader, mut changes) = (WireReader::new(edit), EditChanges::default());
        while reader.remaining_len() > 0 {
            changes.read_field(&mut reader, self)?;
        }
        if changes.goes {
            self.families.remove(&changes.family);
            return Some(changes.missing);
        }
        if let Some(name) = changes.name {
            let family = FamilyRecord {
                name,
                ..FamilyRecord::default()
            };
            self.families.insert(changes.family, family);
        }
        let family = self.families.get_mut(&changes.family)?;
        family.log_number = changes.log_number.unwrap_or(family.log_number);
        for number in changes.gone {
            family.tables.remove(&number);
        }
        let come = changes.come.into_iter().map(|table| (table.number, table));
        family.tables.extend(come);
        Some(changes.missing)
    }

    /// The edits of a manifest that says this.
    pub(super) fn encode_edits(&self) -> Vec<Vec<u8>> {
        let mut edits = Vec::new();
        if let Some(id) = &self.db_id {
            let mut edit = Vec::new();
            put_varint(&mut edit, DB_ID);
            put_string(&mut edit, id);
            edits.push(edit);
        }
        for (number, family) in &self.families {
            edits.push(encode_declaration(*number, family));
            edits.push(encode_content(*number, family));
        }
        let mut edit = Vec::new();
        let greatest = self.families.keys().next_back().copied().unwrap_or(0);
        for (tag, value) in [
            (NEXT_FILE, self.next_file),
            (FAMILY_MAX, greatest),
            (LAST_SEQUENCE, self.last_sequence),
        ] {
            put_varint(&mut edit, tag);
            put_varint(&mut edit, value);
        }
        edits.push(edit);
        edits
    }

    /// The family of that name.
    pub(super) fn find_family(&self, name: &str) -> Option<(u64, &FamilyRecord)> {
        let mut families = self.families.iter();
        let found = families.find(|(_, family)| family.name == name.as_bytes());
        found.map(|(number, family)| (*number, family))
    }

    /// The first log that holds something that is in no table.
    pub(super) fn first_log(&self) -> u64 {
        let logs = self.families.values().map(|family| family.log_number);
        logs.min().unwrap_or(0)
    }
}

/// Changes by one edit.
#[derive(Default)]
struct EditChanges {
    family: u64,
    name: Option<Vec<u8>>,
    goes: bool,
    log_number: Option<u64>,
    gone: Vec<u64>,
    come: Vec<TableRecord>,
    /// The number of edits that follow and belong to this one.
    missing: u64,
}

impl EditChanges {
    fn read_field(&mut self, reader: &mut WireReader<'_>, manifest: &mut Manifest) -> Option<()> {
        match reader.read_varint().ok()? {
            COMPARATOR => (read_byte_string(reader)? == COMPARATOR_NAME).then_some(())?,
            LOG_NUMBER => self.log_number = Some(reader.read_varint().ok()?),
            NEXT_FILE => manifest.next_file = reader.read_varint().ok()?,
            LAST_SEQUENCE => manifest.last_sequence = reader.read_varint().ok()?,
            PREVIOUS_LOG | MIN_LOG | FAMILY_MAX => drop(reader.read_varint().ok()?),
            GROUP => self.missing = reader.read_varint().ok()?,
            CURSOR => {
                reader.read_varint().ok()?;
                read_byte_string(reader)?;
            }
            TABLE_GOES => {
                reader.read_varint().ok()?;
                self.gone.push(reader.read_varint().ok()?);
            }
            TABLE_COMES => self.come.push(read_table(reader)?),
            FAMILY => self.family = reader.read_varint().ok()?,
            FAMILY_COMES => self.name = Some(read_byte_string(reader)?.to_vec()),
            FAMILY_GOES => self.goes = true,
            DB_ID => manifest.db_id = Some(read_byte_string(reader)?.to_vec()),
            tag if tag > SKIPPABLE => drop(read_byte_string(reader)?),
            _ => return None,
        }
        Some(())
    }
}

fn read_byte_string<'r>(reader: &mut WireReader<'r>) -> Option<&'r [u8]> {
    let len = usize::try_from(reader.read_varint().ok()?).ok()?;
    reader.read_bytes(len).ok()
}

fn read_table(reader: &mut WireReader<'_>) -> Option<TableRecord> {
    let mut number = || reader.read_varint().ok();
    let (level, file, len) = (number()?, number()?, number()?);
    let (first, last) = (
        read_byte_string(reader)?.to_vec(),
        read_byte_string(reader)?.to_vec(),
    );
    let (smallest, largest) = (reader.read_varint().ok()?, reader.read_varint().ok()?);
    tag_of(&first)?;
    tag_of(&last)?;
    let mut rest = Vec::new();
    loop {
        let tag = reader.read_varint().ok()?;
        if tag == TABLE_END {
            break;
        }
        put_varint(&mut rest, tag);
        put_string(&mut rest, read_byte_string(reader)?);
    }
    Some(TableRecord {
        level,
        number: file,
        len,
        first,
        last,
        smallest,
        largest,
        rest,
    })
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    put_varint(out, string.len() as u64);
    out.extend_from_slice(string);
}

/// Says that there is such a family.
fn encode_declaration(number: u64, family: &FamilyRecord) -> Vec<u8> {
    let mut edit = Vec::new();
    put_varint(&mut edit, COMPARATOR);
    put_string(&mut edit, COMPARATOR_NAME);
    if number != 0 {
        put_varint(&mut edit, FAMILY);
        put_varint(&mut edit, number);
        put_varint(&mut edit, FAMILY_COMES);
        put_string(&mut edit, &family.name);
    }
    put_varint(&mut edit, TIMESTAMPS_PERSISTED);
    put_string(&mut edit, &[1]);
    edit
}

/// Says what is in a family.
fn encode_content(number: u64, family: &FamilyRecord) -> Vec<u8> {
    let mut edit = Vec::new();
    put_varint(&mut edit, LOG_NUMBER);
    put_varint(&mut edit, family.log_number);
    for table in family.tables.values() {
        put_varint(&mut edit, TABLE_COMES);
        for value in [table.level, table.number, table.len] {
            put_varint(&mut edit, value);
        }
        put_string(&mut edit, &table.first);
        put_string(&mut edit, &table.last);
        put_varint(&mut edit, table.smallest);
        put_varint(&mut edit, table.largest);
        edit.extend_from_slice(&table.rest);
        put_varint(&mut edit, TABLE_END);
    }
    if number != 0 {
        put_varint(&mut edit, FAMILY);
        put_varint(&mut edit, number);
    }
    edit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let table = |number: u64, level| TableRecord {
            level,
            number,
            len: 5000 + number,
            first: [b"a".as_slice(), &[1, 2, 0, 0, 0, 0, 0, 0]].concat(),
            last: [b"q".as_slice(), &[1, 9, 0, 0, 0, 0, 0, 0]].concat(),
            smallest: 2,
            largest: 9,
            rest: Vec::new(),
        };
        let family = |name: &str, tables: Vec<TableRecord>| FamilyRecord {
            name: name.as_bytes().to_vec(),
            log_number: 44,
            tables: tables
                .into_iter()
                .map(|table| (table.number, table))
                .collect(),
        };
        let first = table(7, 0).with_epoch(3);
        Manifest {
            families: [
                (0, family("default", vec![])),
                (1, family("frames", vec![first, table(300, 6)])),
                (5, family("pages", vec![])),
            ]
            .into(),
            next_file: 301,
            last_sequence: 1 << 40,
            db_id: Some(b"who".to_vec()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let manifest = sample();
        let edits = manifest.encode_edits();
        assert_eq!(
            Manifest::from_edits(edits.iter().map(Vec::as_slice)),
            Some(manifest)
        );
    }

    #[test]
    fn tables_and_families_go() {
        let mut edits = sample().encode_edits();
        edits.push([&[6, 0, 7, 200, 1, 1][..]].concat());
        edits.push(vec![200, 1, 5, 202, 1]);
        let manifest = Manifest::from_edits(edits.iter().map(Vec::as_slice)).expect("understood");
        let (_, frames) = manifest.find_family("frames").expect("it is there");
        assert_eq!(frames.tables.keys().collect::<Vec<_>>(), [&300]);
        assert!(manifest.find_family("pages").is_none());
    }

    #[test]
    fn what_cannot_be_understood_is_nothing() {
        assert_eq!(Manifest::from_edits([&[99_u8, 1][..]]), None);
        assert_eq!(Manifest::from_edits([&[103_u8, 1, 200, 1][..]]), None);
    }
}
