//! Tests of the rules against the expectations of restic's documentation and users.

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Thursday, 1 January 2015, 00:00 UTC.
const NEW_YEAR_2015_MS: u64 = 1_420_070_400_000;

fn candidates(times: &[u64]) -> Vec<RetentionCandidate<'static>> {
    static NO_TAGS: BTreeSet<Name> = BTreeSet::new();
    times
        .iter()
        .map(|time| RetentionCandidate {
            taken_ms: *time,
            offset_s: 0,
            tags: &NO_TAGS,
            pinned: false,
        })
        .collect()
}

/// The places of what stays.
fn kept(rules: &RetentionRules, candidates: &[RetentionCandidate<'_>]) -> Vec<usize> {
    apply_rules(rules, candidates)
        .iter()
        .enumerate()
        .filter(|(_, verdict)| verdict.is_kept())
        .map(|(at, _)| at)
        .collect()
}

fn young(span: &str) -> RetentionRules {
    RetentionRules {
        within: Some(AgeRule {
            span: span.parse().unwrap(),
            now_ms: u64::MAX,
        }),
        ..RetentionRules::default()
    }
}

fn names(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| Name::new(text).unwrap()).collect()
}

#[test]
fn each_rule_keeps_the_newest_of_each_of_its_periods() {
    // Four a day, 400 days, the oldest first: 1 January 2015 to 4 February 2016.
    let times: Vec<u64> = (0..1600)
        .map(|nth| NEW_YEAR_2015_MS + nth * 6 * HOUR_MS)
        .collect();
    let all = candidates(&times);
    let last_of_day = |day: usize| day * 4 + 3;
    let check = |set: fn(&mut RetentionRules), expected: Vec<usize>| {
        let mut rules = RetentionRules::default();
        set(&mut rules);
        assert_eq!(kept(&rules, &all), expected, "{rules:?}");
    };
    check(
        |rules| rules.last = KeepLimit::Newest(3),
        vec![1597, 1598, 1599],
    );
    check(
        |rules| rules.hourly = KeepLimit::Newest(2),
        vec![1598, 1599],
    );
    check(
        |rules| rules.daily = KeepLimit::Newest(2),
        vec![last_of_day(398), last_of_day(399)],
    );
    // 4 February 2016 is a Thursday; 31 January and 24 January were Sundays.
    check(
        |rules| rules.weekly = KeepLimit::Newest(3),
        vec![last_of_day(388), last_of_day(395), last_of_day(399)],
    );
    check(
        |rules| rules.monthly = KeepLimit::Newest(2),
        vec![last_of_day(395), last_of_day(399)],
    );
    check(
        |rules| rules.yearly = KeepLimit::Newest(2),
        vec![last_of_day(364), last_of_day(399)],
    );
    // Two years are all there are: the rule for ten also keeps the oldest.
    check(
        |rules| rules.yearly = KeepLimit::Newest(10),
        vec![0, last_of_day(364), last_of_day(399)],
    );
    check(
        |rules| rules.yearly = KeepLimit::All,
        vec![0, last_of_day(364), last_of_day(399)],
    );
    check(|rules| rules.last = KeepLimit::All, (0..1600).collect());
    check(
        |rules| (rules.last, rules.daily) = (KeepLimit::Newest(1), KeepLimit::Newest(2)),
        vec![last_of_day(398), last_of_day(399)],
    );
    check(|rules| *rules = young("1d"), vec![1596, 1597, 1598, 1599]);
    check(
        |rules| *rules = young("1d6h"),
        vec![1595, 1596, 1597, 1598, 1599],
    );
}

#[test]
fn the_order_of_the_list_decides_nothing_but_between_equal_times() {
    let times: Vec<u64> = [5, 1, 4, 2, 3]
        .map(|day| NEW_YEAR_2015_MS + day * DAY_MS)
        .into();
    let rules = RetentionRules {
        daily: KeepLimit::Newest(2),
        ..RetentionRules::default()
    };
    assert_eq!(kept(&rules, &candidates(&times)), [0, 2]);
    assert_eq!(
        kept(
            &RetentionRules {
                last: KeepLimit::Newest(1),
                ..RetentionRules::default()
            },
            &candidates(&[7, 7, 7])
        ),
        [2]
    );
}

