use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::HOSTS;

/// A budget that grants a few retries a second in an outage is empty in between.
/// Only when it has refused none for so long is the matter over.
const OVER: Duration = Duration::from_secs(10);

/// The hosts whose retry budget has been empty, so that this is said once.
#[derive(Debug, Default)]
pub(super) struct Scarcity(HashMap<Box<str>, Empty>);

#[derive(Clone, Copy, Debug)]
struct Empty {
    refused: Instant,
    /// Whether a retry was granted after that.
    granted: bool,
}

impl Scarcity {
    /// Whether a refusal is the first one.
    pub(super) fn refuse(&mut self, host: &str, now: Instant) -> bool {
        let empty = Empty {
            refused: now,
            granted: false,
        };
        if let Some(known) = self.0.get_mut(host) {
            let quiet = now.saturating_duration_since(known.refused);
            let first = known.granted && quiet >= OVER;
            *known = empty;
            return first;
        }
        if self.0.len() >= HOSTS {
            self.0.clear();
        }
        self.0.insert(host.into(), empty);
        true
    }

    pub(super) fn grant(&mut self, host: &str) {
        if let Some(known) = self.0.get_mut(host) {
            known.granted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_begins_anew_when_a_retry_was_granted_and_none_refused_for_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut scarcity = Scarcity::default();
        assert!(scarcity.refuse("a", at(0)));
        assert!(!scarcity.refuse("a", at(1)));
        assert!(scarcity.refuse("b", at(1)), "each host has its own");
        // Nothing was granted, however long ago.
        assert!(!scarcity.refuse("a", at(100)));
        scarcity.grant("a");
        assert!(!scarcity.refuse("a", at(109)));
        // Granted, and refused again after that.
        assert!(!scarcity.refuse("a", at(119)));
        scarcity.grant("a");
        assert!(scarcity.refuse("a", at(129)));
        assert!(!scarcity.refuse("a", at(129)));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_hosts() {
        let now = Instant::now();
        let mut scarcity = Scarcity::default();
        for host in 0..3 * HOSTS {
            assert!(scarcity.refuse(&host.to_string(), now));
            assert!(scarcity.0.len() <= HOSTS);
        }
    }
}
