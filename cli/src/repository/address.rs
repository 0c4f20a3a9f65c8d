//! Looks up the point of a repository that a text names: `IMAGE`, `IMAGE@SNAPSHOT`, `IMAGE@latest`,
//! `IMAGE@TIME`, or a prefix of a point's id.
//!
//! If a text could mean two points, neither is chosen: the person is shown both.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use vellum_backup::journal::State;
use vellum_backup::record::Point;
use vellum_core::name::LATEST;

use crate::failure::CommandFailure;
use crate::time_zone;

/// A shorter beginning of an id is more likely a name that was mistyped.
const ID_LEN_MIN: usize = 4;
/// The greatest number of candidates shown: more would not help to choose.
const CANDIDATES_MAX: usize = 8;
/// Digits of an id that tell a point from all others, for people.
const SHORT_LEN: usize = 10;

/// The one point of `points`, which are [`sort_points`], that `text` means.
pub(crate) fn find_point<'a>(
    points: &[&'a Point],
    text: &str,
    zone: &TimeZone,
) -> Result<&'a Point, CommandFailure> {
    let (image, state) = text
        .rsplit_once('@')
        .map_or((text, None), |(image, state)| (image, Some(state)));
    let of_image = of_image(points, image, text)?;
    let found = match state {
        _ if of_image.is_empty() => with_id(points, text),
        None => newest_points(&of_image),
        Some(LATEST) => newest_points(
            &of_image
                .into_iter()
                .filter(|point| point.snapshot.is_some())
                .collect::<Vec<_>>(),
        ),
        Some(state) => points_named(&of_image, state)
            .or_else(|| non_empty(points_at_time(&of_image, state, zone)))
            .unwrap_or_default(),
    };
    match found[..] {
        [one] => Ok(one),
        [] => Err(unknown_point(text)),
        _ => Err(ambiguous_point(text, &found, zone)),
    }
}

/// The one point that `text` means without being shortened: to be forgotten, or taken into a store.
pub(crate) fn find_whole<'a>(
    points: &[&'a Point],
    text: &str,
    zone: &TimeZone,
) -> Result<&'a Point, CommandFailure> {
    let point = find_point(points, text, zone)?;
    if is_whole(point, text, zone) {
        Ok(point)
    } else {
        let id = short_id(&point.id);
        Err(not_whole(text, &format!("{} ({id})", point_title(point))))
    }
}

/// True if `text` is one of the ways to write all of `point`, or as much of its id as people are
/// shown.
fn is_whole(point: &Point, text: &str, zone: &TimeZone) -> bool {
    let Some((image, state)) = text.rsplit_once('@') else {
        return text == point.name || is_enough(text) && point.id.starts_with(text);
    };
    let snapshot = point
        .snapshot
        .as_ref()
        .map(|snapshot| snapshot.name.as_str());
    image == point.name
        && (state == LATEST
            || snapshot == Some(state)
            || time_zone::format_local_time(zone, point.time_ms).as_deref() == Some(state))
}

/// True if `text` is so much of an id that nobody means another one by it.
pub(crate) fn is_enough(text: &str) -> bool {
    text.len() >= SHORT_LEN
}

/// All points of the image of which `name` is the whole name; there must be some.
pub(crate) fn of_whole_image<'a>(
    points: &[&'a Point],
    name: &str,
) -> Result<Vec<&'a Point>, CommandFailure> {
    let found = of_known_image(points, name)?;
    match found.first() {
        Some(point) if point.name != name => Err(not_whole(name, &point.name)),
        _ => Ok(found),
    }
}

/// All points of the image that `text` names, by its whole name or by a beginning that only one
/// has.
pub(crate) fn of_image<'a>(
    points: &[&'a Point],
    name: &str,
    text: &str,
) -> Result<Vec<&'a Point>, CommandFailure> {
    let whole: Vec<&Point> = points
        .iter()
        .copied()
        .filter(|point| point.name == name)
        .collect();
    if !whole.is_empty() || name.is_empty() {
        return Ok(whole);
    }
    let begun: Vec<&Point> = points
        .iter()
        .copied()
        .filter(|point| point.name.starts_with(name))
        .collect();
    let mut names: Vec<&str> = begun.iter().map(|point| point.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 {
        Err(several_images(text, &names))
    } else {
        Ok(begun)
    }
}

/// The name of a point, for people: `web`, `web@monday`.
pub(crate) fn point_title(point: &Point) -> String {
    match &point.snapshot {
        Some(snapshot) => format!("{}@{}", point.name, snapshot.name),
        None => point.name.clone(),
    }
}

/// The beginning of an id that is shown to people.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..SHORT_LEN).unwrap_or(id)
}

