use std::time::Duration;

#[cfg(feature = "aimd")]
use crate::aimd::law::Change;
#[cfg(feature = "circuit-breaker")]
use crate::circuit_breaker::Transition;
use crate::outcome::Cause;
#[cfg(feature = "retry")]
use crate::outcome::Hint;

/// Something that a layer did to the calls of one host.
///
/// Successful calls are no events: what happens on every call would cost on
/// every call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The host throttled a request for the first time since the layer has
    /// known it. Logged at INFO.
    FirstThrottle {
        /// With what.
        cause: Cause,
    },
    /// A request will be sent again. Logged at DEBUG.
    #[cfg(feature = "retry")]
    Retry {
        /// Why.
        cause: Cause,
        /// The number of the attempt to come; 2 for the first retry.
        attempt: u32,
        /// How many attempts there can be, where that is bounded.
        max_attempts: Option<u32>,
        /// The wait before it.
        delay: Duration,
        /// What the server asked for.
        hint: Option<Hint>,
    },
    /// A retry was due and the budget could not bear it. The first one is logged
    /// at WARN, the others at DEBUG: in an outage there are many.
    #[cfg(feature = "retry")]
    BudgetEmpty {
        /// What the attempt before had come to.
        cause: Cause,
        /// Whether it is the first one: of its batch, where that is what could
        /// not bear it; else of its host, since its budget last granted a retry
        /// and has then refused none for 10 s.
        first: bool,
    },
    /// A retry was due, and the request's body cannot be sent again. Logged at
    /// WARN.
    #[cfg(feature = "retry")]
    NotReplayable {
        /// Why not.
        why: crate::retry::NotReplayable,
    },
    /// A request that failed will not be sent again: the upstream may have acted on
    /// it, its retries are used up, the next wait would be too long, its deadline has
    /// passed, or its stack is being shut down. Logged at DEBUG.
    ///
    /// It is not told of a result that nobody repeats (a 404, an open circuit), of
    /// requests that are sent once only
    /// ([`max_retries(0)`](crate::retry::RetryPolicy::max_retries),
    /// [`NoRetry`](crate::retry::NoRetry)), and where [`BudgetEmpty`](Self::BudgetEmpty)
    /// or [`NotReplayable`](Self::NotReplayable) has just been told instead.
    #[cfg(feature = "retry")]
    GaveUp {
        /// What the last attempt came to.
        cause: Cause,
        /// How many were made.
        attempts: u32,
        /// Why there is no other.
        why: crate::retry::Ending,
    },
    /// The concurrency limit moved. Logged at DEBUG.
    #[cfg(feature = "aimd")]
    Limit {
        /// From what to what, and why.
        change: Change,
        /// The number of calls at which the host last refused one.
        ceiling: Option<usize>,
    },
    /// The circuit changed its state. Logged at INFO when it opens and when it
    /// closes: two lines an outage, however often it is probed in between. Its
    /// probes, and openings after those that failed, are logged at DEBUG.
    #[cfg(feature = "circuit-breaker")]
    Circuit(Transition),
    /// A request has finally failed, and its letter was kept. Logged at DEBUG.
    #[cfg(feature = "dead-letter")]
    DeadLetter {
        /// What its last attempt came to, if any was written down.
        cause: Option<Cause>,
        /// Why no other was made.
        ending: Option<crate::retry::Ending>,
    },
    /// Letters could not be kept. The first is told at once, those that follow
    /// within 10 s together. Logged at WARN.
    #[cfg(feature = "dead-letter")]
    LettersLost {
        /// Why the last of them was not.
        why: crate::dead_letter::Loss,
        /// How many since it was last told.
        letters: u64,
        /// The sink's error, with its causes: the last one, if it was the sink that
        /// did not keep one of them.
        error: Option<std::sync::Arc<str>>,
    },
    /// A region went down, or is up again. The host is the region's name. Logged
    /// at INFO.
    #[cfg(feature = "failover")]
    Region(crate::failover::RegionChange),
    /// A request that one region did not serve goes to another one. The host is
    /// the first one's name. Logged at DEBUG.
    #[cfg(feature = "failover")]
    Elsewhere {
        /// Where it goes.
        to: std::sync::Arc<str>,
        /// What came of it where it was.
        cause: Cause,
    },
    /// A request got another answer than its own. Logged at DEBUG.
    #[cfg(feature = "fallback")]
    FellBack(crate::fallback::FellBack),
    /// A request was to get another answer than its own, and there was none: the
    /// caller got the request's own result. Logged at WARN.
    #[cfg(feature = "fallback")]
    FallbackFailed {
        /// Why it was to get another.
        cause: crate::fallback::FallbackCause,
        /// What became of that.
        error: std::sync::Arc<str>,
    },
    /// A call was refused by this crate and not sent. Logged at DEBUG.
    Refused(Refused),
    /// A server delays operations. Told at most once a second. Logged at DEBUG.
    #[cfg(feature = "server")]
    Delaying {
        /// The weight of all that is pending.
        pending: usize,
    },
    /// A server rejected an operation. Logged at DEBUG.
    #[cfg(feature = "server")]
    Rejected(crate::server::Rejected),
}

/// Why a layer refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// The circuit is open.
    CircuitOpen,
    /// Too many calls wait.
    QueueFull,
    /// The call waited too long, or would have.
    QueueTimeout,
    /// The call's deadline passed while it waited.
    Deadline,
    /// The layer is being drained.
    ShuttingDown,
}

