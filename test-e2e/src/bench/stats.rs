//! The arithmetic of a line: medians, quantiles, ratios of pairs and how far they lie apart.
//!
//! Pure: no clock, no file.

use std::time::Duration;

/// What a line's ratio, ours over the baseline's, is meant to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// More is better: rates.
    AtLeast(f64),
    /// Less is better: times.
    AtMost(f64),
}

impl Goal {
    /// Whether a ratio is as good as meant.
    pub(super) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ratio <= goal,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, ">= {goal}"),
            Self::AtMost(goal) => write!(f, "<= {goal}"),
        }
    }
}

/// Ours and the baseline, measured one right after the other, in one unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    /// What we took or made.
    pub(super) ours: f64,
    /// What the baseline took or made.
    pub(super) baseline: f64,
}

/// What all pairs of a line say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// Median of ours.
    pub(super) ours: f64,
    /// Median of the baseline.
    pub(super) baseline: f64,
    /// Median of the pairs' ratios; not the ratio of the medians.
    pub(super) ratio: f64,
    /// (p90 − p10) of the pairs' ratios, divided by their median: 0 when all pairs agree.
    pub(super) spread: f64,
}

impl Summary {
    /// Of at least one pair.
    pub(super) fn of(pairs: &[Pair]) -> Self {
        let all = |pick: fn(&Pair) -> f64| pairs.iter().map(pick).collect::<Vec<_>>();
        let ratios = all(|pair| pair.ours / pair.baseline);
        let ratio = median(&ratios);
        Self {
            ours: median(&all(|pair| pair.ours)),
            baseline: median(&all(|pair| pair.baseline)),
            ratio,
            spread: (quantile(&ratios, 0.9) - quantile(&ratios, 0.1)) / ratio,
        }
    }
}

/// The middle value; of an even number, the mean of the two.
pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part (0–1) of the values lies, between two values in proportion. NaN of none.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * float(last);
    let below = (0..=last).rev().find(|index| float(*index) <= place).unwrap_or(0);
    let above = (below + 1).min(last);
    let share = place - float(below);
    sorted[below].mul_add(1.0 - share, sorted[above] * share)
}

/// Milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Milliseconds of each.
pub(super) fn all_ms(times: &[Duration]) -> Vec<f64> {
    times.iter().copied().map(ms).collect()
}

/// So many things in so much time, per second.
pub(super) fn rate(count: usize, time: Duration) -> f64 {
    float(count) / time.as_secs_f64()
}

/// Successes per second: until the last of `target`, or over the whole `limit` when they were fewer.
///
/// `times` are those of the successes since the start, in any order; later ones than `limit` do not count.
pub(super) fn bounded_rate(times: &[Duration], target: usize, limit: Duration) -> f64 {
    let within = times.iter().filter(|time| **time <= limit).count();
    let last = times.iter().max().copied().unwrap_or(limit);
    rate(within, if within >= target { last } else { limit })
}

/// Rates over the first and the last `count` of these completion times.
pub(super) fn first_and_last_rate(times: &[Duration], count: usize) -> (f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let end = sorted.len();
    let before_last = end.checked_sub(count + 1).map_or(Duration::ZERO, at);
    let first = rate(count.min(end), at(count.min(end).saturating_sub(1)));
    let last = rate(count.min(end), at(end.saturating_sub(1)).saturating_sub(before_last));
    (first, last)
}

/// A count as a number to divide by; exact for any count that a bench reaches.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours_in_proportion() {
        let values = [4.0, 1.0, 3.0, 2.0, 5.0];
        for (part, expected) in [(0.0, 1.0), (0.1, 1.4), (0.5, 3.0), (0.9, 4.6), (1.0, 5.0)] {
            assert!(close(quantile(&values, part), expected), "{part}: {}", quantile(&values, part));
        }
        assert!(close(median(&[1.0, 2.0]), 1.5));
        assert!(close(median(&[7.0]), 7.0));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let pairs = [(1.0, 1.0), (10.0, 5.0), (3.0, 1.0)].map(|(ours, baseline)| Pair { ours, baseline });
        let summary = Summary::of(&pairs);
        assert!(close(summary.ratio, 2.0), "{summary:?}");
        assert!(close(summary.ours, 3.0) && close(summary.baseline, 1.0), "{summary:?}");
        assert!(close(summary.spread, (2.8 - 1.2) / 2.0), "{summary:?}");
    }

    #[test]
    fn pairs_that_agree_have_no_spread() {
        let pairs = [Pair { ours: 2.0, baseline: 1.0 }; 7];
        assert!(close(Summary::of(&pairs).spread, 0.0));
    }

    #[test]
    fn a_rate_counts_until_the_target_or_over_the_whole_time() {
        let seconds = |all: &[u64]| all.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        let limit = Duration::from_secs(20);
        assert!(close(bounded_rate(&seconds(&[4, 1, 2, 3]), 4, limit), 1.0));
        assert!(close(bounded_rate(&seconds(&[1, 2, 21]), 4, limit), 0.1));
        assert!(close(bounded_rate(&[], 4, limit), 0.0));
    }

    #[test]
    fn first_and_last_rates_are_of_their_own_parts() {
        let times: Vec<_> = [1, 2, 4, 8, 12].map(Duration::from_secs).to_vec();
        let (first, last) = first_and_last_rate(&times, 2);
        assert!(close(first, 1.0) && close(last, 0.25), "{first} {last}");
        let (first, last) = first_and_last_rate(&times, 5);
        assert!(close(first, 5.0 / 12.0) && close(last, 5.0 / 12.0), "{first} {last}");
    }

    #[test]
    fn goals_know_their_direction() {
        assert!(Goal::AtLeast(20.0).is_met(20.0) && !Goal::AtLeast(20.0).is_met(19.9));
        assert!(Goal::AtMost(1.0).is_met(0.9) && !Goal::AtMost(1.0).is_met(1.1));
        assert_eq!(Goal::AtMost(1.15).to_string(), "<= 1.15");
    }
}
