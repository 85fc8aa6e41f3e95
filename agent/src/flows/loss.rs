//! Frames that a tap saw and the switch did not forward.
//!
//! Pure. The tap sits before the switch; the port's own allow flow counts what the switch took. Both only grow, from
//! different beginnings, and the flow's count starts over when the flow is put in anew.

use std::collections::HashMap;

#[derive(Clone, Copy, Debug)]
struct Seen {
    tapped: u64,
    forwarded: u64,
    tapped_at_start: u64,
    forwarded_at_start: u64,
    lost_before: u64,
}

impl Seen {
    fn lost(&self) -> u64 {
        let tapped = self.tapped.saturating_sub(self.tapped_at_start);
        let forwarded = self.forwarded.saturating_sub(self.forwarded_at_start);
        self.lost_before + tapped.saturating_sub(forwarded)
    }
}

/// Per port, by its name.
#[derive(Debug, Default)]
pub struct Losses {
    ports: HashMap<String, Seen>,
}

impl Losses {
    /// Frames lost on this port so far, after a look at both counters: first at the switch's, then at the tap's. The
    /// other way round, a frame between the two first looks would be missing from the switch's count for ever. The
    /// switch tells its counts up to a second late, so what is on its way counts as lost until then: read it over a
    /// longer time, or at rest.
    pub fn look(&mut self, port: &str, tapped: u64, forwarded: u64) -> u64 {
        let fresh = |lost_before, tapped_at_start| Seen {
            tapped,
            forwarded,
            tapped_at_start,
            forwarded_at_start: 0,
            lost_before,
        };
        let seen = self
            .ports
            .entry(port.to_owned())
            .or_insert_with(|| Seen { forwarded_at_start: forwarded, ..fresh(0, tapped) });
        if forwarded < seen.forwarded || tapped < seen.tapped {
            // The flow is new: what passed since it was made is counted from zero, and what the tap saw in between
            // was dropped for want of a flow.
            *seen = fresh(seen.lost(), seen.tapped.min(tapped));
        }
        (seen.tapped, seen.forwarded) = (tapped, forwarded);
        seen.lost()
    }

    /// Keeps these ports alone.
    pub fn retain(&mut self, alive: impl Fn(&str) -> bool) {
        self.ports.retain(|port, _| alive(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_switch_did_not_take_is_lost() {
        let mut losses = Losses::default();
        assert_eq!(losses.look("p", 100, 40), 0, "what was before the first look is not judged");
        assert_eq!(losses.look("p", 200, 140), 0);
        assert_eq!(losses.look("p", 300, 200), 40);
        assert_eq!(losses.look("p", 300, 240), 0, "the switch was late");
        assert_eq!(losses.look("p", 400, 250), 90);
    }

    #[test]
    fn a_flow_put_in_anew_starts_over_and_what_was_lost_stays_lost() {
        let mut losses = Losses::default();
        losses.look("p", 0, 0);
        assert_eq!(losses.look("p", 100, 90), 10);
        assert_eq!(losses.look("p", 150, 20), 40, "30 came while there was no flow");
        assert_eq!(losses.look("p", 250, 120), 40);
    }
}