#[test]
fn the_oldest_is_kept_only_while_a_rule_has_some_left() {
    // Two in one hour: the older one has no period of its own.
    let pair = candidates(&[NEW_YEAR_2015_MS, NEW_YEAR_2015_MS + 1]);
    for (limit, expected) in [
        (KeepLimit::Newest(1), vec![1]),
        (KeepLimit::Newest(2), vec![0, 1]),
        (KeepLimit::All, vec![0, 1]),
    ] {
        assert_eq!(
            kept(
                &RetentionRules {
                    daily: limit,
                    ..RetentionRules::default()
                },
                &pair
            ),
            expected,
            "{limit:?}"
        );
    }
    let verdicts = apply_rules(
        &RetentionRules {
            daily: KeepLimit::Newest(2),
            last: KeepLimit::Newest(1),
            ..RetentionRules::default()
        },
        &pair,
    );
    assert_eq!(
        verdicts[0].reasons,
        [KeepReason::Oldest(RetentionPeriod::Day)]
    );
    assert_eq!(
        verdicts[1].reasons,
        [
            KeepReason::Newest(RetentionPeriod::Last),
            KeepReason::Newest(RetentionPeriod::Day)
        ]
    );
    let texts: Vec<String> = verdicts
        .iter()
        .flat_map(|verdict| &verdict.reasons)
        .map(KeepReason::to_string)
        .collect();
    assert_eq!(
        texts,
        ["oldest daily snapshot", "last snapshot", "daily snapshot"]
    );
}

#[test]
fn a_day_is_one_where_the_clock_hangs() {
    // 23:30 and 00:30 UTC: two days in Greenwich, one in Berlin and one in New York.
    let mut pair = candidates(&[
        NEW_YEAR_2015_MS - HOUR_MS / 2,
        NEW_YEAR_2015_MS + HOUR_MS / 2,
    ]);
    for (offset_s, day_count) in [(0, 2), (3600, 1), (-5 * 3600, 1)] {
        pair.iter_mut()
            .for_each(|candidate| candidate.offset_s = offset_s);
        let verdicts = apply_rules(
            &RetentionRules {
                daily: KeepLimit::All,
                ..RetentionRules::default()
            },
            &pair,
        );
        let days = verdicts
            .iter()
            .filter(|verdict| {
                verdict
                    .reasons
                    .contains(&KeepReason::Newest(RetentionPeriod::Day))
            })
            .count();
        assert_eq!(days, day_count, "{offset_s}");
    }
}

#[test]
fn a_week_lasts_over_new_year() {
    // Monday 29 December 2014, Thursday 1 January, Sunday 4 January; then Monday.
    let times = [0, 3, 6, 7].map(|day| NEW_YEAR_2015_MS - 3 * DAY_MS + day * DAY_MS);
    assert_eq!(
        kept(
            &RetentionRules {
                weekly: KeepLimit::Newest(2),
                ..RetentionRules::default()
            },
            &candidates(&times)
        ),
        [2, 3]
    );
}

#[test]
fn a_state_from_the_future_does_not_make_all_others_old() {
    let now_ms = NEW_YEAR_2015_MS;
    let times = candidates(&[now_ms - 3 * DAY_MS, now_ms - DAY_MS, now_ms + 1000 * DAY_MS]);
    let span = "2d".parse().unwrap();
    assert_eq!(
        kept(
            &RetentionRules {
                within: Some(AgeRule { span, now_ms }),
                ..RetentionRules::default()
            },
            &times
        ),
        [1, 2]
    );
    let all_future = RetentionRules {
        within: Some(AgeRule { span, now_ms: 0 }),
        ..RetentionRules::default()
    };
    assert_eq!(kept(&all_future, &times), [0, 1, 2]);
}

#[test]
fn months_and_years_are_the_calendars() {
    // 31 March 2015, and the days around 28 February and 3 March.
    let day = |day: u64| NEW_YEAR_2015_MS + day * DAY_MS;
    let times = candidates(&[day(58), day(61), day(62), day(89)]);
    // A month before 31 March there is no 31 February: it is 3 March, and only what is later is
    // within.
    assert_eq!(kept(&young("1m"), &times), [2, 3]);
    assert_eq!(kept(&young("1y"), &times), [0, 1, 2, 3]);
}

#[test]
fn tags_keep_what_has_all_of_one_list() {
    let (none, both, one) = (names(&[]), names(&["keep", "prod"]), names(&["prod"]));
    let mut all = candidates(&[1, 2, 3]);
    (all[0].tags, all[1].tags, all[2].tags) = (&none, &both, &one);
    let rules = |lists: &[&[&str]]| RetentionRules {
        tags: lists.iter().map(|list| names(list)).collect(),
        ..RetentionRules::default()
    };
    assert_eq!(kept(&rules(&[&["keep", "prod"]]), &all), [1]);
    assert_eq!(kept(&rules(&[&["prod"]]), &all), [1, 2]);
    assert_eq!(kept(&rules(&[&["keep"], &[]]), &all), [0, 1]);
    assert_eq!(
        apply_rules(&rules(&[&["keep", "prod"]]), &all)[1].reasons[0].to_string(),
        "has tags keep, prod"
    );
}

