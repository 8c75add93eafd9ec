//! The circuit itself: pure, with time as an argument.

mod report;
mod round;

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

pub use self::report::{ChangeCause, Control, Snapshot, State, Transition};
use self::round::Round;
use super::{
    config::BreakerConfig,
    rules::{self, Circumstances, Mark, Run, RunNumber},
    window::{Counts, Ring},
};
use crate::outcome::Verdict;

/// Given with every admitted call, handed back when it settles. One that is
/// never handed back costs nothing, a probe's excepted, whose slot is only free
/// again when its lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Ticket {
    epoch: u64,
    run: RunNumber,
    probe: bool,
    /// Whether its admission was noted in `dry_since`.
    timed: bool,
}

impl Ticket {
    /// Whether the call is to find out if the upstream is back.
    pub(crate) const fn is_probe(self) -> bool {
        self.probe
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// With a verdict, and with how long the upstream asked us to wait, if it
    /// asked.
    Outcome(Verdict, Option<Duration>),
    /// The caller gave up.
    Cancelled,
    /// The inner service, or the response's body, panicked.
    Panicked,
}

impl End {
    const fn hint(self) -> Option<Duration> {
        match self {
            Self::Outcome(_, hint) => hint,
            Self::Cancelled | Self::Panicked => None,
        }
    }

    const fn is_refusal(self) -> bool {
        matches!(self, Self::Outcome(Verdict::Refused(_), _))
    }
}

/// What admission did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Admitted {
    pub(crate) ticket: Ticket,
    /// From open to half-open, if this is the first probe.
    pub(crate) transition: Option<Transition>,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The next moment at which the mere passing of time may let a call through,
    /// always in the future. `None` if only an event can. A call that settles
    /// may make room sooner.
    pub(crate) until: Option<Instant>,
}

/// How many calls would be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All of them.
    All,
    /// So many, each a probe; at least one.
    Probes(u32),
    /// None.
    Full(Wait),
}

/// One upstream's circuit.
///
/// The epoch is a number that grows with every change of state and with every
/// probe. A call carries the one it was admitted in, and its result counts only
/// if that is the closed circuit's, or that of a probe still waited for.
///
/// What every call of a closed circuit touches comes first, so that it lies
/// together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Circuit {
    phase: Phase,
    epoch: u64,
    control: Control,
    /// Whether a success may be all that is to be said of a call: how long it took
    /// does not matter.
    lenient: bool,
    /// The latest time seen. Threads read the clock before they take the lock,
    /// so times can arrive in the wrong order; here they never run backwards.
    clock: Instant,
    /// When the first call since the last success was admitted.
    dry_since: Option<Instant>,
    /// When that success came.
    last_good: Instant,
    run: Run,
    window: Ring,
    since: Instant,
    /// The last open period before jitter and hint.
    period: Duration,
    opened_by: Option<ChangeCause>,
    config: Arc<BreakerConfig>,
    rng: SmallRng,
}

#[derive(Debug)]
enum Phase {
    Closed,
    /// Until then; `None` if it is held open, or for longer than the clock can
    /// say.
    Open(Option<Instant>),
    /// Boxed: it is larger than the rest of a circuit that is closed.
    HalfOpen(Box<Round>),
}

impl Circuit {
    pub(crate) fn new(config: impl Into<Arc<BreakerConfig>>, seed: u64, now: Instant) -> Self {
        let config = config.into();
        Self {
            phase: Phase::Closed,
            epoch: 0,
            control: Control::Automatic,
            lenient: config.slow_calls.is_none(),
            clock: now,
            dry_since: None,
            last_good: now,
            run: Run::default(),
            window: Ring::new(config.window, now),
            since: now,
            period: config.open_for.first(),
            opened_by: None,
            config,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    pub(crate) const fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open(_) => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
        }
    }

    #[cfg(test)]
    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    /// Why the circuit last opened. `None` while it is closed.
    pub(crate) const fn opened_by(&self) -> Option<ChangeCause> {
        self.opened_by
    }

