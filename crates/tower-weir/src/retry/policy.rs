use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    backoff::{Backoff, DecorrelatedJitter},
    wait::{self, GiveUp},
};
use crate::{
    deadline::far,
    observe::Seam,
    outcome::{
        Cause, Fault, GrpcCode, HttpClassifier, Outcome, Processed, Protocol, Repeat, Verdict,
    },
    random::{Seed, Stream, Streams},
};

/// When, how often and after what wait a request is repeated.
///
/// A policy is a value: give it to [`RetryLayer::new`](super::RetryLayer::new),
/// or change the one in a layer with
/// [`RetryLayer::policy`](super::RetryLayer::policy).
#[derive(Clone, Debug)]
pub struct RetryPolicy<C = HttpClassifier> {
    pub(super) classifier: C,
    pub(super) enabled: bool,
    pub(super) deadline: Option<Duration>,
    any_method: bool,
    max_retries: Option<u32>,
    max_wait: Duration,
    patience: Option<Duration>,
    backoff: Arc<dyn Backoff>,
    statuses: Option<Arc<[StatusCode]>>,
    codes: Option<Arc<[GrpcCode]>>,
    streams: Arc<Streams>,
    pub(super) seam: Seam,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(HttpClassifier::new())
    }
}

impl<C> RetryPolicy<C> {
    /// The default policy over a classifier: 3 retries for HTTP and 5 for gRPC,
    /// after waits of [`DecorrelatedJitter`].
    pub fn new(classifier: C) -> Self {
        Self {
            classifier,
            enabled: true,
            deadline: None,
            any_method: false,
            max_retries: None,
            max_wait: Duration::from_secs(60),
            patience: None,
            backoff: Arc::new(DecorrelatedJitter::default()),
            statuses: None,
            codes: None,
            streams: Arc::new(Streams::new(Seed::random())),
            seam: Seam::default(),
        }
    }

    /// The same policy over another classifier.
    #[must_use]
    pub fn classify<D>(self, classifier: D) -> RetryPolicy<D> {
        RetryPolicy {
            classifier,
            enabled: self.enabled,
            deadline: self.deadline,
            any_method: self.any_method,
            max_retries: self.max_retries,
            max_wait: self.max_wait,
            patience: self.patience,
            backoff: self.backoff,
            statuses: self.statuses,
            codes: self.codes,
            streams: self.streams,
            seam: self.seam,
        }
    }

    /// Whether anything is ever repeated. Default: yes.
    ///
    /// `option_layer` and `Either` do not type-check around a layer that changes
    /// the request body; this does what they would.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// How many attempts may follow the first. Default 3, for gRPC requests 5,
    /// of which each is cheaper; 0 for none.
    ///
    /// A stream that the peer refused unseen is sent once more without being
    /// counted (gRFC A6, transparent retries).
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Takes every request for safe to repeat, whatever its method and even if
    /// the upstream may have acted on it already. For upstreams where doing
    /// something twice is doing it once, such as upserts by id. Default: only
    /// idempotent methods (RFC 9110 9.2.2), and requests with an
    /// `Idempotency-Key` or the [`Idempotent`](crate::outcome::Idempotent)
    /// extension.
    #[must_use]
    pub fn any_method(mut self, any: bool) -> Self {
        self.any_method = any;
        self
    }

    /// The rule for waits that the upstream did not choose. Default
    /// [`DecorrelatedJitter`] from 0.25 s to 60 s.
    #[must_use]
    pub fn backoff(mut self, backoff: impl Backoff + 'static) -> Self {
        self.backoff = Arc::new(backoff);
        self
    }

    /// The longest wait that the upstream may ask for. If it asks for more, the
    /// caller gets the answer at once: an attempt before that time would be one
    /// that the upstream forbade. Default 60 s.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// The time that a whole request may take, with all attempts, queues and
    /// waits. Default none. A [`Deadline`](crate::Deadline) among a request's
    /// extensions counts where it is earlier.
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Waits out what is not the request's fault: attempts that were refused,
    /// never sent, or refused by a layer of this crate are bounded by `time` and
    /// not by [`max_retries`](Self::max_retries), and the backoff does not grow
    /// on them. Failures that may have been processed count as ever. Default
    /// none; 15 minutes under [`Weir::bulk`](crate::Weir::bulk).
    #[must_use]
    pub fn patience(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.patience = time.into();
        self
    }

