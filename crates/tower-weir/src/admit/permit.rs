use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    entry::Entry,
    gate::{End, Gate, How},
    knobs::Knobs,
    list::Key,
    waiter::Granted,
};
use crate::outcome::{Fault, Outcome, Protocol, Repeat, Verdict};

/// An admitted call. It settles exactly once: with its outcome, or, dropped
/// before there is one, as cancelled.
pub(crate) struct Permit<G: Gate> {
    entry: Arc<Entry<G>>,
    ticket: G::Ticket,
    /// When it was granted, if that is known, or, once it is on its way, when it
    /// was sent.
    started: Option<Instant>,
    sent: bool,
    deadline: Option<Instant>,
    phase: Phase,
    /// Whether the inner service's code is running: if it is when the permit is
    /// dropped, or was and never came back, it panicked.
    watched: bool,
}

/// How a held response's body ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ending {
    /// What came of it, where that is not what its head promised.
    pub(crate) instead: Option<How>,
    /// Whether it was a single message with trailers. A unary gRPC call is over
    /// with its trailers; of a stream only the headers tell how busy the
    /// upstream is, the rest depends on the reader.
    pub(crate) unary: bool,
    /// Whether it was there in one piece, and nobody had to wait for that.
    pub(crate) at_once: bool,
}

impl Ending {
    pub(crate) fn at_once(at_once: bool) -> Self {
        Self {
            at_once,
            ..Self::default()
        }
    }

    pub(crate) fn with(instead: Option<How>) -> Self {
        Self {
            instead,
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy)]
enum Phase {
    /// Waiting for the response's head.
    Sent,
    /// The head was good; the body is with the caller.
    Held(Key),
    Settled,
}

impl<G: Gate> From<Granted<G>> for Permit<G> {
    #[inline]
    fn from(granted: Granted<G>) -> Self {
        Self {
            entry: granted.entry,
            ticket: granted.ticket,
            started: granted.at,
            sent: false,
            deadline: granted.deadline,
            phase: Phase::Sent,
            watched: false,
        }
    }
}

impl<G: Gate> Permit<G> {
    #[inline]
    pub(super) fn knobs(&self) -> &Knobs {
        self.entry.knobs()
    }

    pub(super) fn started(&self) -> Option<Instant> {
        self.started
    }

    /// The call goes to the inner service, and the time that it takes begins with
    /// the first time that this is said: callers may make a call long before they
    /// poll it, and the time between is not the upstream's. Says whether that was
    /// before the deadline.
    #[inline]
    pub(super) fn send(&mut self) -> bool {
        if std::mem::replace(&mut self.sent, true) {
            return true;
        }
        let now = Instant::now();
        self.started = Some(now);
        self.deadline.is_none_or(|deadline| now < deadline)
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    #[inline]
    pub(super) fn watch(&mut self, running: bool) {
        self.watched = running;
    }

    /// Tells the host's retry budget of the outcome, if that is left to the admission.
    /// After the entry's lock: what is read here is beside it.
    #[inline]
    fn deposit(&self, outcome: &Outcome, now: Instant) {
        if outcome.verdict == Verdict::Success && outcome.repeat == Repeat::Never {
            self.entry.deposit(now, outcome);
        }
    }

    /// Ends the call with its outcome.
    #[inline]
    pub(super) fn settle(&mut self, outcome: Outcome, now: Instant) {
        self.end(now, How::Outcome(outcome));
    }

    /// The same with that of its answer. Of errors that are a success the retry layer
    /// tells the budget itself.
    #[inline]
    pub(super) fn answered(&mut self, outcome: Outcome, now: Instant) {
        self.settle(outcome, now);
        self.deposit(&outcome, now);
    }

    /// The head has come and the call goes on in its body: the slot is kept
    /// until that ends, at most `max_hold`. The outcome stands unless the
    /// trailers tell otherwise.
    pub(super) fn hold(&mut self, outcome: Outcome, now: Instant, max_hold: Duration) {
        let end = End::new(self.started, now, How::Outcome(outcome));
        let held = |key| self.phase = Phase::Held(key);
        self.entry.hold(self.ticket, end, max_hold, held);
        self.deposit(&outcome, now);
    }

    /// The body has ended.
    #[inline]
    pub(super) fn finish(mut self, ending: Ending) {
        if let Phase::Held(key) = std::mem::replace(&mut self.phase, Phase::Settled) {
            self.entry.settle_held(key, Instant::now(), ending);
        }
    }

    /// An upstream that was given less than four typical round trips is not to
    /// be blamed for a deadline that passed: the caller was merely impatient.
    fn past_deadline(&self, now: Instant) -> Outcome {
        let started = self.started.unwrap_or(now);
        let ran = now.saturating_duration_since(started);
        match self.entry.inspect(|gate, _| gate.srtt()) {
            Some(srtt) if ran < srtt * 4 => Outcome::ignored(),
            _ => Fault::Deadline.outcome(Protocol::Http),
        }
    }

    #[inline]
    fn end(&mut self, now: Instant, how: How) {
        if let Phase::Sent = self.phase {
            let end = End::new(self.started, now, how);
            let settled = || self.phase = Phase::Settled;
            return self.entry.settle(self.ticket, &end, settled);
        }
        // Dropped unread: the verdict is that of the head, unless it panicked.
        if let Phase::Held(key) = std::mem::replace(&mut self.phase, Phase::Settled) {
            let panicked = matches!(how, How::Panicked).then_some(how);
            self.entry.settle_held(key, now, Ending::with(panicked));
        }
    }

    #[inline(never)]
    fn abandon(&mut self) {
        let now = Instant::now();
        let how = if self.watched {
            How::Panicked
        } else if !self.sent {
            How::Outcome(Outcome::ignored())
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            How::Outcome(self.past_deadline(now))
        } else {
            How::Cancelled
        };
        self.end(now, how);
    }
}

impl<G: Gate> Drop for Permit<G> {
    #[inline]
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Settled) {
            return;
        }
        if !thread::panicking() {
            return self.abandon();
        }
        // A law of the user's that panics as well would end the process.
        let _ = catch_unwind(AssertUnwindSafe(|| self.abandon()));
    }
}
