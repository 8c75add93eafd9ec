//! What the layers answer with when they refuse a request themselves.
//!
//! Each is a small type inside [`BoxError`](crate::BoxError), found by
//! `downcast_ref`. Under the feature `tonic` each has a `tonic::Status` as its
//! [`source`](std::error::Error::source), so that a tonic client sees the right
//! code and not UNKNOWN.

use std::{error::Error, fmt, sync::Arc, time::Duration};

#[cfg(feature = "circuit-breaker")]
use crate::circuit_breaker::ChangeCause;
#[cfg(feature = "retry")]
use crate::outcome::Cause;

/// A `tonic::Status` made when somebody first asks for it: a refusal is on the
/// hot path of an outage, and most callers never look at its source.
#[derive(Clone, Default)]
struct Status {
    #[cfg(feature = "tonic")]
    made: std::sync::OnceLock<tonic::Status>,
}

impl Status {
    #[cfg(feature = "tonic")]
    fn source(&self, code: Code, error: &dyn fmt::Display) -> Option<&(dyn Error + 'static)> {
        let code = match code {
            Code::Unavailable => tonic::Code::Unavailable,
            Code::ResourceExhausted => tonic::Code::ResourceExhausted,
            Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        };
        Some(
            self.made
                .get_or_init(|| tonic::Status::new(code, error.to_string())),
        )
    }

    #[cfg(not(feature = "tonic"))]
    #[allow(clippy::unused_self, reason = "the other half of a feature")]
    fn source(&self, _: Code, _: &dyn fmt::Display) -> Option<&(dyn Error + 'static)> {
        None
    }
}

#[derive(Clone, Copy)]
enum Code {
    Unavailable,
    ResourceExhausted,
    DeadlineExceeded,
}

macro_rules! refusal {
    ($name:ident, $code:ident) => {
        impl Error for $name {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.status.source(Code::$code, self)
            }
        }
    };
}

/// The circuit of the request's host is open: the request was not sent.
///
/// Under the feature `tonic` it is an UNAVAILABLE.
#[cfg(feature = "circuit-breaker")]
#[derive(Clone)]
pub struct CircuitOpen {
    host: Arc<str>,
    retry_after: Option<Duration>,
    open_for: Duration,
    cause: ChangeCause,
    status: Status,
}

#[cfg(feature = "circuit-breaker")]
impl CircuitOpen {
    pub(crate) fn new(
        host: Arc<str>,
        retry_after: Option<Duration>,
        open_for: Duration,
        cause: ChangeCause,
    ) -> Self {
        Self {
            host,
            retry_after,
            open_for,
            cause,
            status: Status::default(),
        }
    }

    /// The host whose circuit is open; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// In what time to come again: what is left of the open period, or, while
    /// probes are under way, a guess. `None` when it is held open by hand.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How long the circuit has been in its state.
    pub fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Why it opened.
    pub fn cause(&self) -> ChangeCause {
        self.cause
    }
}

#[cfg(feature = "circuit-breaker")]
impl fmt::Debug for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitOpen")
            .field("host", &self.host)
            .field("retry_after", &self.retry_after)
            .field("open_for", &self.open_for)
            .field("cause", &self.cause)
            .finish()
    }
}

#[cfg(feature = "circuit-breaker")]
impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit open{} ({})", Of(&self.host), self.cause)?;
        match self.retry_after {
            Some(after) => write!(f, ": come again in {}", Seconds(after)),
            None => f.write_str(": held open"),
        }
    }
}

#[cfg(feature = "circuit-breaker")]
refusal!(CircuitOpen, Unavailable);

/// The limiter's queue is full: the request was not sent.
///
/// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
#[derive(Clone)]
pub struct QueueFull {
    host: Arc<str>,
    limit: Option<usize>,
    waiting: usize,
    status: Status,
}

impl QueueFull {
    pub(crate) fn new(host: Arc<str>, limit: Option<usize>, waiting: usize) -> Self {
        Self {
            host,
            limit,
            waiting,
            status: Status::default(),
        }
    }

    /// The host whose slots were wanted; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host's concurrency limit, where there is a limiter.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// How many requests of the layer are waiting.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

impl fmt::Debug for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueFull")
            .field("host", &self.host)
            .field("limit", &self.limit)
            .field("waiting", &self.waiting)
            .finish()
    }
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queue full{}: {} waiting{}",
            Of(&self.host),
            self.waiting,
            Limit(self.limit)
        )
    }
}

refusal!(QueueFull, ResourceExhausted);