    /// How many calls would be admitted now. Nothing is taken and nothing
    /// changes.
    #[inline]
    pub(crate) fn peek(&self, now: Instant) -> Room {
        match self.phase {
            Phase::Closed => Room::All,
            Phase::Open(_) | Phase::HalfOpen(_) => self.peek_within(now),
        }
    }

    fn peek_within(&self, now: Instant) -> Room {
        let now = now.max(self.clock);
        let full = |until| Room::Full(Wait { until });
        match &self.phase {
            Phase::Closed => Room::All,
            Phase::Open(Some(until)) if now >= *until => {
                Room::Probes(self.config.probes.room(0, 0))
            }
            Phase::Open(until) => full(*until),
            Phase::HalfOpen(round) => match round.room(&self.config.probes, now) {
                0 => full(round.next_expiry(now)),
                probes => Room::Probes(probes),
            },
        }
    }

    /// In what time a refused call may come again. `None` if a call would be
    /// admitted, or the circuit is held open.
    ///
    /// While probes are under way nobody can tell; then it is the first open
    /// period, or what is left of the oldest probe's lease if that is less.
    pub(crate) fn retry_after(&self, now: Instant) -> Option<Duration> {
        match self.peek(now) {
            Room::Full(wait) => self.come_again(wait, now),
            Room::All | Room::Probes(_) => None,
        }
    }

    /// The same for a call that has been told to wait.
    pub(crate) fn come_again(&self, Wait { until }: Wait, now: Instant) -> Option<Duration> {
        let now = now.max(self.clock);
        let left = until.map(|until| until.saturating_duration_since(now));
        match self.phase {
            Phase::HalfOpen(_) => {
                let guess = self.config.open_for.first();
                Some(left.map_or(guess, |left| left.min(guess)))
            }
            Phase::Closed | Phase::Open(_) => left,
        }
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        let counts = self.window.counts(now.max(self.clock));
        Snapshot {
            state: self.state(),
            control: self.control,
            since: self.since,
            counts,
            failure_run: self.run.failures(),
            exceeded: rules::judge(&self.config, &counts, &self.run),
            opened_by: self.opened_by,
            retry_after: self.retry_after(now),
        }
    }

    /// Admits a call while the circuit is closed. When that was is asked of it
    /// only if it brings no success.
    #[inline]
    pub(crate) fn admit_at_once(&self) -> Option<Ticket> {
        matches!(self.phase, Phase::Closed).then_some(Ticket {
            epoch: self.epoch,
            run: self.run.number(),
            probe: false,
            timed: false,
        })
    }

