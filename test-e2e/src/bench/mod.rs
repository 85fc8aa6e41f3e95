//! `make bench`: how fast the product is, against what people use otherwise, on this very machine.
//!
//! Each line is a number of pairs, ours and the baseline measured one right after the other; its ratio is the median
//! of the pairs' ratios, so that what else the machine does weighs on both. Everything is made beforehand and undone
//! outside the timing. Nothing here judges: a missed goal is told, not failed.

mod antrea;
mod churn;
mod cni;
mod inside;
mod ipam;
mod names;
mod node;
mod pairs;
mod plugin;
mod pods;
mod ports;
mod raw_ovsdb;
mod report;
mod stats;
mod storm;
mod taps;
mod throughput;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;

pub use report::Line;

use self::report::Case;
use crate::{debs, paths, prereq, run, tools};

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// One group or one line only, such as `cni-add` or `cni-add/v4`; may be given several times
    #[arg(long, value_name = "GROUP/CASE")]
    pub only: Vec<String>,
    /// Pairs of each line, 1–40; fewer where a line would take more than three minutes
    #[arg(long, default_value_t = 7, value_parser = parse_reps)]
    pub reps: usize,
}

fn parse_reps(text: &str) -> Result<usize, String> {
    let reps = text.parse().ok().filter(|reps| (1..=40).contains(reps));
    reps.ok_or_else(|| "the number of pairs is 1 to 40".to_owned())
}

impl Options {
    fn wants(&self, case: &Case) -> bool {
        let group = case.bench.split('/').next().unwrap_or_default();
        self.only.is_empty() || self.only.iter().any(|one| one == case.bench || one == group)
    }
}

/// Takes a line as soon as it is done.
type Done<'a> = dyn FnMut(Line) -> Result<()> + Send + 'a;

/// Measures the lines of one cluster.
type Group = fn(&Options, &mut Done<'_>) -> Result<()>;

/// Everything that can be measured: what shares a cluster, and how.
const GROUPS: [(&[Case], Group); 7] = [
    (&ports::CASES, ports::run),
    (&ipam::CASES, ipam::run),
    (&cni::CASES, cni::run),
    (&taps::CASES, taps::run),
    (&throughput::CASES, throughput::run),
    (&names::CASES, names::run),
    (&churn::CASES, churn::run),
];

/// Measures, writes `target/bench.jsonl` line by line, and prints a table. A line that cannot be measured does not
/// keep the others from it, but is a failure in the end.
pub fn run(options: &Options) -> Result<()> {
    check(options)?;
    prepare()?;
    let (begin, file) = (Instant::now(), paths::output().join("bench.jsonl"));
    std::fs::create_dir_all(paths::output()).context("creating the folder for results")?;
    if options.only.is_empty() {
        let _ = std::fs::remove_file(&file);
    }
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    for (cases, measure) in GROUPS {
        if !cases.iter().any(|case| options.wants(case)) {
            continue;
        }
        let mut done = |line: Line| take(&mut lines, &file, line);
        if let Err(error) = measure(options, &mut done) {
            eprintln!("error: {error:#}");
            failures.push(format!("{error:#}"));
        }
    }
    println!("\n{}\n", report::table(&lines));
    eprintln!("{} lines in {:.0} s, also in {}", lines.len(), begin.elapsed().as_secs_f64(), file.display());
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("not everything could be measured: {}", failures.join("; "))
    }
}

fn take(lines: &mut Vec<Line>, file: &Path, line: Line) -> Result<()> {
    report::save(file, &line)?;
    lines.push(line);
    Ok(())
}

/// Fails on a name that no line has.
fn check(options: &Options) -> Result<()> {
    run::require_root("the bench")?;
    let all = || GROUPS.iter().flat_map(|(cases, _)| cases.iter());
    for one in &options.only {
        let alone = Options { only: vec![one.clone()], ..options.clone() };
        if !all().any(|case| alone.wants(case)) {
            let known: Vec<_> = all().map(|case| case.bench).collect();
            bail!("there is no line {one}; there are {}", known.join(", "));
        }
    }
    Ok(())
}

fn prepare() -> Result<()> {
    prereq::check()?;
    debs::ovs()?;
    tools::prepare(tools::CONTROL_PLANE)?;
    tools::prepare(tools::LIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Options {
        Options { only: names.iter().map(|name| (*name).to_owned()).collect(), reps: 7 }
    }

    #[test]
    fn a_line_is_chosen_by_its_name_its_group_or_by_nothing() {
        let chosen = |options: &Options| -> Vec<&str> {
            let all = GROUPS.iter().flat_map(|(cases, _)| cases.iter());
            all.filter(|case| options.wants(case)).map(|case| case.bench).collect()
        };
        assert_eq!(chosen(&only(&[])).len(), 22);
        assert_eq!(chosen(&only(&["cni-add/v4"])), ["cni-add/v4"]);
        assert_eq!(chosen(&only(&["cni-add"])), ["cni-add/none", "cni-add/v4", "cni-add/300"]);
        assert_eq!(chosen(&only(&["ovs-port-add/400", "ipam-allocate/1"])).len(), 2);
        assert_eq!(chosen(&only(&["cni"])), Vec::<&str>::new());
    }

    #[test]
    fn the_number_of_pairs_is_bounded() {
        for (text, expected) in [("1", Some(1)), ("40", Some(40)), ("0", None), ("41", None), ("x", None)] {
            assert_eq!(parse_reps(text).ok(), expected, "{text}");
        }
    }
}