/// No slot came free within the queue timeout: the request was not sent.
///
/// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
#[derive(Clone)]
pub struct QueueTimeout {
    host: Arc<str>,
    limit: Option<usize>,
    waiting: usize,
    waited: Duration,
    status: Status,
}

impl QueueTimeout {
    pub(crate) fn new(
        host: Arc<str>,
        limit: Option<usize>,
        waiting: usize,
        waited: Duration,
    ) -> Self {
        Self {
            host,
            limit,
            waiting,
            waited,
            status: Status::default(),
        }
    }

    /// The host whose slots were wanted; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host's concurrency limit, where there is a limiter.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// How many requests of the host are waiting still.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How long the request waited. Less than the queue timeout if it was
    /// refused at once because the upstream asked for a longer pause.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Debug for QueueTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTimeout")
            .field("host", &self.host)
            .field("limit", &self.limit)
            .field("waiting", &self.waiting)
            .field("waited", &self.waited)
            .finish()
    }
}

impl fmt::Display for QueueTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no slot{} after {}: {} more waiting{}",
            Of(&self.host),
            Seconds(self.waited),
            self.waiting,
            Limit(self.limit)
        )
    }
}

refusal!(QueueTimeout, ResourceExhausted);

/// An attempt brought no response headers within its own time.
///
/// Under the feature `tonic` it is a DEADLINE_EXCEEDED.
#[derive(Clone)]
pub struct AttemptTimeout {
    after: Duration,
    status: Status,
}

impl AttemptTimeout {
    pub(crate) fn new(after: Duration) -> Self {
        Self {
            after,
            status: Status::default(),
        }
    }

    /// How long the attempt was given.
    pub fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Debug for AttemptTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptTimeout")
            .field("after", &self.after)
            .finish()
    }
}

impl fmt::Display for AttemptTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no response headers within {}", Seconds(self.after))
    }
}

refusal!(AttemptTimeout, DeadlineExceeded);

/// The deadline of the whole request passed.
///
/// Under the feature `tonic` it is a DEADLINE_EXCEEDED.
#[derive(Clone, Default)]
pub struct DeadlineExceeded {
    unsent: bool,
    status: Status,
}

impl DeadlineExceeded {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// It passed while the attempt waited for its turn: another layer that sees
    /// this must not blame the upstream.
    pub(crate) fn unsent() -> Self {
        Self {
            unsent: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_unsent(&self) -> bool {
        self.unsent
    }
}

impl fmt::Debug for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeadlineExceeded")
    }
}

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's deadline has passed")
    }
}

refusal!(DeadlineExceeded, DeadlineExceeded);

/// A retry waited for its budget until its patience or its deadline would have
/// passed. It happens only under
/// [`patience`](crate::retry::RetryPolicy::patience): else a retry that the
/// budget refuses is given up at once, and the caller gets the result there is.
///
/// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
#[cfg(feature = "retry")]
#[derive(Clone)]
pub struct BudgetExhausted {
    host: Arc<str>,
    cause: Cause,
    status: Status,
}

#[cfg(feature = "retry")]
impl BudgetExhausted {
    pub(crate) fn new(host: &str, cause: Cause) -> Self {
        Self {
            host: host.into(),
            cause,
            status: Status::default(),
        }
    }

    /// The host whose budget is empty; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the last attempt had come to.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

#[cfg(feature = "retry")]
impl fmt::Debug for BudgetExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetExhausted")
            .field("host", &self.host)
            .field("cause", &self.cause)
            .finish()
    }
}

#[cfg(feature = "retry")]
impl fmt::Display for BudgetExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, cause) = (Of(&self.host), self.cause);
        write!(f, "the retry budget stayed empty{host} (after {cause})")
    }
}

#[cfg(feature = "retry")]
refusal!(BudgetExhausted, ResourceExhausted);

/// The layer is being drained: the request was not sent, and trying again is of
/// no use.
///
/// Under the feature `tonic` it is an UNAVAILABLE.
#[derive(Clone)]
pub struct ShuttingDown {
    host: Arc<str>,
    status: Status,
}

impl ShuttingDown {
    pub(crate) fn new(host: Arc<str>) -> Self {
        Self {
            host,
            status: Status::default(),
        }
    }

    /// The host that was to be called; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Debug for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShuttingDown")
            .field("host", &self.host)
            .finish()
    }
}

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutting down: no more requests{}", Of(&self.host))
    }
}

refusal!(ShuttingDown, Unavailable);

/// ` of HOST`, or nothing where no host is known.
struct Of<'a>(&'a str);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " for {}", self.0)
    }
}

struct Limit(Option<usize>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(f, ", limit {limit}"),
            None => Ok(()),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}