/// Points in the order in which people look for them: by name, those of an image in the order in
/// which it had them.
pub(crate) fn sort_points(state: &State) -> Vec<&Point> {
    let points = state.points_oldest_first().into_iter();
    let mut points: Vec<&Point> = points.map(AsRef::as_ref).collect();
    points.sort_by_key(|point| (point.name.as_str(), point.image.as_str()));
    points
}

/// Those of `points` that were pushed from `host`, if one is named: there must be some.
pub(crate) fn of_host<'a>(
    points: Vec<&'a Point>,
    host: Option<&str>,
) -> Result<Vec<&'a Point>, CommandFailure> {
    let Some(host) = host else {
        return Ok(points);
    };
    let hosts: BTreeSet<&str> = points
        .iter()
        .filter_map(|point| point.host.as_deref())
        .collect();
    if !hosts.contains(host) {
        let known: Vec<&str> = hosts.into_iter().take(CANDIDATES_MAX).collect();
        let hint = if known.is_empty() {
            "no point says which host it is from".to_owned()
        } else {
            format!("there are points of {}", known.join(", "))
        };
        let what = format!("the repository has no point of host {host:?}");
        return Err(CommandFailure::with_hint(what, hint));
    }
    let of_host = |point: &&Point| point.host.as_deref() == Some(host);
    Ok(points.into_iter().filter(of_host).collect())
}

/// All points of an image that is there.
pub(crate) fn of_known_image<'a>(
    points: &[&'a Point],
    name: &str,
) -> Result<Vec<&'a Point>, CommandFailure> {
    let found = of_image(points, name, name)?;
    if found.is_empty() {
        Err(unknown_point(name))
    } else {
        Ok(found)
    }
}

/// The newest of one image, of points that are [`sort_points`]; each image's newest, if several
/// images had the name.
fn newest_points<'a>(points: &[&'a Point]) -> Vec<&'a Point> {
    let mut newest: Vec<&Point> = Vec::new();
    for point in points {
        match newest.iter_mut().find(|best| best.image == point.image) {
            Some(best) => *best = point,
            None => newest.push(point),
        }
    }
    newest
}

fn points_named<'a>(points: &[&'a Point], name: &str) -> Option<Vec<&'a Point>> {
    non_empty(
        points
            .iter()
            .copied()
            .filter(|point| {
                point
                    .snapshot
                    .as_ref()
                    .is_some_and(|snapshot| snapshot.name == name)
            })
            .collect(),
    )
}

/// The points that were taken at a time that begins so, on the clock of `zone`.
fn points_at_time<'a>(points: &[&'a Point], time: &str, zone: &TimeZone) -> Vec<&'a Point> {
    let begins = |point: &&Point| {
        time_zone::format_local_time(zone, point.time_ms)
            .is_some_and(|shown| shown.starts_with(time))
    };
    if time.starts_with(|first: char| first.is_ascii_digit()) {
        points.iter().copied().filter(begins).collect()
    } else {
        Vec::new()
    }
}

fn with_id<'a>(points: &[&'a Point], text: &str) -> Vec<&'a Point> {
    let is_id = text.len() >= ID_LEN_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    points
        .iter()
        .copied()
        .filter(|point| is_id && point.id.starts_with(text))
        .collect()
}

fn non_empty<T>(found: Vec<T>) -> Option<Vec<T>> {
    if found.is_empty() { None } else { Some(found) }
}

fn unknown_point(text: &str) -> CommandFailure {
    CommandFailure::with_hint(
        format!("the repository has no point {text:?}"),
        if text == LATEST {
            "IMAGE@latest is the newest snapshot of an image, IMAGE its newest state"
        } else {
            "`vellum backup list` shows all points"
        },
    )
}

fn not_whole(text: &str, meant: &str) -> CommandFailure {
    CommandFailure::with_hint(
        format!("the repository has nothing that is called {text:?}; did you mean {meant}?"),
        "write the whole name, or the id as `vellum backup list` shows it: only what just looks \
         takes shortened ones",
    )
}

fn several_images(text: &str, names: &[&str]) -> CommandFailure {
    let more = if names.len() > CANDIDATES_MAX {
        ", …"
    } else {
        ""
    };
    let names = names[..names.len().min(CANDIDATES_MAX)].join(", ");
    CommandFailure::with_hint(
        format!("{text:?} could mean {names}{more}"),
        "write more of the name",
    )
}

