use std::{fmt, time::Duration};

use http::StatusCode;

use super::{Fault, GrpcCode, Hint};

/// What one attempt says about the upstream.
///
/// Every layer reads the same verdict its own way:
///
/// | verdict | limiter | breaker |
/// |---|---|---|
/// | [`Success`](Verdict::Success) | may grow | success |
/// | [`Refused`](Verdict::Refused) | shrinks (except for 408) | see [`Refusal`] |
/// | [`Failed`](Verdict::Failed) | releases the slot; a timeout gives one slot back | hard failure |
/// | [`Ignored`](Verdict::Ignored) | releases the slot | nothing is recorded |
///
/// What the *retry* layer does is told by [`Outcome::repeat`], because health
/// and repeatability are different questions: an ABORTED transaction is to be
/// repeated although the upstream is well, a 501 is not although it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The upstream did its work: 2xx, 3xx, and every 4xx that blames the caller.
    Success,
    /// The upstream answered "not now".
    Refused(Refusal),
    /// The upstream broke, or could not be reached.
    Failed(Failure),
    /// It says nothing about the upstream: our own refusals, the caller's
    /// error, a "do not retry" said with a refusal.
    Ignored,
}

/// How an upstream said "not now".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Alive, and asking for less: 429, RESOURCE_EXHAUSTED, ENHANCE_YOUR_CALM.
    /// The breaker does not count it by default: the server lives.
    Throttled,
    /// Overloaded or down, nobody can tell which: 503, UNAVAILABLE. The breaker
    /// counts it by default only while nothing succeeds.
    Unavailable,
    /// 408: the server gave up waiting for the request. It processed nothing,
    /// and it is no sign of overload, so the limiter does not shrink.
    RequestTimeout,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// 500, 502, 504, a refused connection, a reset.
    Error,
    /// The attempt's own time was up before the response's headers came.
    Timeout,
}

/// Whether an attempt may be followed by another, as far as its result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// No: repeating cannot help, or the upstream forbade it.
    Never,
    /// Only if the request is safe to repeat (RFC 9110 9.2.2: an idempotent
    /// method; or an `Idempotency-Key`, or the caller's word).
    IfSafe,
    /// Yes, whatever the method.
    Always,
    /// Yes, and the first time for free: the peer proves that it did not look
    /// at the request (gRFC A6, transparent retries).
    Transparent,
}

/// Whether the upstream may have acted on the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Processed {
    /// Certainly not: it was never sent, or the upstream says so.
    No,
    /// It may have been, wholly or in part.
    Maybe,
}

/// Where an [`Outcome`] comes from. For events and for policies that choose by
/// status or code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// An HTTP response.
    Status(StatusCode),
    /// A gRPC response, by its `grpc-status`.
    Code(GrpcCode),
    /// An error instead of a response.
    Fault(Fault),
    /// A classifier of the user's gave no cause.
    Unspecified,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{}", status.as_u16()),
            Self::Code(code) => code.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
            Self::Unspecified => f.write_str("unspecified"),
        }
    }
}

/// What became of one attempt, in the words that all layers share.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// What the attempt says about the upstream.
    pub verdict: Verdict,
    /// Whether another attempt may follow.
    pub repeat: Repeat,
    /// Whether the upstream may have acted on it.
    pub processed: Processed,
    /// What the upstream asked for.
    pub hint: Option<Hint>,
    /// Where the outcome comes from.
    pub cause: Cause,
    /// The server's own word on repeating (`x-should-retry`, a pushback that
    /// forbids it). It goes before a policy's list of statuses.
    pub told: Option<bool>,
    /// Whether an attempt before the one that was judged may have been processed,
    /// which what that one's answer says of itself does not undo.
    #[cfg(feature = "split")]
    pub(crate) doubted: bool,
}

impl Outcome {
    const fn new(verdict: Verdict, repeat: Repeat, processed: Processed) -> Self {
        Self {
            verdict,
            repeat,
            processed,
            hint: None,
            cause: Cause::Unspecified,
            told: None,
            #[cfg(feature = "split")]
            doubted: false,
        }
    }

    /// The upstream did its work; the result goes to the caller.
    pub const fn success() -> Self {
        Self::new(Verdict::Success, Repeat::Never, Processed::Maybe)
    }

    /// The upstream throttled the request (429 and its kind): nothing was
    /// processed and any request may be repeated.
    pub const fn throttled() -> Self {
        Self::new(
            Verdict::Refused(Refusal::Throttled),
            Repeat::Always,
            Processed::No,
        )
    }

    /// The upstream said that it is unavailable (503 and its kind), which does
    /// not tell whether it acted on the request first.
    pub const fn unavailable() -> Self {
        Self::new(
            Verdict::Refused(Refusal::Unavailable),
            Repeat::IfSafe,
            Processed::Maybe,
        )
    }

    /// The upstream broke while it may have been at work on the request.
    pub const fn failed() -> Self {
        Self::new(
            Verdict::Failed(Failure::Error),
            Repeat::IfSafe,
            Processed::Maybe,
        )
    }

    /// The attempt's time was up.
    pub const fn timed_out() -> Self {
        Self::new(
            Verdict::Failed(Failure::Timeout),
            Repeat::IfSafe,
            Processed::Maybe,
        )
    }

    /// The request never reached an upstream that can be blamed for it.
    pub const fn ignored() -> Self {
        Self::new(Verdict::Ignored, Repeat::Never, Processed::No)
    }

    /// The same outcome with another answer to "may it be repeated?".
    #[must_use]
    pub const fn with_repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// The same outcome with another answer to "may it have been processed?".
    #[must_use]
    pub const fn with_processed(mut self, processed: Processed) -> Self {
        self.processed = processed;
        self
    }

    /// The same outcome with another verdict.
    #[must_use]
    pub const fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    /// The same outcome with what the upstream asked for.
    #[must_use]
    pub const fn with_hint(mut self, hint: Option<Hint>) -> Self {
        self.hint = hint;
        self
    }

    /// The same outcome with the place it comes from.
    #[must_use]
    pub const fn with_cause(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// How long the upstream asked us to wait, if it asked.
    pub const fn wait(&self) -> Option<Duration> {
        match self.hint {
            Some(hint) => Some(hint.delay),
            None => None,
        }
    }

    /// Whether the upstream did what it was asked. An answer that blames the
    /// caller is well for the upstream's health, but it is no request that
    /// succeeded.
    pub(crate) fn is_done(&self) -> bool {
        self.verdict == Verdict::Success
            && self.repeat == Repeat::Never
            && match self.cause {
                Cause::Code(code) => code == GrpcCode::Ok,
                Cause::Status(status) => status.as_u16() < 400,
                Cause::Fault(_) => false,
                Cause::Unspecified => true,
            }
    }

    /// The same outcome with the server's own word on repeating.
    #[must_use]
    pub const fn with_told(mut self, told: Option<bool>) -> Self {
        self.told = told;
        self
    }
}