impl Refused {
    #[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
    pub(crate) fn of(error: &crate::BoxError) -> Self {
        // An open circuit first: it refuses the most.
        #[cfg(feature = "circuit-breaker")]
        if error.is::<crate::error::CircuitOpen>() {
            return Self::CircuitOpen;
        }
        if error.is::<crate::error::QueueFull>() {
            Self::QueueFull
        } else if error.is::<crate::error::QueueTimeout>() {
            Self::QueueTimeout
        } else if error.is::<crate::error::DeadlineExceeded>() {
            Self::Deadline
        } else {
            Self::ShuttingDown
        }
    }

    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Deadline => "deadline",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

impl Event {
    /// What is told of a call that was refused with `error`.
    #[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
    pub(crate) fn refusal(error: &crate::BoxError) -> Self {
        #[cfg(feature = "server")]
        if let Some(rejected) = error.downcast_ref::<crate::server::Rejected>() {
            return Self::Rejected(rejected.clone());
        }
        Self::Refused(Refused::of(error))
    }

    #[allow(
        dead_code,
        reason = "which layers there are to tell something depends on the features"
    )]
    pub(super) fn log(&self, host: &str) {
        use tracing::{debug, info};
        let millis = |time: Duration| time.as_millis() as u64;
        match self {
            Self::FirstThrottle { cause } => {
                info!(host, %cause, "the upstream throttles: slowing down");
            }
            #[cfg(feature = "retry")]
            Self::Retry {
                cause,
                attempt,
                max_attempts,
                delay,
                hint,
            } => debug!(
                host,
                %cause,
                attempt,
                max_attempts,
                delay_ms = millis(*delay),
                hint_ms = hint.map(|hint| millis(hint.delay)),
                hint_source = hint.map(|hint| hint.source.as_str()),
                "retrying"
            ),
            #[cfg(feature = "retry")]
            Self::BudgetEmpty { cause, first: true } => {
                tracing::warn!(host, %cause, "not retrying: the retry budget is empty");
            }
            #[cfg(feature = "retry")]
            Self::BudgetEmpty { cause, .. } => {
                debug!(host, %cause, "not retrying: the retry budget is still empty");
            }
            #[cfg(feature = "retry")]
            Self::NotReplayable { why } => {
                tracing::warn!(host, %why, "not retrying: the request's body cannot be sent again");
            }
            #[cfg(feature = "retry")]
            Self::GaveUp {
                cause,
                attempts,
                why,
            } => debug!(host, %cause, attempts, %why, "not retrying"),
            #[cfg(feature = "aimd")]
            Self::Limit { change, ceiling } => debug!(
                host,
                before = change.before,
                after = change.after,
                ceiling,
                cause = change.cause.as_str(),
                "concurrency limit changed"
            ),
            #[cfg(feature = "circuit-breaker")]
            Self::Circuit(change) => log_circuit(host, change),
            #[cfg(feature = "dead-letter")]
            Self::DeadLetter { cause, ending } => debug!(
                host,
                cause = cause.map(tracing::field::display),
                ending = ending.map(tracing::field::display),
                "a letter was kept of a request that failed"
            ),
            #[cfg(feature = "dead-letter")]
            Self::LettersLost {
                why,
                letters,
                error,
            } => tracing::warn!(
                host,
                %why,
                letters,
                error = error.as_deref(),
                "letters of failed requests are lost"
            ),
            #[cfg(feature = "failover")]
            Self::Region(change) => info!(
                region = host,
                down = change.down.map(crate::failover::DownCause::as_str),
                active = change.active.as_deref(),
                "region changed its state"
            ),
            #[cfg(feature = "failover")]
            Self::Elsewhere { to, cause } => {
                debug!(from = host, to = &**to, %cause, "sending a request to another region");
            }
            #[cfg(feature = "fallback")]
            Self::FellBack(fell_back) => debug!(
                host,
                cause = fell_back.cause.as_str(),
                result = %fell_back.result,
                "answered by the fallback"
            ),
            #[cfg(feature = "fallback")]
            Self::FallbackFailed { cause, error } => {
                tracing::warn!(
                    host,
                    cause = cause.as_str(),
                    error = &**error,
                    "the fallback failed"
                );
            }
            Self::Refused(why) => debug!(host, why = why.as_str(), "call refused"),
            #[cfg(feature = "server")]
            Self::Delaying { pending } => debug!(key = host, pending, "delaying operations"),
            #[cfg(feature = "server")]
            Self::Rejected(rejected) => debug!(
                key = host,
                reason = rejected.reason().as_str(),
                class = rejected.class(),
                retry_after_ms = rejected.retry_after().map(millis),
                "operation rejected"
            ),
        }
    }
}

/// An outage's beginning and its end at INFO, what lies between at DEBUG.
#[cfg(feature = "circuit-breaker")]
fn log_circuit(host: &str, change: &Transition) {
    use crate::circuit_breaker::{ChangeCause, State};

    // A level is part of a call site, so each has its own.
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                host,
                from = change.from.as_str(),
                to = change.to.as_str(),
                cause = change.cause.as_str(),
                calls = change.counts.calls,
                failed = change.counts.failed,
                slow = change.counts.slow,
                rate = change.counts.failure_rate(),
                open_for_ms = change.open_for.map(|time| time.as_millis() as u64),
                $message
            )
        };
    }
    match change.to {
        State::Open if change.cause == ChangeCause::ProbeFailed => {
            log!(debug, "circuit opened again");
        }
        State::Open => log!(info, "circuit opened"),
        State::HalfOpen => log!(debug, "circuit is being probed"),
        State::Closed => log!(info, "circuit closed"),
    }
}