    /// Which HTTP statuses are repeated, instead of 408, 429, 500, 502, 503 and
    /// 504. What the limiter and the breaker make of a status stays the same. A
    /// status that would not be repeated by default is only repeated if that is
    /// safe; `x-should-retry` from the server goes before this list.
    #[must_use]
    pub fn retry_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = Some(statuses.into_iter().collect());
        self
    }

    /// Which gRPC codes are repeated, instead of UNAVAILABLE, RESOURCE_EXHAUSTED
    /// and ABORTED. A pushback that forbids it goes before this list.
    #[must_use]
    pub fn retry_codes(mut self, codes: impl IntoIterator<Item = GrpcCode>) -> Self {
        self.codes = Some(codes.into_iter().collect());
        self
    }

    /// Makes every random number follow from `seed`, so that a run can be
    /// replayed. Each request has its own stream of numbers. Default: a seed
    /// from the system.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.streams = Arc::new(Streams::new(Seed::from(seed)));
        self
    }

    /// Where the policy's events go.
    #[cfg(feature = "weir")]
    pub(crate) fn told_to(mut self, seam: Seam) -> Self {
        self.seam = seam;
        self
    }

    fn retries(&self, protocol: Protocol) -> u32 {
        self.max_retries.unwrap_or(match protocol {
            Protocol::Http => 3,
            Protocol::Grpc => 5,
        })
    }

    fn repeat(&self, outcome: &Outcome) -> Repeat {
        if outcome.told.is_some() {
            return outcome.repeat;
        }
        let (listed, unlisted) = match (outcome.cause, &self.statuses, &self.codes) {
            (Cause::Status(status), Some(list), _) => (list.contains(&status), Repeat::IfSafe),
            (Cause::Code(code), _, Some(list)) => (list.contains(&code), Repeat::Always),
            _ => return outcome.repeat,
        };
        match outcome.repeat {
            Repeat::Never if listed => unlisted,
            repeat if listed => repeat,
            _ => Repeat::Never,
        }
    }
}

/// What the policy keeps of one request.
#[derive(Debug)]
pub(super) struct Progress {
    protocol: Protocol,
    safe: bool,
    /// The deadline of the request, and the end of its patience.
    deadline: Option<Instant>,
    patient_until: Option<Instant>,
    attempts: u32,
    retries: u32,
    transparent: bool,
    prev: Option<Duration>,
    stream: Option<Stream>,
}

/// What is done after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// The result goes to the caller.
    Return(Final),
    /// Another attempt, after a wait.
    Retry(Duration),
}

/// Why no other attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Final {
    /// The result is not one that is repeated.
    Done,
    /// It is, but not for this request: the upstream may have acted on it.
    Unsafe,
    /// The retries are used up.
    Exhausted,
    /// The wait is too long.
    GaveUp(GiveUp),
}

impl Progress {
    /// `now` is asked only if time matters.
    pub(super) fn new<C>(
        policy: &RetryPolicy<C>,
        protocol: Protocol,
        safe: bool,
        deadline: Option<Instant>,
        now: impl Fn() -> Instant,
    ) -> Self {
        let own = policy.deadline.map(|time| far(now(), time));
        Self {
            protocol,
            safe: safe || policy.any_method,
            deadline: own.into_iter().chain(deadline).min(),
            patient_until: policy.patience.map(|time| far(now(), time)),
            attempts: 1,
            retries: 0,
            transparent: false,
            prev: None,
            stream: None,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How many attempts there were, with the one that has just ended.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many attempts there can be, where that is bounded.
    pub(super) fn max_attempts<C>(&self, policy: &RetryPolicy<C>) -> Option<u32> {
        let bounded = self.patient_until.is_none();
        bounded.then(|| policy.retries(self.protocol).saturating_add(1))
    }

    /// Decides what follows an attempt. `local` is how long a layer of this
    /// crate that refused it asks to wait.
    pub(super) fn decide<C>(
        &mut self,
        policy: &RetryPolicy<C>,
        outcome: &Outcome,
        local: Option<Duration>,
        now: Instant,
    ) -> Next {
        let refused_here = outcome.cause == Cause::Fault(Fault::Local);
        let patient = self.patient_until.is_some();
        let repeat = match policy.repeat(outcome) {
            Repeat::Never if patient && refused_here => Repeat::Always,
            repeat => repeat,
        };
        match repeat {
            Repeat::Never => return Next::Return(Final::Done),
            Repeat::IfSafe if !self.safe => return Next::Return(Final::Unsafe),
            Repeat::Transparent if !self.transparent && policy.retries(self.protocol) > 0 => {
                self.transparent = true;
                self.attempts += 1;
                return Next::Retry(Duration::ZERO);
            }
            Repeat::IfSafe | Repeat::Always | Repeat::Transparent => {}
        }
        let blameless = refused_here
            || outcome.processed == Processed::No
            || matches!(outcome.verdict, Verdict::Refused(_));
        let free = patient && blameless && policy.retries(self.protocol) > 0;
        if !free && self.retries >= policy.retries(self.protocol) {
            return Next::Return(Final::Exhausted);
        }
        if free {
            self.prev = None;
        }
        let stream = self.stream.get_or_insert_with(|| policy.streams.stream());
        let retry = if free { 1 } else { self.retries + 1 };
        let own = policy.backoff.delay(retry, self.prev, stream.uniform());
        let own = own.max(local.unwrap_or_default());
        let until = [self.deadline, self.patient_until.filter(|_| free)];
        let until = until.into_iter().flatten().min();
        let remaining = until.map(|until| until.saturating_duration_since(now));
        let u = if outcome.hint.is_some() {
            stream.uniform()
        } else {
            0.0
        };
        match wait::wait(outcome.hint, own, policy.max_wait, remaining, u) {
            Ok(delay) => {
                // After a wait that the upstream chose, ours begins anew.
                self.prev = (delay == own).then_some(own);
                self.retries += u32::from(!free);
                self.attempts += 1;
                Next::Retry(delay)
            }
            Err(why) => Next::Return(Final::GaveUp(why)),
        }
    }
}
