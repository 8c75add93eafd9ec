use std::time::Duration;

/// Bad results of a region in a row that take it for down.
///
/// Both must be reached: `count` results without a good one between them, the
/// first of them at least `over` ago. The count keeps one unlucky caller from
/// moving everybody, the time keeps one moment from it, in which a hundred calls
/// fail together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub(super) count: u32,
    pub(super) over: Duration,
}

impl Run {
    /// `count` bad results in a row (0 counts as 1), over at least `over`.
    pub const fn new(count: u32, over: Duration) -> Self {
        Self { count, over }
    }
}

/// When a region counts as down, and when as up again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) failures: Run,
    pub(super) refusals: Run,
    pub(super) probe_every: Duration,
    pub(super) successes: u32,
    pub(super) min_down: Duration,
    pub(super) max_down: Option<Duration>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            // Few results are enough where there are few: a limiter that has shrunk
            // lets one through in a while. Where there are many, time is what
            // tells an outage from a hiccup.
            failures: Run::new(3, Duration::from_secs(1)),
            // A throttling region lives, and its own stack waits for it: what is
            // refused has been waited for already.
            refusals: Run::new(3, Duration::from_secs(2)),
            probe_every: Duration::from_secs(1),
            successes: 3,
            min_down: Duration::from_secs(5),
            max_down: None,
        }
    }
}
