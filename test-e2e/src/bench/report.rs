//! Lines: what each is called and meant to reach, `target/bench.jsonl`, and the table for people.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::stats::{Goal, Pair, Summary, median, quantile};

/// A line before it is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// `group/case`.
    pub(super) bench: &'static str,
    /// Unit of ours and of the baseline. Rates where more is better, times where less is.
    pub(super) unit: &'static str,
    /// What the ratio is meant to be.
    pub(super) goal: Goal,
}

/// A line of `target/bench.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `group/case`.
    pub bench: String,
    /// Unit of `ours` and `baseline`.
    pub unit: String,
    /// Median of what we took or made.
    pub ours: f64,
    /// Median of what the baseline took or made; null where there is none to measure.
    pub baseline: Option<f64>,
    /// Median of the pairs' ratios, ours over the baseline's; null without a baseline.
    pub ratio: Option<f64>,
    /// Pairs.
    pub reps: usize,
    /// (p90 − p10) of the pairs' ratios over their median.
    pub spread: f64,
    /// Goal, conditions, more figures.
    pub note: String,
}

impl Case {
    /// The line of these pairs; `note` comes after the goal.
    pub(super) fn line(&self, pairs: &[Pair], note: &str) -> Line {
        let summary = Summary::of(pairs);
        let met = if self.goal.is_met(summary.ratio) { "met" } else { "missed" };
        Line {
            bench: self.bench.to_owned(),
            unit: self.unit.to_owned(),
            ours: round(summary.ours),
            baseline: Some(round(summary.baseline)),
            ratio: Some(round(summary.ratio)),
            reps: pairs.len(),
            spread: round(summary.spread),
            note: format!("goal ratio {} {met}; {note}", self.goal),
        }
    }
}

impl Case {
    /// The line of what was measured without a baseline: at least one value.
    pub(super) fn alone(&self, values: &[f64], note: &str) -> Line {
        let ours = median(values);
        Line {
            bench: self.bench.to_owned(),
            unit: self.unit.to_owned(),
            ours: round(ours),
            baseline: None,
            ratio: None,
            reps: values.len(),
            spread: round((quantile(values, 0.9) - quantile(values, 0.1)) / ours),
            note: format!("goal ratio {}, not judged; {note}", self.goal),
        }
    }
}

/// Four significant digits.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// Puts a line into the file, in the place of an older one of the same name.
pub(super) fn save(file: &Path, line: &Line) -> Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    fs::write(file, merged(&old, line)?).with_context(|| format!("writing {}", file.display()))
}

fn merged(old: &str, line: &Line) -> Result<String> {
    let stays = |text: &&str| serde_json::from_str::<Line>(text).is_ok_and(|other| other.bench != line.bench);
    let mut text: String = old.lines().filter(stays).flat_map(|kept| [kept, "\n"]).collect();
    text.push_str(&serde_json::to_string(line).context("writing a line")?);
    text.push('\n');
    Ok(text)
}

/// The table for people: columns wide enough, numbers to the right, notes below.
pub(super) fn table(lines: &[Line]) -> String {
    let head = ["BENCH", "UNIT", "OURS", "BASELINE", "RATIO", "REPS", "SPREAD"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(lines.iter().map(|line| {
        [
            line.bench.clone(),
            line.unit.clone(),
            line.ours.to_string(),
            shown(line.baseline),
            shown(line.ratio),
            line.reps.to_string(),
            line.spread.to_string(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column < 2 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let notes = lines.iter().map(|line| format!("\n{}: {}", line.bench, line.note));
    text.extend(notes);
    text
}

/// A number, or a dash.
fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case { bench: "a/b", unit: "ms", goal: Goal::AtMost(1.0) };

    #[test]
    fn a_line_says_whether_its_goal_is_met() {
        let line = CASE.line(&[Pair { ours: 1.0, baseline: 3.0 }; 7], "quiet");
        assert_eq!((line.reps, line.note.as_str()), (7, "goal ratio <= 1 met; quiet"));
        assert!(line.ratio.is_some_and(|ratio| (ratio - 0.3333).abs() < 1e-9), "{line:?}");
        let line = CASE.line(&[Pair { ours: 4.0, baseline: 3.0 }; 7], "quiet");
        assert_eq!(line.note, "goal ratio <= 1 missed; quiet");
    }

    #[test]
    fn a_line_without_a_baseline_has_no_ratio() {
        let line = CASE.alone(&[3.0, 1.0, 2.0], "quiet");
        assert_eq!((line.ours, line.baseline, line.ratio, line.reps), (2.0, None, None, 3));
        assert_eq!(line.note, "goal ratio <= 1, not judged; quiet");
        assert!(table(&[line]).contains("2         -"));
    }

    #[test]
    fn a_line_takes_the_place_of_an_older_one() {
        let line = CASE.line(&[Pair { ours: 1.0, baseline: 1.0 }], "new");
        let other = Line { bench: "c/d".to_owned(), ..line.clone() };
        let older = Line { note: "old".to_owned(), ..line.clone() };
        let json = |line: &Line| serde_json::to_string(line).expect("a line");
        let old = format!("{}\n{}\nnot a line\n", json(&older), json(&other));
        assert_eq!(merged(&old, &line).expect("text"), format!("{}\n{}\n", json(&other), json(&line)));
    }

    #[test]
    fn the_file_holds_exactly_the_documented_keys() {
        let line = CASE.line(&[Pair { ours: 1.0, baseline: 1.0 }], "");
        let value = serde_json::to_value(&line).expect("a line");
        let mut keys: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["baseline", "bench", "note", "ours", "ratio", "reps", "spread", "unit"]);
    }

    #[test]
    fn the_table_aligns_numbers_to_the_right() {
        let line = CASE.line(&[Pair { ours: 1.5, baseline: 1234.0 }; 7], "n");
        let text = table(&[line]);
        let rows: Vec<_> = text.lines().take(2).collect();
        assert_eq!(
            rows[0].find("BASELINE").map(|at| at + "BASELINE".len()),
            rows[1].find("1234").map(|at| at + 4)
        );
        assert!(text.ends_with("a/b: goal ratio <= 1 met; n"), "{text}");
    }
}
