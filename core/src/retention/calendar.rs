//! The Gregorian calendar, in both directions: hours, days, weeks, months and years of local time.

use super::CalendarSpan;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// No moment is later: some 280,000 years from now, so that no sum of a few of these overflows.
const MOMENT_MAX_MS: u64 = 1 << 53;
/// The calendar repeats itself after so many days: 400 years.
const CYCLE_DAYS: i64 = 146_097;
/// Days from 1 March of the year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;

/// A point in time, and what a clock on the wall shows then.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalTime {
    pub(super) since_1970_ms: i64,
    offset_ms: i64,
}

impl LocalTime {
    pub(super) fn new(since_1970_ms: u64, offset_s: i32) -> Self {
        Self {
            since_1970_ms: since_1970_ms.min(MOMENT_MAX_MS).cast_signed(),
            offset_ms: i64::from(offset_s) * 1000,
        }
    }

    fn local_ms(self) -> i64 {
        self.since_1970_ms + self.offset_ms
    }

    /// Hours since 1970 began there.
    pub(super) fn hour_number(self) -> i64 {
        self.local_ms().div_euclid(HOUR_MS)
    }

    /// Days since 1 January 1970.
    pub(super) fn day_number(self) -> i64 {
        self.local_ms().div_euclid(DAY_MS)
    }

    /// Weeks since Monday, 29 December 1969: ISO 8601's weeks.
    pub(super) fn week_number(self) -> i64 {
        (self.day_number() + 3).div_euclid(7)
    }

    /// Months since January of the year 0.
    pub(super) fn month_number(self) -> i64 {
        let (year, month, _) = date_of(self.day_number());
        year * 12 + month
    }

    pub(super) fn year_number(self) -> i64 {
        date_of(self.day_number()).0
    }

    /// The moment that is `span` earlier, in milliseconds since 1970. A day that its month does not
    /// have is so much later: a month before 31 March is 3 March, or 2 March in a leap year.
    pub(super) fn earlier_by(self, span: &CalendarSpan) -> i64 {
        let (year, month, day_of_month) = date_of(self.day_number());
        let months = (year - i64::from(span.years)) * 12 + month - i64::from(span.months);
        let day = first_day_of(months.div_euclid(12), months.rem_euclid(12)) + day_of_month
            - i64::from(span.days);
        self.since_1970_ms - (self.day_number() - day) * DAY_MS - i64::from(span.hours) * HOUR_MS
    }
}

/// The year, month and day of the month that `day` days after 1 January 1970 fall on; January and
/// the first of a month are 0.
fn date_of(day: i64) -> (i64, i64, i64) {
    // In years that begin in March, the leap day is the last.
    let since_march = day + EPOCH_DAYS;
    let (cycle, day) = (
        since_march.div_euclid(CYCLE_DAYS),
        since_march.rem_euclid(CYCLE_DAYS),
    );
    let year = (day - day / 1460 + day / 36_524 - day / (CYCLE_DAYS - 1)) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    let is_next_year = month >= 10;
    (
        cycle * 400 + year + i64::from(is_next_year),
        if is_next_year { month - 10 } else { month + 2 },
        day_of_month,
    )
}

/// The first day of a month, in days since 1 January 1970. January is 0.
fn first_day_of(year: i64, month: i64) -> i64 {
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        - EPOCH_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Day by day, by the rule that everybody learns: the formulas must not part from it on any day
    /// of more than one cycle.
    #[test]
    fn every_day_has_its_date() {
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut day = first_day_of(1500, 0);
        for year in 1500..2500 {
            let february = if is_leap(year) { 29 } else { 28 };
            for (month, days) in (0..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                assert_eq!(first_day_of(year, month), day);
                for day_of_month in 0..days {
                    assert_eq!(date_of(day), (year, month, day_of_month));
                    day += 1;
                }
            }
        }
        assert_eq!(first_day_of(1970, 0), 0);
    }

    #[test]
    fn no_moment_is_too_far_away() {
        let longest = CalendarSpan {
            years: 999_999,
            months: 999_999,
            days: 999_999,
            hours: 999_999,
        };
        for (ms, offset) in [
            (0, i32::MIN),
            (0, i32::MAX),
            (u64::MAX, i32::MIN),
            (u64::MAX, i32::MAX),
        ] {
            let moment = LocalTime::new(ms, offset);
            let _ = (
                moment.hour_number(),
                moment.week_number(),
                moment.month_number(),
                moment.earlier_by(&longest),
            );
        }
    }
}
