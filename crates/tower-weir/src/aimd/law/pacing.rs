mod gap;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use self::gap::{Fit, Gap, LONGEST_WINDOW};

/// Successes at least in a stretch that is judged.
const STRETCH: u32 = 20;

/// Changes from refusals to successes at least in a stretch: an upstream that
/// counts calls by the second or the minute accepts a run of them and refuses
/// the rest, and a part of such a cycle tells nothing.
const CYCLES: u32 = 2;

/// Refusals for each success that make a stretch worth improving.
const MANY_REFUSALS: f64 = 0.15;

/// How alike two stretches must be in a row, before their rate is taken for the
/// upstream's: the longer at most so many times the shorter. An outage in one of
/// them, or a load that comes and goes, makes them differ.
const ALIKE: f64 = 1.5;

/// How much longer a trial may take than what it is compared with.
const TRIAL_SLACK: f64 = 1.1;

/// A trial is over early when so many refusals were to be expected since the
/// last one: by chance that comes once in 150 times.
const SURE: f64 = 5.0;

/// But not before so many successes.
const LEAST_TRIAL: u32 = 4;

/// Stretches between two trials at most.
const MAX_PATIENCE: u32 = 64;

/// Spaces calls out where even one at a time is too many.
///
/// An upstream may count calls in a time instead of calls at once: 10 a second
/// of 20 ms each keep a fifth of one slot busy. A limit of 1 is refused then as
/// often as it is answered. Spaced out by what the upstream allows, the same
/// calls get through with hardly a refusal.
///
/// But a crowd of clients on few slots looks the same from each of them, and
/// there a client that waits between its calls loses its slot to the others. So
/// a gap is tried: kept if the calls get through as fast as before with half the
/// refusals, given up as soon as it is clear that they do not. Trials that fail
/// become rare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    phase: Phase,
    stretch: Stretch,
    /// Seconds and refusals for each success in the last stretch, if it was slow.
    last_slow: Option<(f64, f64)>,
    /// Stretches to go until a trial, and how many there were after the last.
    wait: u32,
    patience: u32,
    /// By when a client with work to do would have sent its next call.
    busy_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Calls go as the slots let them.
    Off,
    /// A gap is tried, against the seconds and refusals that `STRETCH` successes
    /// took without.
    Trial {
        gap: f64,
        seconds: f64,
        refusals: f64,
    },
    /// Calls are spaced out.
    On(Gap),
}

/// Answers counted since a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    began: Option<Instant>,
    successes: u32,
    refusals: u32,
    cycles: u32,
    /// Successes since the last refusal.
    run: u32,
    refused_last: bool,
}

impl Stretch {
    fn beginning(now: Instant) -> Self {
        Self {
            began: Some(now),
            ..Self::default()
        }
    }

    fn refusals_per_success(&self) -> f64 {
        f64::from(self.refusals) / f64::from(self.successes)
    }

    fn seconds(&self, now: Instant) -> f64 {
        self.began.map_or(0.0, |began| (now - began).as_secs_f64())
    }
}