    /// Admits a call, or tells when to ask again. If an open period is over,
    /// the call is the first probe. A probe's lease starts now.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Admitted, Wait> {
        let now = self.tick(now);
        if let Room::Full(wait) = self.peek(now) {
            return Err(wait);
        }
        let transition = if matches!(self.phase, Phase::Open(_)) {
            let counts = self.window.counts(now);
            let half_open = Phase::HalfOpen(Box::default());
            Some(self.change(half_open, ChangeCause::OpenElapsed, counts, now))
        } else {
            None
        };
        let probe = if let Phase::HalfOpen(round) = &mut self.phase {
            // The first probe's epoch is the one that began with the round.
            if transition.is_none() {
                self.epoch += 1;
            }
            round.expire(now);
            round.grant(self.epoch, self.config.probe_lease, now);
            true
        } else {
            false
        };
        self.dry_since.get_or_insert(now);
        let ticket = Ticket {
            epoch: self.epoch,
            run: self.run.number(),
            probe,
            timed: true,
        };
        Ok(Admitted { ticket, transition })
    }

    /// Takes back an admitted call's ticket. `elapsed` is how long the call
    /// took: to its headers (unary gRPC: to its trailers) if it has an outcome,
    /// otherwise until now.
    ///
    /// After this a half-open circuit may have room for another probe, whether
    /// it changed its state or not.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        end: End,
        elapsed: Duration,
        now: Instant,
    ) -> Option<Transition> {
        let success = matches!(end, End::Outcome(Verdict::Success, _));
        if success && self.count_success(ticket, now) {
            return None;
        }
        let now = self.tick(now);
        let probe = match &mut self.phase {
            Phase::Closed if ticket.epoch == self.epoch => false,
            Phase::HalfOpen(round) => {
                round.take(ticket.epoch)?;
                true
            }
            Phase::Closed | Phase::Open(_) => return None,
        };
        if !ticket.timed && !success {
            self.note_dry(elapsed, now);
        }
        let circumstances = Circumstances {
            elapsed,
            probe,
            dry_for: self
                .dry_since
                .map_or(Duration::ZERO, |dry| now.saturating_duration_since(dry)),
        };
        let mark = rules::weigh(&self.config, end, circumstances);
        let slow = rules::is_slow(&self.config, elapsed);
        if mark == Mark::Good {
            self.dry_since = None;
            self.last_good = now;
        }
        if probe {
            self.probed(mark, slow, end, now)
        } else {
            self.record(ticket, mark, slow, end.hint(), now)
        }
    }

    /// Counts a call of the closed circuit that succeeded, where nothing more can
    /// come of it: it ends a run, and without a failure in the window no rate is
    /// met but that of slow calls.
    #[inline]
    fn count_success(&mut self, ticket: Ticket, now: Instant) -> bool {
        let counts = matches!(self.phase, Phase::Closed)
            && ticket.epoch == self.epoch
            && self.control != Control::ForcedClosed
            && self.lenient
            && !self.window.has_failures();
        if counts {
            let now = self.tick(now);
            self.dry_since = None;
            self.last_good = now;
            self.run.end();
            self.window.record(false, false, now);
        }
        counts
    }

    /// A call that was sent so long ago, since the last success, has brought
    /// none: since then at least there was none.
    fn note_dry(&mut self, elapsed: Duration, now: Instant) {
        let sent = now.checked_sub(elapsed).unwrap_or(now);
        if sent >= self.last_good {
            self.dry_since = Some(self.dry_since.map_or(sent, |dry| dry.min(sent)));
        }
    }

    fn record(
        &mut self,
        ticket: Ticket,
        mark: Mark,
        slow: bool,
        hint: Option<Duration>,
        now: Instant,
    ) -> Option<Transition> {
        if self.control == Control::ForcedClosed {
            return None;
        }
        let failed = match mark {
            Mark::Good => {
                self.run.end();
                false
            }
            Mark::Bad => {
                self.run.extend(ticket.run, now);
                true
            }
            Mark::Alive => {
                self.run.end();
                return None;
            }
            Mark::Nothing => return None,
        };
        let counts = self.window.record(failed, slow, now);
        if self.control == Control::MetricsOnly {
            return None;
        }
        let cause = rules::judge(&self.config, &counts, &self.run)?;
        self.period = self.config.open_for.first();
        let hinted = self.hinted(hint, now);
        Some(self.open(cause, counts, hinted, now))
    }

    fn probed(&mut self, mark: Mark, slow: bool, end: End, now: Instant) -> Option<Transition> {
        let hinted = self.hinted(end.hint(), now);
        let Phase::HalfOpen(round) = &mut self.phase else {
            return None;
        };
        match mark {
            Mark::Nothing => return None,
            Mark::Good | Mark::Alive => round.settle(!slow, hinted),
            Mark::Bad => round.settle(false, hinted),
        }
        let close = round.decide(&self.config.probes)?;
        let (counts, hinted) = (round.counts(), round.hinted());
        if close {
            self.forget(now);
            return Some(self.change(Phase::Closed, ChangeCause::ProbesSucceeded, counts, now));
        }
        self.period = self.config.open_for.after(self.period, end.is_refusal());
        Some(self.open(ChangeCause::ProbeFailed, counts, hinted, now))
    }

    /// Holds the circuit open, without probes, until
    /// [`reset`](Self::reset) or another of these.
    pub(crate) fn force_open(&mut self, now: Instant) -> Option<Transition> {
        let now = self.tick(now);
        self.control = Control::ForcedOpen;
        self.opened_by = Some(ChangeCause::Manual);
        if let Phase::Open(until) = &mut self.phase {
            *until = None;
            return None;
        }
        let counts = self.window.counts(now);
        Some(self.change(Phase::Open(None), ChangeCause::Manual, counts, now))
    }

    /// Holds the circuit closed. Nothing is recorded; the window is emptied.
    pub(crate) fn force_closed(&mut self, now: Instant) -> Option<Transition> {
        self.take_over(Control::ForcedClosed, now)
    }

    /// Closes the circuit, forgets what it knew and lets the rules decide again.
    pub(crate) fn reset(&mut self, now: Instant) -> Option<Transition> {
        self.take_over(Control::Automatic, now)
    }

    /// Holds the circuit closed and goes on recording. What the window held is
    /// kept if the circuit was closed already.
    pub(crate) fn metrics_only(&mut self, now: Instant) -> Option<Transition> {
        if matches!(self.phase, Phase::Closed) && self.control != Control::ForcedClosed {
            self.control = Control::MetricsOnly;
            return None;
        }
        self.take_over(Control::MetricsOnly, now)
    }

    fn take_over(&mut self, control: Control, now: Instant) -> Option<Transition> {
        let now = self.tick(now);
        let was_closed = matches!(self.phase, Phase::Closed);
        self.control = control;
        let counts = self.window.counts(now);
        self.forget(now);
        if was_closed {
            // Calls in flight belong to what has just been forgotten.
            self.epoch += 1;
            return None;
        }
        Some(self.change(Phase::Closed, ChangeCause::Manual, counts, now))
    }

    /// Goes on with other settings. They hold from the next call, record or
    /// opening on. The window is emptied only if it is itself another, and the
    /// probes that have settled count no more if what is asked of them is.
    pub(crate) fn reconfigure(&mut self, config: impl Into<Arc<BreakerConfig>>, now: Instant) {
        let config = config.into();
        let now = self.tick(now);
        if config.window != self.config.window {
            self.window = Ring::new(config.window, now);
        }
        if let Phase::HalfOpen(round) = &mut self.phase
            && config.probes != self.config.probes
        {
            round.restart();
        }
        self.lenient = config.slow_calls.is_none();
        self.config = config;
    }

    fn open(
        &mut self,
        cause: ChangeCause,
        counts: Counts,
        hinted: Option<Instant>,
        now: Instant,
    ) -> Transition {
        let period = self.config.open_for.jittered(self.period, &mut self.rng);
        let hint = hinted.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let open_for = period.max(hint);
        self.opened_by = Some(cause);
        let until = Phase::Open(now.checked_add(open_for));
        let mut transition = self.change(until, cause, counts, now);
        transition.open_for = Some(open_for);
        transition
    }

    fn forget(&mut self, now: Instant) {
        self.window.clear(now);
        self.run.end();
        self.dry_since = None;
        self.opened_by = None;
    }

    fn change(
        &mut self,
        to: Phase,
        cause: ChangeCause,
        counts: Counts,
        now: Instant,
    ) -> Transition {
        let from = self.state();
        let lasted = now.saturating_duration_since(self.since);
        self.phase = to;
        self.epoch += 1;
        self.since = now;
        Transition {
            from,
            to: self.state(),
            cause,
            counts,
            open_for: None,
            lasted,
        }
    }

    fn hinted(&self, hint: Option<Duration>, now: Instant) -> Option<Instant> {
        now.checked_add(hint?.min(self.config.hint_cap))
    }

    #[inline]
    fn tick(&mut self, now: Instant) -> Instant {
        self.clock = self.clock.max(now);
        self.clock
    }
}
