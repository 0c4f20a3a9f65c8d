//! The names that the model's sessions, points, contents and objects have in records, by number. A
//! set of up to 16 of them is the bits of a number.

use std::collections::BTreeSet;

use vellum_core::identity::ContentId;

use crate::journal::tests::point;
use crate::objects::{ObjectId, ObjectName};
use crate::record::Point;

pub(super) fn session(actor: u8) -> String {
    format!("session {actor}")
}

pub(super) fn point_of(nth: u8) -> Point {
    Point {
        content: content_id(nth),
        ..point(&format!("point {nth}"))
    }
}

/// The model's objects among `names`.
pub(super) fn numbers_of(names: &BTreeSet<ObjectName>) -> u16 {
    names.iter().fold(0, |all, name| all | bit(number_of(name)))
}

pub(super) fn content_id(nth: u8) -> String {
    ContentId([nth; 16]).to_string()
}

pub(super) fn object(nth: u8) -> ObjectName {
    ObjectName::Maps(ObjectId([nth; 32]))
}

pub(super) fn number_of(name: &ObjectName) -> u8 {
    name.id().expect("maps have ids").0[0]
}

pub(super) fn bit(nth: u8) -> u16 {
    1 << nth
}

pub(super) fn bits(set: u16) -> impl Iterator<Item = u8> {
    (0..16).filter(move |nth| set & bit(*nth) != 0)
}

pub(super) fn sessions(set: u16) -> Vec<String> {
    bits(set).map(session).collect()
}
