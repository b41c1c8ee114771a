//! Medians, their intervals, and intervals of what is computed from several medians.
//!
//! The interval of one median comes from order statistics: of n independent samples, the number below the true median is
//! binomial(n, 1/2), whatever their distribution. What depends on several medians (a ratio, an overlap) has a bootstrap
//! interval: samples are drawn anew, with repetition, the same draws for every series, since series that were measured in
//! turns share what disturbed them.

/// A figure and the interval that holds the true one in 95 of 100 measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    pub fn width(&self) -> f64 {
        self.high - self.low
    }
}

/// Half of what the interval may miss: 2.5 % on each side.
const TAIL: f64 = 0.025;
/// Draws of a bootstrap.
const DRAWS: usize = 2000;

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The median with its interval; of fewer than 6 samples, whose extremes do not reach 95 %, the extremes.
pub fn median_estimate(samples: &[f64]) -> Estimate {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let value = median_of_sorted(&sorted);
    let Some(last) = sorted.len().checked_sub(1) else {
        return Estimate {
            value,
            low: value,
            high: value,
        };
    };
    let below = order_below(sorted.len());
    Estimate {
        value,
        low: sorted[below],
        high: sorted[last - below],
    }
}

/// The j-th smallest and the j-th largest sample enclose the median with 95 %, where P(binomial(n, 1/2) < j) is at most 2.5 %.
/// The largest such j, counted from 0; 0 where there is none.
fn order_below(n: usize) -> usize {
    // Terms of the binomial distribution, each from the one before; in logarithms, since 2^-n underflows.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for j in 0..n / 2 {
        sum += log_term.exp();
        if sum > TAIL {
            return j.saturating_sub(1);
        }
        log_term += ((n - j) as f64 / (j + 1) as f64).ln();
    }
    0
}

/// The geometric mean of positive values; NaN of none.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// `of` the medians of `series`, with a bootstrap interval. The series are equally long, sample i of each was taken in turn
/// i. The same samples give the same interval.
pub fn of_medians<const N: usize>(series: [&[f64]; N], of: impl Fn([f64; N]) -> f64) -> Estimate {
    let value = of(series.map(median));
    let turns = series.iter().map(|samples| samples.len()).min().unwrap_or(0);
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let turn: Vec<usize> = (0..turns).map(|_| draw.below(turns)).collect();
            of(series.map(|samples| median(&turn.iter().map(|i| samples[*i]).collect::<Vec<_>>())))
        })
        .filter(|value| !value.is_nan())
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |part: f64| drawn.get((part * drawn.len() as f64) as usize).copied();
    Estimate {
        value,
        low: at(TAIL).unwrap_or(f64::NAN),
        high: at(1.0 - TAIL).unwrap_or(f64::NAN),
    }
}

/// xorshift64*: enough to draw indices.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    /// Ranks from tables of the sign test (two-sided, 5 %): n = 6: 1st and 6th; 10: 2 and 9; 20: 6 and 15; 41: 14 and 28;
    /// 100: 40 and 61.
    #[test]
    fn order_statistics_of_the_tables() {
        for (n, from_one) in [(6, 1), (10, 2), (20, 6), (41, 14), (100, 40)] {
            assert_eq!(order_below(n) + 1, from_one, "{n}");
        }
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let e = median_estimate(&hundred);
        assert_eq!((e.low, e.value, e.high), (40.0, 50.5, 61.0));
        let three = median_estimate(&[5.0, 1.0, 2.0]);
        assert_eq!((three.low, three.value, three.high), (1.0, 2.0, 5.0));
        assert!(order_below(5000) > 2400, "no underflow");
    }

    /// What the interval promises, counted: 1000 measurements of 41 samples of a skewed distribution.
    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut draw = Draw(7);
        let mut uniform = || (draw.next() >> 11) as f64 / (1u64 << 53) as f64;
        let held = (0..1000)
            .filter(|_| {
                let samples: Vec<f64> = (0..41).map(|_| -(1.0 - uniform()).ln()).collect();
                let e = median_estimate(&samples);
                e.low <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= e.high
            })
            .count();
        assert!((940..=985).contains(&held), "{held}");
    }

    #[test]
    fn means_of_ratios() {
        assert!((geometric_mean(&[0.5, 2.0, 8.0]) - 2.0).abs() < 1e-12);
        assert!(geometric_mean(&[]).is_nan());
    }

    #[test]
    fn paired_draws_cancel_what_both_series_share() {
        // Both drift alike, by far more than they differ; the ratio is exact all the same.
        let a: Vec<f64> = (0..30).map(|i| 1.0 + f64::from(i)).collect();
        let b: Vec<f64> = a.iter().map(|v| v * 1.25).collect();
        let e = of_medians([&a, &b], |[a, b]| b / a);
        assert!((e.value - 1.25).abs() < 1e-12 && e.width() < 1e-12, "{e:?}");
        let alone = of_medians([&a], |[a]| a);
        assert!(alone.low < 15.0 && alone.high > 16.0, "{alone:?}");
        assert_eq!(alone, of_medians([&a], |[a]| a));
    }
}
