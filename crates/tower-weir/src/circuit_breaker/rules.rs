//! What a call means to the circuit, and what opens it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::{BreakerConfig, CountRefusals, FailureRun, Ratio},
    state::{ChangeCause, End},
    window::Counts,
};
use crate::outcome::{Refusal, Verdict};

/// What the end of a call says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It did its work.
    Good,
    /// It answered, though not with work: no entry in the window, but the end
    /// of a run of failures and a good answer to a probe.
    Alive,
    /// It failed.
    Bad,
    /// Nothing.
    Nothing,
}

/// What is known about a call beside how it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// How long the call took.
    pub(super) elapsed: Duration,
    /// Whether it was a probe.
    pub(super) probe: bool,
    /// For how long calls have been made without a success.
    pub(super) dry_for: Duration,
}

pub(super) fn weigh(config: &BreakerConfig, end: End, call: Circumstances) -> Mark {
    match end {
        End::Outcome(Verdict::Success, _) => Mark::Good,
        End::Outcome(Verdict::Failed(_), _) | End::Panicked => Mark::Bad,
        End::Outcome(Verdict::Ignored, _) => Mark::Nothing,
        End::Outcome(Verdict::Refused(refusal), _) => refused(config, refusal, call),
        End::Cancelled => match config.cancel_counts_after {
            Some(limit) if call.elapsed >= limit => Mark::Bad,
            _ => Mark::Nothing,
        },
    }
}

fn refused(config: &BreakerConfig, refusal: Refusal, call: Circumstances) -> Mark {
    match (config.refusals, refusal) {
        (CountRefusals::Always, _) => Mark::Bad,
        (CountRefusals::Never, _)
        | (CountRefusals::WhenStarved, Refusal::Throttled | Refusal::RequestTimeout) => Mark::Alive,
        // To a probe it is a failure at once. Unrecorded, it would leave the
        // circuit half-open, sending one probe after another without a pause.
        (CountRefusals::WhenStarved, Refusal::Unavailable)
            if call.probe || call.dry_for >= config.starved_after =>
        {
            Mark::Bad
        }
        (CountRefusals::WhenStarved, Refusal::Unavailable) => Mark::Nothing,
    }
}

pub(super) fn is_slow(config: &BreakerConfig, elapsed: Duration) -> bool {
    config
        .slow_calls
        .is_some_and(|slow| elapsed >= slow.threshold)
}

/// Failures with nothing good between them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Run {
    number: RunNumber,
    failures: Option<Failures>,
}

/// How many runs have begun. A call carries the number of its admission, to tell
/// whether the run that it fails in had begun by then. Nothing comes of its
/// wrapping: no call lives through four billion runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RunNumber(u32);

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// Those of calls that were admitted when the run had begun.
    informed: u32,
    first: Instant,
    last: Instant,
}

impl Run {
    pub(super) const fn number(&self) -> RunNumber {
        self.number
    }

    /// Takes in the failure of a call that was admitted at `admitted`.
    pub(super) fn extend(&mut self, admitted: RunNumber, now: Instant) {
        let run = self.failures.get_or_insert_with(|| {
            self.number.0 = self.number.0.wrapping_add(1);
            Failures {
                count: 0,
                informed: 0,
                first: now,
                last: now,
            }
        });
        run.count = run.count.saturating_add(1);
        if admitted == self.number {
            run.informed = run.informed.saturating_add(1);
        }
        run.last = now;
    }

    pub(super) fn end(&mut self) {
        self.failures = None;
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.map_or(0, |run| run.count)
    }

    fn meets(&self, rule: FailureRun) -> bool {
        self.failures.is_some_and(|run| {
            let lasted = run.last.saturating_duration_since(run.first);
            let sooner = rule
                .sooner
                .is_some_and(|failures| run.informed >= failures.max(1));
            run.count >= rule.failures && lasted >= rule.lasting
                || sooner && lasted >= rule.sooner_lasting()
        })
    }
}

/// The first rule that the window and the run meet.
pub(super) fn judge(config: &BreakerConfig, counts: &Counts, run: &Run) -> Option<ChangeCause> {
    let capacity = config.window.capacity().unwrap_or(u32::MAX);
    let enough = counts.calls >= u64::from(config.min_calls.min(capacity));
    let failing = |rate: Ratio| rate.is_met_by(counts.failed, counts.calls);
    let slow = |rate: Ratio| rate.is_met_by(counts.slow, counts.calls);

    if enough && config.failure_rate.is_some_and(failing) {
        Some(ChangeCause::FailureRate)
    } else if config.failure_run.is_some_and(|rule| run.meets(rule)) {
        Some(ChangeCause::FailureRun)
    } else if enough && config.slow_calls.is_some_and(|rule| slow(rule.rate)) {
        Some(ChangeCause::SlowRate)
    } else {
        None
    }
}
