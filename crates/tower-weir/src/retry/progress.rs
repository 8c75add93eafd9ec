//! What the policy decides, attempt by attempt.

use std::time::Duration;

use http::{Extensions, HeaderMap, Method};
use tokio::time::Instant;

use super::{
    Ending, NoRetry, Retried,
    budget::BudgetEmpty,
    grpc_timeout,
    policy::Rules,
    wait::{self, GiveUp},
};
use crate::{
    Deadline,
    deadline::far,
    outcome::{Cause, Fault, HintSource, Outcome, Processed, Protocol, Repeat, Verdict, is_safe},
    random::Stream,
};

/// However short the backoff, an empty budget is not asked more often.
const MIN_ASK: Duration = Duration::from_millis(10);

/// What the policy keeps of one request.
#[derive(Debug)]
pub(super) struct Progress {
    protocol: Protocol,
    /// Whether it is known to be.
    safe: bool,
    max_retries: u32,
    /// The deadline of the request, and the end of its patience.
    deadline: Option<Instant>,
    patient_until: Option<Instant>,
    attempts: u32,
    /// Those of them that the upstream may have seen, but for the last.
    seen: u32,
    /// The retries that count against `max_retries`.
    retries: u32,
    transparent: bool,
    prev: Option<Duration>,
    reason: Option<Cause>,
    /// Whether the upstream may have acted on one of those before.
    processed: Processed,
    /// Apart, since most requests never draw.
    stream: Option<Box<Stream>>,
}

/// What a request says of its own retries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) protocol: Protocol,
    /// Whether it is known that it may be repeated though the upstream may have
    /// acted on it.
    pub(crate) safe: bool,
    /// It must be sent once only.
    pub(crate) once: bool,
    /// Its deadline, and the time it gives itself from now on.
    pub(crate) deadline: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
}

impl Terms {
    pub(crate) fn of(method: &Method, headers: &HeaderMap, extensions: &Extensions) -> Self {
        Self {
            safe: is_safe(method, extensions, |key| headers.contains_key(key)),
            ..Self::but_safe(headers, extensions)
        }
    }

    /// The same, but for whether it is safe to repeat: that is asked when one has
    /// failed.
    #[inline]
    pub(super) fn but_safe(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let protocol = Protocol::of(headers);
        let given = extensions.get::<Deadline>();
        Self {
            protocol,
            safe: false,
            once: extensions.get::<NoRetry>().is_some(),
            deadline: given.map(|deadline| deadline.0),
            timeout: match protocol {
                Protocol::Grpc => grpc_timeout::read(headers),
                Protocol::Http => None,
            },
        }
    }
}

/// What is done after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// The result goes to the caller.
    Return(Ending),
    /// Another attempt, after a wait.
    Retry(Duration, Toll),
}

/// What a retry has to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toll {
    /// Nothing: the upstream never saw the attempt that it repeats.
    Free,
    /// The budget must grant it.
    Budget,
    /// The budget must grant it, at last.
    Patient,
}

impl Progress {
    /// `now` is asked only if time matters, and once.
    #[inline]
    pub(super) fn new(rules: &Rules, terms: Terms, now: impl FnOnce() -> Instant) -> Self {
        let timeout = rules.deadline.into_iter().chain(terms.timeout).min();
        let (own, patient_until) = if timeout.is_some() || rules.patience.is_some() {
            let now = now();
            let until = |time| far(now, time);
            (timeout.map(until), rules.patience.map(until))
        } else {
            (None, None)
        };
        let max_retries = match terms.once {
            true => 0,
            false => rules.max_retries(terms.protocol),
        };
        Self {
            protocol: terms.protocol,
            safe: terms.safe || rules.any_method,
            max_retries,
            deadline: own.into_iter().chain(terms.deadline).min(),
            patient_until,
            attempts: 1,
            seen: 0,
            retries: 0,
            transparent: false,
            prev: None,
            reason: None,
            processed: Processed::No,
            stream: None,
        }
    }

    #[inline]
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// When a retry must have been sent that was due at `since`: at the deadline,
    /// or, of one who is patient, when that is over. Only a retry that counts is
    /// due after that; it has as long again.
    pub(super) fn end(&self, rules: &Rules, since: Instant) -> Option<Instant> {
        let patient = self.patient_until.map(|until| match rules.patience {
            Some(patience) if until <= since => far(since, patience),
            _ => until,
        });
        self.deadline.into_iter().chain(patient).min()
    }

    /// Whether there can be a retry at all.
    #[inline]
    pub(super) fn may_retry(&self) -> bool {
        self.max_retries > 0
    }

    /// How many attempts there were, with the one that was decided on last.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many attempts the upstream may have seen before the one that was
    /// decided on last; of one that was never sent, or refused before anybody
    /// looked at it, it knows nothing.
    pub(super) fn attempts_seen(&self) -> u32 {
        self.seen
    }

    /// How many attempts there can be, where that is bounded.
    pub(super) fn max_attempts(&self) -> Option<u32> {
        let bounded = self.patient_until.is_none();
        bounded.then(|| self.max_retries.saturating_add(1))
    }

