//! Shape of a parity group: the tables that it protects, and how much parity it has.

/// The most tables of a group: bounds its record, and the stretches that one repair reads.
pub(super) const MEMBERS_MAX: usize = 1024;

/// Tables that change alike are protected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableClass {
    /// Payloads of frames: most of a store, hardly ever rewritten.
    Payloads,
    /// Everything else: small, rewritten often.
    Records,
}

/// A table file of the database. Its number is never given twice, its bytes never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableFile {
    pub(crate) number: u64,
    pub(crate) len: u64,
    pub(crate) class: TableClass,
}

/// A group that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupShape {
    pub(super) id: u64,
    /// The longest first.
    pub(super) members: Vec<TableFile>,
    pub(super) parity_count: usize,
}

impl GroupShape {
    /// Bytes of its tables.
    pub(super) fn data_len(&self) -> u64 {
        total_len(&self.members)
    }
}

/// Tables that are to become a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewGroup {
    /// The longest first.
    pub(super) members: Vec<TableFile>,
    pub(super) parity_count: usize,
}

pub(super) fn total_len(members: &[TableFile]) -> u64 {
    members.iter().map(|table| table.len).sum()
}
