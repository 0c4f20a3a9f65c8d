//! Estimate of a number: exact, or a range that holds it 95 times in 100.

/// Standard deviations on either side of the mean that hold 95 % of a normal distribution.
const NORMAL_95: f64 = 1.96;
/// Student's factors in its place for one, two, three … degrees of freedom; more come close to the
/// normal one.
const STUDENT_95: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];

/// A number, and the range that holds it with a chance of 95 %. All three are equal if it is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// The best guess.
    pub value: u64,
    /// The lower end of the range.
    pub low: u64,
    /// The upper end.
    pub high: u64,
}

/// A mean and its variance: what adds up and multiplies before it becomes an [`Estimate`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Guess {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

/// Pairs of what is known of all (`x`) and what was found out of some (`y`): the ratio of their
/// sums tells the sum of all `y`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RatioSample {
    pub(super) count: u64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Estimate {
    /// A number that was counted.
    #[must_use]
    pub fn exact(value: u64) -> Self {
        Self {
            value,
            low: value,
            high: value,
        }
    }

    /// True if it was counted.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.low == self.high
    }

    /// True if the range holds `value`.
    #[must_use]
    pub fn holds(&self, value: u64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl Guess {
    pub(super) fn exact(mean: f64) -> Self {
        Self {
            mean,
            variance: 0.0,
        }
    }

    /// Estimates a total count of which `found` are in a sample that takes each with chance `rate`,
    /// independently: binomial. One more is assumed in the variance, so that finding none does not
    /// pass for knowing that there is none.
    pub(super) fn of_count(found: u64, rate: f64) -> Self {
        Self {
            mean: found as f64 / rate,
            variance: (found as f64 + 1.0) * (1.0 - rate) / (rate * rate),
        }
    }

    /// A sum, if `strata` are the sums of equal, independent parts of a sample of `rate`. What they
    /// differ by tells how far off the whole may be, whatever the weights of those who were
    /// sampled.
    pub(super) fn of_strata(strata: &[u64], rate: f64) -> Self {
        let (count, sum) = (strata.len() as f64, strata.iter().sum::<u64>() as f64);
        let spread: f64 = strata
            .iter()
            .map(|part| (*part as f64 - sum / count).powi(2))
            .sum();
        let widened = student_widening(strata.len() as u64 - 1);
        Self {
            mean: sum / rate,
            variance: spread * count / (count - 1.0) * (1.0 - rate) / (rate * rate) * widened,
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            mean: self.mean + other.mean,
            variance: self.variance + other.variance,
        }
    }

    /// The product with an independent guess.
    pub(super) fn times(self, other: Self) -> Self {
        let variance = self.mean.powi(2) * other.variance
            + other.mean.powi(2) * self.variance
            + self.variance * other.variance;
        Self {
            mean: self.mean * other.mean,
            variance,
        }
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        Self {
            mean: self.mean * factor,
            variance: self.variance * factor * factor,
        }
    }

    pub(super) fn to_estimate(self) -> Estimate {
        let whole = |value: f64| value.max(0.0).round() as u64;
        if self.variance == 0.0 {
            return Estimate::exact(whole(self.mean));
        }
        let reach = NORMAL_95 * self.variance.sqrt();
        Estimate {
            value: whole(self.mean),
            low: whole((self.mean - reach).floor()),
            high: whole((self.mean + reach).ceil()),
        }
    }
}

impl RatioSample {
    pub(super) fn add_pair(&mut self, x: u64, y: u64) {
        let (x, y) = (x as f64, y as f64);
        self.count += 1;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
    }

    pub(super) fn merge_pairs(&mut self, other: &Self) {
        self.count += other.count;
        self.x += other.x;
        self.y += other.y;
        self.xx += other.xx;
        self.xy += other.xy;
        self.yy += other.yy;
    }

    /// The ratio of all `y` to all `x`, of which there are `total` pairs. `None` if nothing can be
    /// said.
    ///
    /// The classic ratio estimator with the variance of its residuals, as if the pairs had been
    /// drawn from all alike. They are drawn one from each stretch of neighbours, which resemble
    /// each other: the truth is closer than this says.
    pub(super) fn estimate_ratio(&self, total: u64) -> Option<Guess> {
        if self.count >= total && self.x > 0.0 {
            return Some(Guess::exact(self.y / self.x));
        }
        if self.count < 2 || self.x == 0.0 {
            return None;
        }
        let (count, ratio) = (self.count as f64, self.y / self.x);
        let residuals =
            (self.yy - 2.0 * ratio * self.xy + ratio * ratio * self.xx).max(0.0) / (count - 1.0);
        let mean = self.x / count;
        let variance = (1.0 - count / total as f64) * residuals / (count * mean * mean);
        Some(Guess {
            mean: ratio,
            variance: variance * student_widening(self.count - 1),
        })
    }
}

/// Factor for a variance from `freedom` + 1 values, so that the normal factor gives Student's
/// range.
fn student_widening(freedom: u64) -> f64 {
    let nth = usize::try_from(freedom)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let student = STUDENT_95
        .get(nth)
        .copied()
        .unwrap_or(NORMAL_95 + 2.4 / freedom as f64);
    (student / NORMAL_95).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_whole_has_no_range() {
        assert_eq!(Guess::of_count(17, 1.0).to_estimate(), Estimate::exact(17));
        assert_eq!(
            Guess::of_strata(&[3, 5, 0, 1], 1.0).to_estimate(),
            Estimate::exact(9)
        );
        let mut pairs = RatioSample::default();
        [(10, 3), (20, 9)]
            .into_iter()
            .for_each(|(x, y)| pairs.add_pair(x, y));
        assert_eq!(
            pairs
                .estimate_ratio(2)
                .map(|ratio| ratio.scaled(30.0).to_estimate()),
            Some(Estimate::exact(12))
        );
        assert!(
            !pairs
                .estimate_ratio(3)
                .expect("two pairs say something")
                .to_estimate()
                .is_exact()
        );
        assert_eq!(RatioSample::default().estimate_ratio(5), None);
    }

    #[test]
    fn finding_nothing_in_a_sample_is_not_knowing_that_there_is_nothing() {
        let none = Guess::of_count(0, 0.05).to_estimate();
        assert!(none.value == 0 && none.high >= 20, "{none:?}");
    }

    /// Ranges of 95 % miss once in twenty; of 400 they miss more than 40 (or fewer than 1) once in
    /// many millions of runs.
    #[test]
    fn ranges_hold_the_truth_as_often_as_they_say() {
        let mut random = fastrand::Rng::with_seed(crate::model::seed());
        let mut missed = [0; 3];
        for _ in 0..400 {
            let found = (0..2000).filter(|_| random.f64() < 0.2).count() as u64;
            missed[0] += u32::from(!Guess::of_count(found, 0.2).to_estimate().holds(2000));
            let (mut strata, mut truth) = ([0; 16], 0);
            for _ in 0..2000 {
                let weight = random.u64(1..9);
                truth += weight;
                if random.f64() < 0.2 {
                    strata[random.usize(..16)] += weight;
                }
            }
            missed[1] += u32::from(!Guess::of_strata(&strata, 0.2).to_estimate().holds(truth));
            let (mut pairs, mut x_sum, mut y_sum) = (RatioSample::default(), 0, 0);
            for nth in 0..1000 {
                let x = random.u64(50..150);
                let y = x * random.u64(10..100) / 100;
                (x_sum, y_sum) = (x_sum + x, y_sum + y);
                if nth % 10 == 0 {
                    pairs.add_pair(x, y);
                }
            }
            let all = pairs
                .estimate_ratio(1000)
                .expect("a hundred pairs")
                .scaled(x_sum as f64);
            missed[2] += u32::from(!all.to_estimate().holds(y_sum));
        }
        println!("{missed:?} of 400 missed");
        assert!(
            missed.iter().all(|missed| (1..=40).contains(missed)),
            "{missed:?} of 400"
        );
    }
}
