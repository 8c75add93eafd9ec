use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::{ServerGate, gate::LEAST_HOLD};
use crate::{
    admit::{
        Ending, Entry, Granted, Key, Passing, Polled,
        gate::{End, How},
    },
    outcome::{Classify, HttpClassifier, Outcome, Protocol, Verdict},
};

/// An operation's slot, from its turn to the end of its answer's body. It settles
/// exactly once.
///
/// Servers move the future and the body that it is in several times and box them, so
/// it is small: since when the operation runs is known where its place is.
pub(crate) struct Pass {
    entry: Arc<Entry<ServerGate>>,
    /// Its place, or, if it is held, that among those which are.
    key: Key,
    phase: Phase,
    terms: Terms,
    passing: Passing,
    /// Whether the inner body's code is running: if it is when the pass is dropped,
    /// or was and never came back, it panicked.
    watched: bool,
}

/// An operation that may go, before it is said on which terms.
///
/// It has its pass already: what others are told of the same look at the entry may
/// panic, which a grant that nobody settles would not outlive.
pub(crate) struct Goes {
    /// Since when, if that is known.
    pub(super) at: Option<Instant>,
    pass: Pass,
}

impl Goes {
    pub(crate) fn on(self, terms: Terms) -> Pass {
        let mut pass = self.pass;
        pass.terms = terms;
        pass
    }
}

impl From<Granted<ServerGate>> for Goes {
    fn from(granted: Granted<ServerGate>) -> Self {
        Self {
            at: granted.at,
            pass: Pass::new(granted, Terms::UNSAID),
        }
    }
}

/// What is known of an operation before it runs.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// Which protocol tells how it has ended.
    pub(super) protocol: Protocol,
    pub(super) keeps: Keeps,
}

impl Terms {
    pub(crate) const UNSAID: Self = Self {
        protocol: Protocol::Http,
        keeps: Keeps::Nothing,
    };
}

/// How a slot is kept while the answer's body is with the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Not at all.
    Nothing,
    /// By its place, where the moment of its head is.
    Heads,
    /// One by one: their time is so short that those who wait would always be looking.
    Each,
}

impl Keeps {
    pub(super) fn of(max_hold: Duration) -> Self {
        if max_hold.is_zero() {
            Self::Nothing
        } else if max_hold < LEAST_HOLD {
            Self::Each
        } else {
            Self::Heads
        }
    }
}

#[derive(Clone, Copy)]
enum Phase {
    /// Waiting for the answer's head.
    Runs,
    /// It was good then; the body is with the server.
    Head(Instant),
    /// The head has gone out, and the entry keeps what came of it.
    Held,
    Settled,
}

impl Pass {
    #[inline]
    pub(super) fn new(granted: Granted<ServerGate>, terms: Terms) -> Self {
        Self {
            entry: granted.entry,
            key: granted.ticket,
            phase: Phase::Runs,
            terms,
            passing: Passing::default(),
            watched: false,
        }
    }

    /// Whether an answer is what nearly all are: a success whose body goes on.
    #[inline]
    pub(super) fn goes_on_after(&self, status: StatusCode, over: bool) -> bool {
        let Terms { protocol, keeps } = self.terms;
        protocol == Protocol::Http && status.is_success() && keeps == Keeps::Heads && !over
    }

    /// The head of such an answer has come: the slot is kept until its body ends.
    #[inline]
    pub(crate) fn head(&mut self, now: Instant) {
        self.entry.head(self.key, now);
        self.phase = Phase::Head(now);
    }

    /// What came of the operation, by its head.
    pub(super) fn outcome<B>(&self, response: &Response<B>) -> Outcome {
        HttpClassifier::new().classify(self.terms.protocol, Ok(response))
    }

    /// The head of any answer has come. There is nothing left to keep where its body
    /// is over.
    pub(super) fn answered(mut self, outcome: Outcome, over: bool) -> Option<Self> {
        let (now, keeps) = (Instant::now(), self.terms.keeps);
        if over || keeps == Keeps::Nothing {
            self.end(now, How::Outcome(outcome));
            return None;
        }
        if outcome.verdict == Verdict::Success && keeps == Keeps::Heads {
            self.head(now);
            return Some(self);
        }
        let end = End::new(None, now, How::Outcome(outcome));
        let (place, key, phase) = (self.key, &mut self.key, &mut self.phase);
        self.entry.hold(place, end, Duration::MAX, |held| {
            (*key, *phase) = (held, Phase::Held);
        });
        Some(self)
    }

    #[inline]
    pub(super) fn watch(&mut self, running: bool) {
        self.watched = running;
    }

    /// Whether this is all of the body, and it was there at once.
    #[inline]
    pub(super) fn is_all<B: Body>(&self, body: &B, polled: &Polled<B>) -> bool {
        self.passing.is_all(body, polled)
    }

    /// Ends an operation whose body was there at once.
    #[inline]
    pub(crate) fn finish_at_once(&mut self) {
        if let Phase::Head(at) = self.phase
            && self.entry.settle_quietly(self.key, at)
        {
            self.phase = Phase::Settled;
        } else {
            self.finish(Ending::at_once(true));
        }
    }

    /// Something of the body, or nothing yet. Says whether it ended with that, and
    /// how.
    #[inline(never)]
    pub(super) fn look<B: Body>(&mut self, body: &B, polled: &Polled<B>) -> Option<Ending> {
        let protocol = self.terms.protocol;
        let trailers = |found: &HeaderMap| {
            let classifier = HttpClassifier::new();
            Classify::<Response<B>>::classify_trailers(&classifier, protocol, found)
        };
        self.passing.look(body, polled, protocol, trailers)
    }

    /// The body has ended.
    #[inline(never)]
    pub(super) fn finish(&mut self, ending: Ending) {
        self.settle_body(Instant::now, ending);
    }

    #[inline]
    fn settle_body(&mut self, now: impl FnOnce() -> Instant, ending: Ending) {
        match mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Head(at) => self.entry.settle_head(self.key, at, ending),
            Phase::Held => self.entry.settle_held(self.key, now(), ending),
            Phase::Runs | Phase::Settled => {}
        }
    }

    #[inline]
    fn end(&mut self, now: Instant, how: How) {
        if let Phase::Runs = self.phase {
            let end = End::new(None, now, how);
            let settled = || self.phase = Phase::Settled;
            return self.entry.settle(self.key, &end, settled);
        }
        // Dropped unread: the verdict is that of the head, unless it panicked.
        let panicked = matches!(how, How::Panicked).then_some(how);
        self.settle_body(|| now, Ending::with(panicked));
    }

    #[inline(never)]
    fn abandon(&mut self) {
        let how = match self.watched {
            true => How::Panicked,
            false => How::Outcome(Outcome::ignored()),
        };
        self.end(Instant::now(), how);
    }
}

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        if let Phase::Settled = self.phase {
            return;
        }
        if !thread::panicking() {
            return self.abandon();
        }
        // A law of the user's that panics as well would end the process.
        let _ = catch_unwind(AssertUnwindSafe(|| self.abandon()));
    }
}