fn ambiguous_point(text: &str, found: &[&Point], zone: &TimeZone) -> CommandFailure {
    let describe = |point: &&Point| {
        let time = time_zone::format_local_time(zone, point.time_ms).unwrap_or_default();
        format!("{} ({}, {time})", short_id(&point.id), point_title(point))
    };
    let shown: Vec<String> = found.iter().take(CANDIDATES_MAX).map(describe).collect();
    let more = if found.len() > CANDIDATES_MAX {
        ", …"
    } else {
        ""
    };
    CommandFailure::with_hint(
        format!("{text:?} could mean {}{more}", shown.join(", ")),
        "write the beginning of the id of the one that you mean",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vellum_backup::record::SnapshotName;

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn point(
        id: &str,
        image: &str,
        name: &str,
        snapshot: Option<(&str, u64)>,
        time_ms: u64,
    ) -> Point {
        let snapshot = snapshot.map(|(name, serial)| SnapshotName {
            name: name.to_owned(),
            serial,
        });
        Point {
            id: id.to_owned(),
            image: image.to_owned(),
            name: name.to_owned(),
            host: None,
            snapshot,
            content: String::new(),
            len: 0,
            mode: "normal".to_owned(),
            origin: None,
            time_ms,
            tags: Vec::new(),
            pinned: false,
            description: String::new(),
            properties: BTreeMap::new(),
        }
    }

    fn points() -> Vec<Point> {
        vec![
            point("aaaa0001", "s-1", "web", Some(("monday", 1)), 0),
            point("aaaa0003", "s-1", "web", Some(("tuesday", 2)), DAY_MS),
            point("aaaa0002", "s-1", "web", None, DAY_MS),
            point("bbbb0004", "s-2", "webmail", None, 0),
            point("bbbb0006", "t-3", "db", None, 0),
            point("bbbb0007", "s-9", "abcd", None, 0),
            point("abcd0008", "s-3", "db", Some(("taken", 1)), 0),
            point("cccc0009", "s-3", "db", Some(("taken", 2)), 0),
            point("bbbb0005", "s-3", "db", None, DAY_MS),
            point("eeee000012345678", "s-4", "old", None, 0),
        ]
    }

    fn found(text: &str) -> Result<String, String> {
        let points = points();
        let points: Vec<&Point> = points.iter().collect();
        find_point(&points, text, &TimeZone::UTC)
            .map(|point| point.id.clone())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn one_point_is_found_by_each_way_to_write_it() {
        for (text, id) in [
            ("web", "aaaa0002"),
            ("web@monday", "aaaa0001"),
            ("web@latest", "aaaa0003"),
            ("web@1970-01-01", "aaaa0001"),
            ("webm", "bbbb0004"),
            ("abcd", "bbbb0007"),
            ("abcd0008", "abcd0008"),
            ("aaaa0001", "aaaa0001"),
        ] {
            assert_eq!(found(text), Ok(id.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_forgotten_is_named_whole() {
        let points = points();
        let points: Vec<&Point> = points.iter().collect();
        let whole = |text: &str| find_whole(&points, text, &TimeZone::UTC).map(|point| &*point.id);
        for (text, id) in [
            ("web", "aaaa0002"),
            ("web@monday", "aaaa0001"),
            ("web@latest", "aaaa0003"),
            ("webmail@1970-01-01T00:00:00+00:00", "bbbb0004"),
            ("eeee000012", "eeee000012345678"),
        ] {
            assert_eq!(whole(text).ok(), Some(id), "{text}");
        }
        for text in [
            "webm",
            "web@1970-01-01",
            "eeee00001",
            "eeee",
            "aaaa0001",
            "web@mon",
            "nothing",
        ] {
            assert!(whole(text).is_err(), "{text}");
        }
        assert_eq!(
            of_whole_image(&points, "web").ok().map(|found| found.len()),
            Some(3)
        );
        assert!(of_whole_image(&points, "webm").is_err());
    }

    #[test]
    fn what_could_be_two_shows_both() {
        for (text, both) in [
            ("db", ["bbbb0005", "bbbb0006"]),
            ("db@taken", ["abcd0008", "cccc0009"]),
            ("web@1970-01-02", ["aaaa0002", "aaaa0003"]),
            ("we", ["web", "webmail"]),
            ("aaaa", ["aaaa0001", "aaaa0002"]),
        ] {
            let failure = found(text).expect_err("two");
            assert!(
                both.iter().all(|one| failure.contains(one)),
                "{text}: {failure}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        for text in [
            "",
            "@",
            "nothing",
            "web@nothing",
            "webmail@latest",
            "web@1971",
            "web@",
            "@monday",
            "aaa",
            "dddd",
            "web@monday@tuesday",
        ] {
            let failure = found(text).expect_err("nothing");
            assert!(failure.contains("no point"), "{text}: {failure}");
        }
    }
}
