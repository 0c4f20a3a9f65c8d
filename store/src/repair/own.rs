//! Recognizes values that are as they were written under their key, by the checksum that they
//! carry.

use vellum_core::frame::{FrameHeader, StoredPayload, parse_frame_key};
use vellum_core::page::{Page, parse_page_key};
use vellum_core::solid::{SolidBlock, parse_solid_key};

use crate::database::Family;
use crate::records;

/// True if `value` is as it was written at `key` of `family`, as far as it tells: entries of the
/// index never do.
pub(super) fn is_own(family: Family, key: &[u8], value: &[u8]) -> bool {
    match family {
        Family::Frames => match parse_solid_key(key) {
            Some(number) => SolidBlock::decode(number, value).is_ok(),
            None => {
                parse_frame_key(key).is_ok_and(|first| StoredPayload::decode(first, value).is_ok())
            }
        },
        Family::Headers => {
            parse_frame_key(key).is_ok_and(|first| FrameHeader::decode(first, value).is_ok())
        }
        Family::Pages => parse_page_key(key)
            .is_ok_and(|(layer, index)| Page::decode(layer, index, value).is_ok()),
        Family::Layers | Family::Names | Family::Meta => {
            records::verify_record(family.family_name(), key, value).is_ok()
        }
        Family::Copies => {
            split_copy_key(key).is_some_and(|(family, key)| is_own(family, key, value))
        }
        Family::Index => false,
    }
}

/// The family and the key of the record that the copy at `key` is one of.
pub(super) fn split_copy_key(key: &[u8]) -> Option<(Family, &[u8])> {
    let (tag, key) = key.split_first()?;
    let twins = [Family::Layers, Family::Names, Family::Meta];
    let family = twins
        .into_iter()
        .find(|family| family.copy_tag() == Some(*tag))?;
    Some((family, key))
}
