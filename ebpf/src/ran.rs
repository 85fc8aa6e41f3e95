//! How often the taps ran, and for how long, where the node counts that: it costs each run some 20 ns, so that it is the
//! operator's to switch on (`kernel.bpf_stats_enabled`).

use std::collections::HashMap;
use std::time::Duration;

use aya::programs::{ProgramInfo, loaded_programs};

/// All runs of all copies of the programs while the kernel counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// How often.
    pub runs: u64,
    /// For how long in all.
    pub time: Duration,
}

/// What was seen of each copy, by its number: what goes takes its counts with it.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    seen: HashMap<u32, Ran>,
    sum: Ran,
}

impl Runs {
    /// Everything since the first look, of the programs that use this map. What cannot be had is left out.
    pub(crate) fn look(&mut self, map: u32) -> Ran {
        let users = loaded_programs()
            .filter_map(Result::ok)
            .filter(|program| program.map_ids().ok().flatten().is_some_and(|maps| maps.contains(&map)));
        let ran = |program: &ProgramInfo| Ran { runs: program.run_count(), time: program.run_time() };
        self.take_in(users.map(|program| (program.id(), ran(&program))).collect());
        self.sum
    }

    fn take_in(&mut self, found: HashMap<u32, Ran>) {
        for (program, now) in &found {
            let before = self.seen.get(program).copied().unwrap_or_default();
            self.sum.runs += now.runs.saturating_sub(before.runs);
            self.sum.time += now.time.saturating_sub(before.time);
        }
        self.seen = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_come_and_go_add_up() {
        let ran = |runs, micros| Ran { runs, time: Duration::from_micros(micros) };
        let mut all = Runs::default();
        all.take_in(HashMap::from([(1, ran(10, 5)), (2, ran(1, 1))]));
        all.take_in(HashMap::from([(1, ran(12, 7))]));
        assert_eq!(all.sum, ran(13, 8), "what the copy that went had counted stays");
        all.take_in(HashMap::from([(1, ran(12, 7)), (3, ran(4, 2))]));
        assert_eq!(all.sum, ran(17, 10));
    }
}
