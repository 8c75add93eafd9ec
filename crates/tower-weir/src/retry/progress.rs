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
    plan: Plan,
    /// Apart, since most requests are sent once.
    past: Option<Box<Past>>,
}

/// What is settled when a request begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    protocol: Protocol,
    /// Whether it is known to be.
    safe: bool,
    max_retries: u32,
    /// The deadline of the request, and the end of its patience.
    deadline: Option<Instant>,
    patient_until: Option<Instant>,
}

/// What is kept of a request that fails.
#[derive(Debug)]
struct Past {
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
    /// Made when it is first drawn from: requests have theirs in that order.
    stream: Option<Stream>,
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

impl Plan {
    /// `now` is asked only if time matters, and once.
    #[inline(always)]
    pub(super) fn new(rules: &Rules, terms: Terms, now: impl FnOnce() -> Instant) -> Self {
        let timeout = earlier(rules.deadline, terms.timeout);
        let (deadline, patient_until) = if timeout.is_some() || rules.patience.is_some() {
            let now = now();
            let until = |time| far(now, time);
            let deadline = earlier(timeout.map(until), terms.deadline);
            (deadline, rules.patience.map(until))
        } else {
            (terms.deadline, None)
        };
        let max_retries = match terms.once {
            true => 0,
            false => rules.max_retries(terms.protocol),
        };
        Self {
            protocol: terms.protocol,
            safe: terms.safe || rules.any_method,
            max_retries,
            deadline,
            patient_until,
        }
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether there can be a retry at all.
    #[inline]
    pub(super) fn may_retry(&self) -> bool {
        self.max_retries > 0
    }
}

impl Progress {
    #[inline]
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, past: None }
    }

    #[inline]
    pub(super) fn protocol(&self) -> Protocol {
        self.plan.protocol
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.plan.deadline
    }

    /// Whether there can be a retry at all.
    pub(super) fn may_retry(&self) -> bool {
        self.plan.may_retry()
    }

    /// When a retry must have been sent that was due at `since`: at the deadline,
    /// or, of one who is patient, when that is over. Only a retry that counts is
    /// due after that; it has as long again.
    pub(super) fn end(&self, rules: &Rules, since: Instant) -> Option<Instant> {
        let patient = self.plan.patient_until.map(|until| match rules.patience {
            Some(patience) if until <= since => far(since, patience),
            _ => until,
        });
        earlier(self.plan.deadline, patient)
    }

    /// How many attempts there were, with the one that was decided on last.
    #[inline]
    pub(super) fn attempts(&self) -> u32 {
        self.past.as_ref().map_or(1, |past| past.attempts)
    }

    /// How many attempts the upstream may have seen before the one that was
    /// decided on last; of one that was never sent, or refused before anybody
    /// looked at it, it knows nothing.
    pub(super) fn attempts_seen(&self) -> u32 {
        self.past.as_ref().map_or(0, |past| past.seen)
    }

    /// How many attempts there can be, where that is bounded.
    pub(super) fn max_attempts(&self) -> Option<u32> {
        let bounded = self.plan.patient_until.is_none();
        bounded.then(|| self.plan.max_retries.saturating_add(1))
    }

    /// What the last attempt that was repeated had come to.
    pub(super) fn reason(&self) -> Option<Cause> {
        self.past.as_ref()?.reason
    }

    /// What is said of the attempts before on an answer to the last, if there
    /// were any.
    pub(super) fn retried(&self) -> Option<Retried> {
        let past = self.past.as_ref()?;
        Some(Retried {
            attempts: past.attempts,
            reason: past.reason?,
            processed: past.processed,
        })
    }

    /// Whether the upstream may have acted on an attempt that was repeated.
    pub(super) fn processed(&self) -> Processed {
        let past = self.past.as_ref();
        past.map_or(Processed::No, |past| past.processed)
    }

    /// Decides what follows an attempt. `safe` is asked only if it matters, and if
    /// it is not known yet. `local` is how long a layer of this crate that refused
    /// it asks to wait.
    pub(super) fn decide(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        safe: impl FnOnce() -> bool,
        local: Option<Duration>,
        now: impl FnOnce() -> Instant,
    ) -> Next {
        let refused_here = outcome.cause == Cause::Fault(Fault::Local);
        let patient = self.plan.patient_until.is_some();
        let may_retry = self.plan.may_retry();
        match outcome.repeat {
            Repeat::Never if patient && refused_here => {}
            Repeat::Never => return Next::Return(Ending::Done),
            Repeat::IfSafe if !(self.plan.safe || safe()) => return Next::Return(Ending::Unsafe),
            Repeat::IfSafe | Repeat::Always | Repeat::Transparent => {}
        }
        let past = self.past.get_or_insert_default();
        if outcome.repeat == Repeat::Transparent && !past.transparent && may_retry {
            return match left(self.plan.deadline, now) {
                Some(remaining) if remaining.is_zero() => gave_up(GiveUp::Deadline {
                    delay: Duration::ZERO,
                    remaining,
                }),
                _ => {
                    past.transparent = true;
                    past.repeated(outcome);
                    Next::Retry(Duration::ZERO, Toll::Free)
                }
            };
        }
        let blameless = refused_here
            || outcome.processed == Processed::No
            || matches!(outcome.verdict, Verdict::Refused(_));
        let free = patient && blameless && may_retry;
        if !free && past.retries >= self.plan.max_retries {
            return Next::Return(Ending::Exhausted);
        }
        if free {
            past.prev = None;
        }
        let stream = past.stream.get_or_insert_with(|| rules.stream());
        let retry = if free { 1 } else { past.retries + 1 };
        let backoff = rules.backoff.delay(retry, past.prev, stream.uniform());
        let own = backoff.min(rules.max_wait);
        let u = if outcome.hint.is_some() {
            stream.uniform()
        } else {
            0.0
        };
        let least = own.max(local.unwrap_or_default());
        let patience = self.plan.patient_until.filter(|_| free);
        let remaining = left(earlier(self.plan.deadline, patience), now);
        match wait::wait(outcome.hint, least, rules.max_hint(), remaining, u) {
            Ok(delay) => {
                let told = outcome
                    .hint
                    .is_some_and(|hint| hint.delay >= least || hint.source == HintSource::Pushback);
                // After a wait that the upstream chose, and one that was no
                // fault of the request, ours begins anew.
                past.prev = (!told && !free).then_some(own);
                past.retries += u32::from(!free);
                past.repeated(outcome);
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
        let past = self.past.get_or_insert_default();
        let stream = past.stream.get_or_insert_with(|| rules.stream());
        let own = rules.backoff.delay(1, None, stream.uniform());
        let own = own.min(rules.max_wait).max(MIN_ASK);
        let wait = match empty.retry_at {
            // Many may have been told the same moment.
            Some(at) => {
                let spread = own.mul_f64(stream.uniform());
                at.saturating_duration_since(now).saturating_add(spread)
            }
            None => own,
        };
        let remaining = left(earlier(self.plan.deadline, self.plan.patient_until), || now)?;
        (wait < remaining).then_some(wait)
    }
}

impl Past {
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

impl Default for Past {
    fn default() -> Self {
        Self {
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
}

/// The lesser of two that may both be missing.
#[inline]
fn earlier<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What is left until then, if there is a then.
fn left(until: Option<Instant>, now: impl FnOnce() -> Instant) -> Option<Duration> {
    Some(until?.saturating_duration_since(now()))
}

fn gave_up(why: GiveUp) -> Next {
    Next::Return(Ending::GaveUp(why))
}

#[cfg(test)]
mod tests;
