//! The pieces of a volume group on one of its physical volumes: pure.

use std::collections::BTreeSet;
use std::ops::Range;

use super::text::{DescriptionValue, LvmSection, parse_metadata};
use super::{LvmKept, SECTOR_LEN};

/// The extents of one physical volume, as bytes of it.
pub(in super::super) struct GroupLayout {
    /// The volume group's name.
    pub(in super::super) name: String,
    /// Ranges that belong to no logical volume, in order.
    pub(in super::super) free: Vec<Range<u64>>,
    /// Those that have a part of it.
    pub(in super::super) volumes: Vec<LogicalVolume>,
}

/// A logical volume that has a part of this physical volume.
pub(in super::super) struct LogicalVolume {
    pub(in super::super) name: String,
    /// Its pieces on the physical volume, in the order of its own bytes; or the reason why it
    /// cannot be looked at.
    pub(in super::super) pieces: Result<Vec<Range<u64>>, LvmKept>,
}

/// The physical volume that is looked at, as its group's description calls it.
struct OwnVolume<'t> {
    name: &'t str,
    start: u64,
    extents: u64,
    extent_len: u64,
}

/// A segment of a logical volume in stripes of which some are on the physical volume.
struct LvmSegment {
    first: u64,
    count: u64,
    /// Name of the physical volume, first extent.
    stripes: Vec<(String, u64)>,
}

const BROKEN: LvmKept = "its description is not understood";

impl GroupLayout {
    pub(super) fn parse(text: &[u8], uuid: &[u8], len: u64) -> Result<Self, LvmKept> {
        let all = parse_metadata(text).ok_or(BROKEN)?;
        let (name, group) = all.sections().next().ok_or(BROKEN)?;
        let own = OwnVolume::find_in_group(group, uuid, len)?;
        let physical = group.find_section("physical_volumes").ok_or(BROKEN)?;
        let physical: BTreeSet<&str> = physical.sections().map(|(name, _)| name).collect();
        let mut layout = Self {
            name: name.to_owned(),
            free: Vec::new(),
            volumes: Vec::new(),
        };
        let (mut used, mut parts) = (Vec::new(), BTreeSet::new());
        for (section, content) in group.sections() {
            if section != "physical_volumes" && section != "logical_volumes" {
                refuse_named(content, &physical)?;
            }
        }
        for (name, volume) in group
            .find_section("logical_volumes")
            .into_iter()
            .flat_map(LvmSection::sections)
        {
            let pieces = own.volume_pieces(volume, &physical, &mut used, &mut parts)?;
            if let Some(pieces) = pieces {
                layout.volumes.push(LogicalVolume {
                    name: name.to_owned(),
                    pieces,
                });
            }
        }
        for volume in &mut layout.volumes {
            if parts.contains(&volume.name) {
                volume.pieces = Err("another logical volume is made of it");
            }
        }
        layout.free = own.free_ranges(used)?;
        Ok(layout)
    }
}

/// Refuses a section that names a physical volume where that is not understood.
fn refuse_named(section: &LvmSection, physical: &BTreeSet<&str>) -> Result<(), LvmKept> {
    let mut is_named = false;
    section.each_text(&mut |text| is_named |= physical.contains(text));
    if is_named {
        Err("it has segments that are not known here")
    } else {
        Ok(())
    }
}

impl<'t> OwnVolume<'t> {
    fn find_in_group(group: &'t LvmSection, uuid: &[u8], len: u64) -> Result<Self, LvmKept> {
        let is_own = |volume: &LvmSection| {
            let id = volume.find_text("id").unwrap_or_default();
            id.bytes()
                .filter(|byte| *byte != b'-')
                .eq(uuid.iter().copied())
        };
        let physical = group.find_section("physical_volumes").ok_or(BROKEN)?;
        let mut found = physical.sections().filter(|(_, volume)| is_own(volume));
        let (Some((name, volume)), None) = (found.next(), found.next()) else {
            return Err("its description is another volume's");
        };
        let sectors = |section: &LvmSection, name: &str| {
            section
                .find_number(name)
                .and_then(|count| count.checked_mul(SECTOR_LEN))
                .ok_or(BROKEN)
        };
        let own = Self {
            name,
            start: sectors(volume, "pe_start")?,
            extents: volume.find_number("pe_count").ok_or(BROKEN)?,
            extent_len: sectors(group, "extent_size")?,
        };
        let end = own
            .extents
            .checked_mul(own.extent_len)
            .and_then(|len| len.checked_add(own.start));
        if own.extent_len == 0 || end.is_none_or(|end| end > len) {
            return Err("it is longer than what it lies in");
        }
        Ok(own)
    }

