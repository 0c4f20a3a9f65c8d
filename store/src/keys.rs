//! Keys of the records that a store keeps: those of its settings and counters, and of its names.
//!
//! FORMAT.md lists the keys of all families. Those of records that one part of the store keeps for
//! itself are in that part: the growth journal, the damage ledger, the list of sources.

use vellum_core::identity::IDENTITY_LEN;
use vellum_core::units::{ConfigurationId, ImageId, MachineId};

pub(crate) const PARAMETERS_KEY: &[u8] = b"parameters";
pub(crate) const COUNTERS_KEY: &[u8] = b"counters";
pub(crate) const COMMITS_KEY: &[u8] = b"commits";
pub(crate) const IDENTITY_KEY: &[u8] = b"identity";
pub(crate) const PARITY_KEY: &[u8] = b"parity";

pub(crate) fn image_key(id: ImageId) -> Vec<u8> {
    [&b"i"[..], &id.0.to_be_bytes()].concat()
}

pub(crate) fn snapshot_key(image: ImageId, serial: u64) -> Vec<u8> {
    [&b"s"[..], &image.0.to_be_bytes(), &serial.to_be_bytes()].concat()
}

pub(crate) fn machine_key(id: MachineId) -> Vec<u8> {
    [&b"m"[..], &id.0.to_be_bytes()].concat()
}

pub(crate) fn machine_snapshot_key(machine: MachineId, serial: u64) -> Vec<u8> {
    [&b"t"[..], &machine.0.to_be_bytes(), &serial.to_be_bytes()].concat()
}

pub(crate) fn configuration_key(id: ConfigurationId) -> Vec<u8> {
    [&b"configuration"[..], &id.0.to_be_bytes()].concat()
}

/// Key of the token of the program that `owner` identifies.
pub(crate) fn token_key(owner: &[u8; IDENTITY_LEN]) -> Vec<u8> {
    [&b"token"[..], owner].concat()
}