    /// What the last attempt that was repeated had come to.
    pub(super) fn reason(&self) -> Option<Cause> {
        self.reason
    }

    /// What is said of the attempts before on an answer to the last, if there
    /// were any.
    pub(super) fn retried(&self) -> Option<Retried> {
        self.reason.map(|reason| Retried {
            attempts: self.attempts,
            reason,
            processed: self.processed,
        })
    }

    /// Whether the upstream may have acted on an attempt that was repeated.
    pub(super) fn processed(&self) -> Processed {
        self.processed
    }

    /// Decides what follows an attempt. `safe` is asked only if it matters, and if
    /// it is not known yet. `local` is how long a layer of this crate that refused
    /// it asks to wait.
    #[inline]
    pub(super) fn decide(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        safe: impl FnOnce() -> bool,
        local: Option<Duration>,
        now: impl FnOnce() -> Instant,
    ) -> Next {
        let refused_here = outcome.cause == Cause::Fault(Fault::Local);
        let patient = self.patient_until.is_some();
        match outcome.repeat {
            Repeat::Never if patient && refused_here => {}
            Repeat::Never => return Next::Return(Ending::Done),
            Repeat::IfSafe if !(self.safe || safe()) => return Next::Return(Ending::Unsafe),
            Repeat::Transparent if !self.transparent && self.may_retry() => {
                return match self.remaining(None, now) {
                    Some(remaining) if remaining.is_zero() => gave_up(GiveUp::Deadline {
                        delay: Duration::ZERO,
                        remaining,
                    }),
                    _ => {
                        self.transparent = true;
                        self.repeated(outcome);
                        Next::Retry(Duration::ZERO, Toll::Free)
                    }
                };
            }
            Repeat::IfSafe | Repeat::Always | Repeat::Transparent => {}
        }
        let blameless = refused_here
            || outcome.processed == Processed::No
            || matches!(outcome.verdict, Verdict::Refused(_));
        let free = patient && blameless && self.may_retry();
        if !free && self.retries >= self.max_retries {
            return Next::Return(Ending::Exhausted);
        }
        if free {
            self.prev = None;
        }
        let stream = self.stream.get_or_insert_with(|| Box::new(rules.stream()));
        let retry = if free { 1 } else { self.retries + 1 };
        let backoff = rules.backoff.delay(retry, self.prev, stream.uniform());
        let own = backoff.min(rules.max_wait);
        let u = if outcome.hint.is_some() {
            stream.uniform()
        } else {
            0.0
        };
        let least = own.max(local.unwrap_or_default());
        let remaining = self.remaining(self.patient_until.filter(|_| free), now);
        match wait::wait(outcome.hint, least, rules.max_hint(), remaining, u) {
            Ok(delay) => {
                let told = outcome
                    .hint
                    .is_some_and(|hint| hint.delay >= least || hint.source == HintSource::Pushback);
                // After a wait that the upstream chose, and one that was no
                // fault of the request, ours begins anew.
                self.prev = (!told && !free).then_some(own);
                self.retries += u32::from(!free);
                self.repeated(outcome);
                let toll = match (refused_here, patient) {
                    (true, _) => Toll::Free,
                    (false, true) => Toll::Patient,
                    (false, false) => Toll::Budget,
                };
                Next::Retry(delay, toll)
            }
            Err(why) => gave_up(why),
        }
    }

    /// How long a retry waits that its budget has refused; `None` if that is
    /// longer than it can.
    pub(super) fn wait_for_budget(
        &mut self,
        rules: &Rules,
        empty: BudgetEmpty,
        now: Instant,
    ) -> Option<Duration> {
        let stream = self.stream.get_or_insert_with(|| Box::new(rules.stream()));
        let own = rules.backoff.delay(1, None, stream.uniform());
        let own = own.min(rules.max_wait).max(MIN_ASK);
        let wait = match empty.retry_at {
            // Many may have been told the same moment.
            Some(at) => at.saturating_duration_since(now) + own.mul_f64(stream.uniform()),
            None => own,
        };
        let remaining = self.remaining(self.patient_until, || now)?;
        (wait < remaining).then_some(wait)
    }

    /// What is left until the deadline or `until`, whichever is the earlier.
    fn remaining(&self, until: Option<Instant>, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let until = self.deadline.into_iter().chain(until).min()?;
        Some(until.saturating_duration_since(now()))
    }

    fn repeated(&mut self, outcome: &Outcome) {
        self.attempts = self.attempts.saturating_add(1);
        let unseen = match outcome.cause {
            Cause::Fault(fault) => fault.is_unseen(),
            _ => outcome.repeat == Repeat::Transparent,
        };
        self.seen = self.seen.saturating_add(u32::from(!unseen));
        self.reason = Some(outcome.cause);
        if outcome.processed == Processed::Maybe {
            self.processed = Processed::Maybe;
        }
    }
}

fn gave_up(why: GiveUp) -> Next {
    Next::Return(Ending::GaveUp(why))
}

#[cfg(test)]
mod tests;
