//! The caller's time zone: the local time at a moment.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::invocation::Invocation;

/// The machine's own zone.
const LOCAL: &str = "/etc/localtime";
/// The zones of the world, by name.
const ZONES: &str = "/usr/share/zoneinfo";

/// The zone that the caller's `TZ` names, else the machine's, else UTC: what the C library does.
pub(crate) fn zone_of_caller(caller: &Invocation) -> TimeZone {
    let Some(wish) = caller
        .variable("TZ")
        .map(|wish| wish.to_string_lossy().into_owned())
    else {
        return machine_zone();
    };
    let name = wish.strip_prefix(':').unwrap_or(&wish);
    zone_file(name)
        .as_deref()
        .and_then(read_zone)
        .or_else(|| TimeZone::posix(name).ok())
        .unwrap_or(TimeZone::UTC)
}

/// The length of a time up to its minute: `2026-11-22T21:04`.
const MINUTE_LEN: usize = 16;

/// The local clock minus UTC, in seconds. A time beyond the calendar counts as UTC.
pub(crate) fn offset_s(zone: &TimeZone, since_1970_ms: u64) -> i32 {
    whole_seconds(since_1970_ms).map_or(0, |moment| zone.to_offset(moment).seconds())
}

/// A moment as that clock shows it, in RFC 3339 to the second: `2026-11-22T21:04:05+01:00`.
pub(crate) fn format_local_time(zone: &TimeZone, since_1970_ms: u64) -> Option<String> {
    let moment = whole_seconds(since_1970_ms)?;
    Some(
        moment
            .display_with_offset(zone.to_offset(moment))
            .to_string(),
    )
}

/// The same to the minute: `2026-11-22T21:04+01:00`.
pub(crate) fn format_local_minute(zone: &TimeZone, since_1970_ms: u64) -> Option<String> {
    let local = format_local_time(zone, since_1970_ms)?;
    let (minute, rest) = local.split_at_checked(MINUTE_LEN)?;
    let offset = rest.find(['+', '-']).map_or("", |at| &rest[at..]);
    Some(format!("{minute}{offset}"))
}

/// The time to the second: nobody types more, and every text then has the same length.
fn whole_seconds(since_1970_ms: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(since_1970_ms / 1000).ok()?).ok()
}

fn machine_zone() -> TimeZone {
    read_zone(Path::new(LOCAL)).unwrap_or(TimeZone::UTC)
}

/// The file of a zone's name; none if it would lead elsewhere.
fn zone_file(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let is_plain = !name.is_empty()
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    is_plain.then(|| Path::new(ZONES).join(path))
}

fn read_zone(path: &Path) -> Option<TimeZone> {
    TimeZone::tzif("", &std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_the_callers() {
        let at = |wish: &str, ms| {
            let mut caller = Invocation::in_folder(Path::new("/"));
            caller.variables.insert("TZ".into(), wish.into());
            format_local_time(&zone_of_caller(&caller), ms)
        };
        assert_eq!(
            at("UTC0", 999).as_deref(),
            Some("1970-01-01T00:00:00+00:00")
        );
        assert_eq!(
            at("<+0530>-5:30", 86_400_000).as_deref(),
            Some("1970-01-02T05:30:00+05:30")
        );
        assert_eq!(
            at("../../../etc/passwd", 0).as_deref(),
            Some("1970-01-01T00:00:00+00:00")
        );
        assert_eq!(at("UTC0", u64::MAX), None);
    }
}