impl Pacing {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Off,
            stretch: Stretch::default(),
            last_slow: None,
            wait: 0,
            patience: 1,
            busy_until: None,
        }
    }

    /// The least time between the starts of two calls.
    pub(super) fn gap(&self) -> Duration {
        let seconds = match &self.phase {
            Phase::Off => return Duration::ZERO,
            Phase::Trial { gap, .. } => *gap,
            Phase::On(gap) if gap.is_idle() => return Duration::ZERO,
            Phase::On(gap) => gap.seconds(),
        };
        Duration::from_secs_f64(seconds)
    }

    /// Whether gaps, and not slots, are what limits the calls.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        match &self.phase {
            Phase::Off => false,
            Phase::Trial { .. } => true,
            Phase::On(gap) => !gap.is_idle(),
        }
    }

    /// Whether nothing is counted: there was no refusal to begin with.
    #[inline]
    pub(super) fn is_at_ease(&self) -> bool {
        matches!(self.phase, Phase::Off) && self.stretch.began.is_none() && self.last_slow.is_none()
    }

    /// A call succeeded; calls take `srtt`.
    #[inline]
    pub(super) fn succeeded(&mut self, started: Instant, now: Instant, srtt: Duration) {
        self.see_idleness(started, now, srtt, Duration::ZERO);
        if self.stretch.began.is_some() {
            self.stretch.successes += 1;
            self.stretch.cycles += u32::from(self.stretch.refused_last);
            self.stretch.refused_last = false;
            self.stretch.run += 1;
        }
        match &mut self.phase {
            Phase::Off => self.judge(now, srtt),
            Phase::Trial { gap, .. } => {
                let gap = Gap::new(*gap, now);
                if self.trial_failed(now) {
                    self.give_up();
                } else if self.trial_succeeded() {
                    self.phase = Phase::On(gap);
                }
            }
            Phase::On(gap) => match gap.succeeded(now, srtt.as_secs_f64()) {
                Fit::Good => {}
                Fit::Needless => *self = Self::new(),
                Fit::Useless => self.give_up(),
            },
        }
    }

    /// The upstream throttled a call, whose slot cools for `cool`. `at_least`: at
    /// the least limit.
    pub(super) fn throttled(
        &mut self,
        started: Instant,
        now: Instant,
        cool: Duration,
        at_least: bool,
    ) {
        self.see_idleness(started, now, cool, cool);
        if self.stretch.began.is_none() {
            self.stretch.began = Some(now);
        }
        self.stretch.refusals += 1;
        self.stretch.run = 0;
        self.stretch.refused_last = true;
        match &mut self.phase {
            Phase::Off => {}
            Phase::Trial { .. } => {
                if self.trial_failed(now) {
                    self.give_up();
                }
            }
            // Where no gap is left, a refusal is the limit's affair, as long as
            // that can still fall.
            Phase::On(gap) if gap.is_idle() && !at_least => {}
            Phase::On(gap) => gap.throttled(),
        }
    }

    /// A stretch in which nobody wanted to send proves nothing.
    #[inline]
    fn see_idleness(&mut self, started: Instant, now: Instant, slack: Duration, cool: Duration) {
        let late = self
            .busy_until
            .is_some_and(|busy_until| started > busy_until + slack);
        if late && !self.is_on() {
            self.stretch = Stretch::default();
            self.last_slow = None;
        }
        self.busy_until = self.busy_until.max(Some(now + cool));
    }

    fn judge(&mut self, now: Instant, srtt: Duration) {
        let stretch = self.stretch;
        if stretch.successes < STRETCH || stretch.cycles < CYCLES {
            return;
        }
        let seconds = stretch.seconds(now);
        let gap = seconds / f64::from(stretch.successes);
        let refusals = stretch.refusals_per_success();
        // A slot that is never refused does a call each round trip. A stretch
        // that is faster may yet be the quick part of a long window.
        let slow = gap > srtt.as_secs_f64() && refusals > MANY_REFUSALS;
        if !slow && seconds < LONGEST_WINDOW.as_secs_f64() {
            return;
        }
        self.stretch = Stretch::beginning(now);
        let last = std::mem::replace(&mut self.last_slow, slow.then_some((gap, refusals)));
        let (true, Some((last_gap, last_refusals))) = (slow, last) else {
            return;
        };
        if gap.max(last_gap) > ALIKE * gap.min(last_gap) {
            return;
        }
        if self.wait > 0 {
            self.wait -= 1;
            return;
        }
        let gap = (gap + last_gap) / 2.0;
        self.phase = Phase::Trial {
            gap,
            seconds: gap * f64::from(STRETCH),
            refusals: (refusals + last_refusals) / 2.0 * f64::from(STRETCH),
        };
    }

    fn trial_failed(&self, now: Instant) -> bool {
        let Phase::Trial {
            seconds, refusals, ..
        } = self.phase
        else {
            return false;
        };
        f64::from(self.stretch.refusals) > refusals / 2.0
            || self.stretch.seconds(now) > TRIAL_SLACK * seconds
    }

    fn trial_succeeded(&self) -> bool {
        let Phase::Trial { refusals, .. } = self.phase else {
            return false;
        };
        let expected = f64::from(self.stretch.run) * refusals / f64::from(STRETCH);
        self.stretch.successes >= STRETCH || self.stretch.run >= LEAST_TRIAL && expected > SURE
    }

    fn give_up(&mut self) {
        let patience = (2 * self.patience).min(MAX_PATIENCE);
        *self = Self {
            wait: patience,
            patience,
            busy_until: self.busy_until,
            ..Self::new()
        };
    }
}
