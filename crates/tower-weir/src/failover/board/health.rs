//! One region: whether it is up, and what its results change of that.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{DownCause, RegionCounts, Run, rules::Rules},
    Report, Ticket,
};
use crate::deadline::far;

/// A region that has stayed up for this long since its return has really
/// returned.
const STEADY: Duration = Duration::from_secs(60);

/// The least time down doubles up to this many times itself.
const MAX_STAY: u32 = 64;

/// A probe that has not ended after so many periods no longer keeps others from
/// being made: it may hang for good.
pub(super) const LEASE: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Health {
    condition: Condition,
    /// Counts its changes: what began before the last one says nothing.
    epoch: u64,
    failures: Streak,
    refusals: Streak,
    /// The turn in which it was tried last.
    pub(super) tried: u64,
    pub(super) since: Instant,
    /// How long it was down at least, the last time.
    stay: Duration,
    pub(super) counts: RegionCounts,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Up,
    Down(Down),
}

#[derive(Clone, Copy, Debug)]
struct Down {
    cause: DownCause,
    /// Good probes in a row.
    good: u32,
    /// When the next probe may begin.
    due: Instant,
    /// The probe under way, and when it began.
    probe: Option<(u64, Instant)>,
}

/// Bad results since the last good one.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    count: u32,
    began: Option<Instant>,
}

/// What a region's results make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Up,
    /// Why, and for how long its stack says that it lets nothing through.
    Down(DownCause, Option<Duration>),
}

impl Streak {
    /// Counts one more; whether that makes it a run.
    fn push(&mut self, run: Run, now: Instant) -> bool {
        self.count = self.count.saturating_add(1);
        let began = *self.began.get_or_insert(now);
        self.count >= run.count && now.saturating_duration_since(began) >= run.over
    }
}

impl Health {
    pub(super) fn new(rules: &Rules, now: Instant) -> Self {
        Self {
            condition: Condition::Up,
            epoch: 0,
            failures: Streak::default(),
            refusals: Streak::default(),
            tried: 0,
            since: now,
            stay: rules.min_down,
            counts: RegionCounts::default(),
        }
    }

    /// Goes by other rules than it did.
    #[cfg(feature = "config")]
    pub(super) fn go_by(&mut self, was: &Rules, rules: &Rules, now: Instant) {
        if was.min_down != rules.min_down {
            self.stay = rules.min_down;
        }
        if let Condition::Down(down) = &mut self.condition
            && was.probe_every != rules.probe_every
        {
            down.due = down.due.min(far(now, rules.probe_every));
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.condition, Condition::Up)
    }

    /// Why it is down, if it is.
    pub(super) fn down(&self) -> Option<DownCause> {
        match self.condition {
            Condition::Up => None,
            Condition::Down(down) => Some(down.cause),
        }
    }

    /// Whether it may be probed, if it is down. A request that could not go elsewhere
    /// afterwards is taken for it only if for a whole period none came that can.
    pub(super) fn is_due(&self, rules: &Rules, now: Instant, safe: bool) -> bool {
        let Condition::Down(down) = self.condition else {
            return false;
        };
        let every = rules.probe_every;
        let due = if safe { down.due } else { far(down.due, every) };
        let free = down
            .probe
            .is_none_or(|(_, began)| now >= lease_end(rules, began));
        now >= due && free
    }

    /// The next moment at which it may be used though nothing happens, if it is down.
    pub(super) fn next_due(&self, rules: &Rules, now: Instant) -> Option<Instant> {
        let Condition::Down(down) = self.condition else {
            return None;
        };
        let end = rules.max_down.map(|time| far(self.since, time));
        let probe = match down.probe {
            Some((_, began)) => down.due.max(lease_end(rules, began)),
            None => down.due,
        };
        end.into_iter()
            .chain([probe, far(probe, rules.probe_every)])
            .filter(|at| *at > now)
            .min()
    }

    /// Begins a try, which is a probe if it is down: whether it is, and the epoch.
    pub(super) fn begin(&mut self, rules: &Rules, number: u64, now: Instant) -> (bool, u64) {
        self.tried = number;
        self.counts.sent += 1;
        let probe = match &mut self.condition {
            Condition::Up => false,
            Condition::Down(down) => {
                down.probe = Some((number, now));
                down.due = far(now, rules.probe_every);
                self.counts.probes += 1;
                true
            }
        };
        (probe, self.epoch)
    }

    /// Learns what a try came to. `none_up`: there is no other region to stay with.
    pub(super) fn learn(
        &mut self,
        rules: &Rules,
        ticket: Ticket,
        report: Report,
        none_up: bool,
        now: Instant,
    ) -> Option<Turn> {
        self.counts.add(report);
        if self.epoch != ticket.epoch {
            return None;
        }
        let down = match &mut self.condition {
            Condition::Down(down) => down,
            Condition::Up => return self.learn_up(rules, report, now),
        };
        if down
            .probe
            .is_some_and(|(number, _)| number == ticket.number)
        {
            down.probe = None;
        }
        match report {
            Report::Good => {
                down.good = down.good.saturating_add(1);
                // Where nothing else is up there is nothing to stay with.
                let stayed = none_up || now >= far(self.since, self.stay);
                (down.good >= rules.successes && stayed).then_some(Turn::Up)
            }
            Report::Refused | Report::Failed | Report::Shut(..) => {
                down.good = 0;
                down.due = down.due.max(far(now, wait(rules, report)));
                None
            }
            Report::Nothing => None,
        }
    }

    fn learn_up(&mut self, rules: &Rules, report: Report, now: Instant) -> Option<Turn> {
        match report {
            Report::Good => {
                self.failures = Streak::default();
                self.refusals = Streak::default();
                None
            }
            Report::Failed => {
                let run = self.failures.push(rules.failures, now);
                run.then_some(Turn::Down(DownCause::Failures, None))
            }
            Report::Refused => {
                let run = self.refusals.push(rules.refusals, now);
                run.then_some(Turn::Down(DownCause::Refusals, None))
            }
            Report::Shut(cause, after) => Some(Turn::Down(cause, after)),
            Report::Nothing => None,
        }
    }

    pub(super) fn turn(&mut self, rules: &Rules, turn: Turn, now: Instant) {
        self.condition = match turn {
            Turn::Up => Condition::Up,
            Turn::Down(cause, after) => {
                let again = self.epoch > 0 && now < far(self.since, STEADY);
                self.stay = if again {
                    self.stay
                        .saturating_mul(2)
                        .min(rules.min_down.saturating_mul(MAX_STAY))
                } else {
                    rules.min_down
                };
                Condition::Down(Down {
                    cause,
                    good: 0,
                    due: far(now, wait(rules, Report::Shut(cause, after))),
                    probe: None,
                })
            }
        };
        self.epoch += 1;
        self.since = now;
        self.failures = Streak::default();
        self.refusals = Streak::default();
    }
}

fn lease_end(rules: &Rules, began: Instant) -> Instant {
    far(began, rules.probe_every.saturating_mul(LEASE))
}

/// How long after a result the next probe may begin.
fn wait(rules: &Rules, report: Report) -> Duration {
    match report {
        Report::Shut(_, Some(after)) => after.max(rules.probe_every),
        _ => rules.probe_every,
    }
}

impl RegionCounts {
    fn add(&mut self, report: Report) {
        let count = match report {
            Report::Good => &mut self.good,
            Report::Refused => &mut self.refused,
            Report::Failed => &mut self.failed,
            Report::Shut(..) => &mut self.shut,
            Report::Nothing => return,
        };
        *count += 1;
    }
}