#[test]
fn what_is_pinned_stays_and_counts() {
    let mut all = candidates(&[1, 2, 3].map(|day| NEW_YEAR_2015_MS + day * DAY_MS));
    all[0].pinned = true;
    all[2].pinned = true;
    assert_eq!(
        kept(
            &RetentionRules {
                last: KeepLimit::Newest(2),
                ..RetentionRules::default()
            },
            &all
        ),
        [0, 1, 2]
    );
    assert_eq!(
        kept(
            &RetentionRules {
                last: KeepLimit::Newest(1),
                ..RetentionRules::default()
            },
            &all
        ),
        [0, 2]
    );
}

/// A program that calls without rules, or with rules that say nothing, must not delete everything.
#[test]
fn without_rules_everything_stays() {
    for rules in [
        RetentionRules::default(),
        RetentionRules {
            last: KeepLimit::Newest(0),
            ..RetentionRules::default()
        },
    ] {
        let verdicts = apply_rules(&rules, &candidates(&[1, 2]));
        assert!(
            verdicts
                .iter()
                .all(|verdict| verdict.reasons == [KeepReason::NoRules])
        );
    }
    assert_eq!(apply_rules(&RetentionRules::default(), &[]), []);
}

#[test]
fn limits_and_spans_are_read_as_restic_reads_them() {
    for (text, limit) in [
        ("0", KeepLimit::Newest(0)),
        ("7", KeepLimit::Newest(7)),
        ("-1", KeepLimit::All),
        ("unlimited", KeepLimit::All),
    ] {
        assert_eq!(text.parse(), Ok(limit));
    }
    for bad in ["", "-2", "4294967296", "seven", "7 "] {
        assert!(bad.parse::<KeepLimit>().is_err(), "{bad:?}");
    }
    for good in ["1y5m7d2h", "7d", "999999h"] {
        assert_eq!(good.parse::<CalendarSpan>().unwrap().to_string(), good);
    }
    assert_eq!("2h1y".parse::<CalendarSpan>().unwrap().to_string(), "1y2h");
    for bad in [
        "",
        "d",
        "7",
        "7x",
        "1d2",
        "1d1d",
        "0d",
        "1000000d",
        "-1d",
        "99999999999d",
        "7ü",
        "1 d",
    ] {
        assert!(bad.parse::<CalendarSpan>().is_err(), "{bad:?}");
    }
}

/// One clock in the future made its state the newest for ever. Where the order is known, it
/// decides, and a period that comes twice because of that clock is one.
#[test]
fn a_known_order_is_not_overruled_by_a_clock() {
    let (day, future) = (NEW_YEAR_2015_MS, NEW_YEAR_2015_MS + 90 * 366 * DAY_MS);
    let all = candidates(&[day, future, day + HOUR_MS, day + 2 * HOUR_MS]);
    let check = |last: u32, daily: u32, expected: &[usize]| {
        let rules = RetentionRules {
            last: KeepLimit::Newest(last),
            daily: KeepLimit::Newest(daily),
            ..RetentionRules::default()
        };
        let verdicts = apply_in_order(&rules, &all);
        let kept = (0..all.len()).filter(|at| verdicts[*at].is_kept());
        assert_eq!(kept.collect::<Vec<_>>(), expected, "{last} {daily}");
    };
    check(1, 0, &[3]);
    check(2, 0, &[2, 3]);
    check(0, 1, &[3]);
    check(0, 2, &[1, 3]);
    // The rule may keep a third, and there is no third day: the oldest is kept.
    check(0, 3, &[0, 1, 3]);
}

#[test]
fn a_span_before_now_is_the_calendars() {
    const DAY_MS: u64 = 86_400_000;
    let now = 400 * DAY_MS;
    for (span, expected) in [
        ("1d", 399 * DAY_MS),
        ("12h", 400 * DAY_MS - DAY_MS / 2),
        ("1y", 35 * DAY_MS),
        ("9999y", 0),
    ] {
        let span: CalendarSpan = span.parse().unwrap();
        assert_eq!(span.before_ms(now, 0), expected, "{span}");
    }
}
