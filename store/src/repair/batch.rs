//! Decodes a record of the database's log: the operations of one batch.
//!
//! ```text
//! offset  size  meaning
//! 0       8     sequence number of the first operation (LE); each has one more than that before it
//! 8       4     number of operations (LE)
//! 12      …     per operation: type (5 put, 4 deletion, 14 deletion of a range; 1, 0, 15: the same
//!               in family 0; 3: a string that means nothing), varint family, key, and a value or
//!               the range's end: strings
//! ```
//!
//! Source: RocksDB's `db/write_batch.cc`.

use vellum_core::wire::WireReader;

/// An operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedOperation {
    /// The number of its family.
    pub(crate) family: u64,
    pub(crate) sequence: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) change: LoggedChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoggedChange {
    Put(Vec<u8>),
    Delete,
    /// Deletes up to this key.
    DeleteRange(Vec<u8>),
}

/// An item of a batch.
enum LoggedItem {
    Operation(LoggedOperation),
    /// Neither counted nor done: a string that means nothing, or no operation.
    Meaningless,
}

/// The operations of `record`; as far as they can be understood.
pub(crate) fn decode_operations(record: &[u8]) -> Vec<LoggedOperation> {
    let mut reader = WireReader::new(record);
    let mut operations = Vec::new();
    let Some(mut sequence) = first_sequence(&mut reader) else {
        return operations;
    };
    while reader.remaining_len() > 0 {
        match logged_item(&mut reader, sequence) {
            Some(LoggedItem::Operation(found)) => {
                sequence += 1;
                operations.push(found);
            }
            Some(LoggedItem::Meaningless) => {}
            None => break,
        }
    }
    operations
}

fn first_sequence(reader: &mut WireReader<'_>) -> Option<u64> {
    let bytes = reader.read_bytes(12).ok()?;
    Some(u64::from_le_bytes(bytes[..8].try_into().ok()?))
}

/// The next item; none where something stands that is none.
fn logged_item(reader: &mut WireReader<'_>, sequence: u64) -> Option<LoggedItem> {
    let kind = reader.read_u8().ok()?;
    let family = if [4, 5, 8, 14].contains(&kind) {
        reader.read_varint().ok()?
    } else {
        0
    };
    let change = match kind {
        3 => {
            read_owned_string(reader)?;
            return Some(LoggedItem::Meaningless);
        }
        13 => return Some(LoggedItem::Meaningless),
        0 | 1 | 4 | 5 | 7 | 8 | 14 | 15 => kind,
        _ => return None,
    };
    let key = read_owned_string(reader)?;
    let change = match change {
        1 | 5 => LoggedChange::Put(read_owned_string(reader)?),
        14 | 15 => LoggedChange::DeleteRange(read_owned_string(reader)?),
        _ => LoggedChange::Delete,
    };
    Some(LoggedItem::Operation(LoggedOperation {
        family,
        sequence,
        key,
        change,
    }))
}

fn read_owned_string(reader: &mut WireReader<'_>) -> Option<Vec<u8>> {
    let len = usize::try_from(reader.read_varint().ok()?).ok()?;
    reader.read_bytes(len).ok().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_far_as_they_are_whole() {
        let mut record = 900_u64.to_le_bytes().to_vec();
        record.extend(3_u32.to_le_bytes());
        record.extend([5, 6, 1, b'k', 2, b'v', b'w']);
        record.extend([3, 2, 0, 0]);
        record.extend([4, 7, 1, b'd']);
        record.extend([14, 5, 1, b'a', 1, b'c']);
        let operation = |family, sequence, key: &[u8], change| LoggedOperation {
            family,
            sequence,
            key: key.to_vec(),
            change,
        };
        let all = [
            operation(6, 900, b"k", LoggedChange::Put(b"vw".to_vec())),
            operation(7, 901, b"d", LoggedChange::Delete),
            operation(5, 902, b"a", LoggedChange::DeleteRange(b"c".to_vec())),
        ];
        assert_eq!(decode_operations(&record), all);
        assert_eq!(decode_operations(&record[..record.len() - 1]), all[..2]);
        assert_eq!(decode_operations(&record[..11]), []);
    }
}
