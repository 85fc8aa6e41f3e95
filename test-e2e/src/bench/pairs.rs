//! The loop of a line: pairs one after the other, as many as asked for, within the line's time.

use std::time::{Duration, Instant};

use super::report::{Case, Line};
use super::stats::{Pair, float};

/// What a line may take.
const BUDGET: Duration = Duration::from_secs(175);

/// The pairs of one line.
#[derive(Debug)]
pub(super) struct Pairs {
    case: Case,
    wanted: usize,
    start: Instant,
    taken: Vec<Pair>,
}

impl Pairs {
    /// None yet; the line's time begins.
    pub(super) fn begin(case: Case, wanted: usize) -> Self {
        eprintln!("{}", case.bench);
        Self { case, wanted, start: Instant::now(), taken: Vec::new() }
    }

    /// Whether another pair is wanted and fits into the line's time.
    pub(super) fn go_on(&self) -> bool {
        goes_on(self.taken.len(), self.wanted, self.start.elapsed())
    }

    /// Whether ours comes first in the next pair; every other time it does.
    pub(super) fn ours_first(&self) -> bool {
        self.taken.len().is_multiple_of(2)
    }

    /// How many there are.
    pub(super) fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Takes a pair.
    pub(super) fn push(&mut self, ours: f64, baseline: f64) {
        self.taken.push(Pair { ours, baseline });
        eprintln!(
            "  pair {}: ours {ours:.4} {unit}, baseline {baseline:.4} {unit}, ratio {:.4}, after {:.0} s",
            self.taken.len(),
            ours / baseline,
            self.start.elapsed().as_secs_f64(),
            unit = self.case.unit,
        );
    }

    /// The line of all pairs.
    pub(super) fn line(self, note: &str) -> Line {
        let missing = self.wanted.saturating_sub(self.taken.len());
        let cut = if missing > 0 {
            format!("; {missing} pairs fewer than asked for: the line's time was over")
        } else {
            String::new()
        };
        self.case.line(&self.taken, &format!("{note}{cut}"))
    }
}

fn goes_on(taken: usize, wanted: usize, elapsed: Duration) -> bool {
    let next_end = elapsed.as_secs_f64() * (float(taken) + 1.0) / float(taken.max(1));
    taken == 0 || (taken < wanted && next_end <= BUDGET.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_its_pairs_or_before_its_time() {
        let seconds = Duration::from_secs;
        for (taken, wanted, elapsed, expected) in [
            (0, 7, seconds(999), true),
            (6, 7, seconds(120), true),
            (7, 7, seconds(1), false),
            (6, 7, seconds(149), true),
            (6, 7, seconds(151), false),
        ] {
            assert_eq!(goes_on(taken, wanted, elapsed), expected, "{taken} of {wanted} after {elapsed:?}");
        }
    }
}