    fn byte_range(&self, extents: &Range<u64>) -> Range<u64> {
        self.start + extents.start * self.extent_len..self.start + extents.end * self.extent_len
    }

    /// The pieces of a logical volume, `None` if it has none here. `used` gets the extents that it
    /// has here, `parts` what it is made of.
    fn volume_pieces(
        &self,
        volume: &LvmSection,
        physical: &BTreeSet<&str>,
        used: &mut Vec<Range<u64>>,
        parts: &mut BTreeSet<String>,
    ) -> Result<Option<Result<Vec<Range<u64>>, LvmKept>>, LvmKept> {
        let (mut segments, mut is_straight) = (Vec::new(), true);
        for (_, section) in volume.sections() {
            if section.find_text("type") == Some("striped") {
                segments.push(LvmSegment::parse(section)?);
                continue;
            }
            is_straight = false;
            refuse_named(section, physical)?;
            section.each_text(&mut |text| {
                parts.insert(text.to_owned());
            });
        }
        segments.sort_by_key(|segment| segment.first);
        let (mut pieces, mut at, mut is_own) = (Vec::new(), 0, true);
        for segment in &segments {
            let stripes = segment.stripes.len() as u64;
            is_straight &= stripes == 1 && segment.first == at;
            at = segment.first.checked_add(segment.count).ok_or(BROKEN)?;
            if stripes == 0 || !segment.count.is_multiple_of(stripes) {
                return Err(BROKEN);
            }
            for (name, first) in &segment.stripes {
                if !physical.contains(name.as_str()) {
                    // A stripe over another logical volume.
                    parts.insert(name.clone());
                }
                if name != self.name {
                    is_own = false;
                    continue;
                }
                let end = first.checked_add(segment.count / stripes);
                let end = end.filter(|end| *end <= self.extents).ok_or(BROKEN)?;
                used.push(*first..end);
                pieces.push(self.byte_range(&(*first..end)));
            }
        }
        let status = volume.find_list("status").unwrap_or_default();
        let is_visible = status.contains(&DescriptionValue::Text("VISIBLE".to_owned()));
        let reason = match (is_own, is_straight && is_visible) {
            (false, _) => Some("a part of it is on another volume"),
            (_, false) => Some("it is not one straight piece after the other"),
            (true, true) => None,
        };
        Ok((!pieces.is_empty()).then(|| reason.map_or(Ok(pieces), Err)))
    }

    /// The bytes of the extents that are not `used`, which must not overlap.
    fn free_ranges(&self, mut used: Vec<Range<u64>>) -> Result<Vec<Range<u64>>, LvmKept> {
        used.sort_unstable_by_key(|range| range.start);
        used.push(self.extents..self.extents);
        let (mut at, mut free) = (0, Vec::new());
        for range in used {
            if range.start < at {
                return Err("its logical volumes overlap");
            }
            if at < range.start {
                free.push(self.byte_range(&(at..range.start)));
            }
            at = range.end;
        }
        Ok(free)
    }
}

impl LvmSegment {
    fn parse(section: &LvmSection) -> Result<Self, LvmKept> {
        let stripes = section.find_list("stripes").ok_or(BROKEN)?;
        let stripe = |pair: &[DescriptionValue]| match pair {
            [
                DescriptionValue::Text(name),
                DescriptionValue::Number(first),
            ] => Ok((name.clone(), *first)),
            _ => Err(BROKEN),
        };
        let stripes: Vec<_> = stripes.chunks(2).map(stripe).collect::<Result<_, _>>()?;
        let count = section.find_number("stripe_count").ok_or(BROKEN)?;
        if count != stripes.len() as u64 {
            return Err(BROKEN);
        }
        Ok(Self {
            first: section.find_number("start_extent").ok_or(BROKEN)?,
            count: section.find_number("extent_count").ok_or(BROKEN)?,
            stripes,
        })
    }
}
