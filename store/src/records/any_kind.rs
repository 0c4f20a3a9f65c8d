//! All kinds of records, those of other parts of the store included, for a fuzzer that decodes any
//! bytes as each.

use vellum_core::identity::StoreId;
use vellum_core::tree::{Image, Layer, Snapshot, VirtualMachine, VirtualMachineSnapshot};

use super::{Commits, ConfigurationFile, Counters, StoreParameters, Token, decode_body};
use crate::chunks::DamageRecord;
use crate::parity::ParityShare;
use crate::sources::SourceListRecord;
use crate::usage_history::entry::UsageEntry;

/// Decodes `body` as each kind of record: total on any bytes. For fuzzing.
#[must_use]
pub fn decode_any(body: &[u8]) -> usize {
    let decoded = [
        decode_body::<StoreParameters>(body).is_ok(),
        decode_body::<Counters>(body).is_ok(),
        decode_body::<Commits>(body).is_ok(),
        decode_body::<StoreId>(body).is_ok(),
        decode_body::<ParityShare>(body).is_ok(),
        decode_body::<Token>(body).is_ok(),
        decode_body::<Layer>(body).is_ok(),
        decode_body::<Image>(body).is_ok(),
        decode_body::<Snapshot>(body).is_ok(),
        decode_body::<VirtualMachine>(body).is_ok(),
        decode_body::<VirtualMachineSnapshot>(body).is_ok(),
        decode_body::<ConfigurationFile>(body).is_ok(),
        decode_body::<UsageEntry>(body).is_ok(),
        decode_body::<DamageRecord>(body).is_ok(),
        decode_body::<SourceListRecord>(body).is_ok(),
    ];
    decoded.into_iter().filter(|ok| *ok).count()
}
