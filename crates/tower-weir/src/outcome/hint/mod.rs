//! What an upstream says about when to come back.
//!
//! [`HintParser`] reads it from a response's headers or trailers. It is pure:
//! the clock is asked only when a date cannot do without, and no value, however
//! malformed, makes it panic.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use http::{HeaderMap, HeaderValue, header};
//! use tower_weir::outcome::hint::{Advice, HintParser, HintSource};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1.5"));
//!
//! let advice = HintParser::new().parse(&headers, SystemTime::now);
//! let Advice::Wait(hint) = advice else {
//!     panic!("no hint")
//! };
//! assert_eq!(hint.delay, Duration::from_millis(1500));
//! assert_eq!(hint.source, HintSource::RetryAfter);
//! ```

mod base;
mod date;
mod grpc;
mod number;
mod parser;
mod rate_limit;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

pub use self::parser::{HintParser, should_retry};

/// How long the upstream asked us to wait before the next attempt, and how it
/// said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The wait, from the moment the response's head arrived. As [`HintParser`]
    /// reads it, it is a whole number of milliseconds, rounded up; zero means
    /// that the upstream named a moment that has come.
    pub delay: Duration,
    /// Where it was said.
    pub source: HintSource,
}

/// Where a [`Hint`] was found, most binding first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HintSource {
    /// `grpc-retry-pushback-ms` (gRFC A6). It is exact: no jitter is added.
    Pushback,
    /// `google.rpc.RetryInfo` in `grpc-status-details-bin`.
    RetryInfo,
    /// `retry-after-ms`.
    RetryAfterMs,
    /// `x-ms-retry-after-ms`.
    XMsRetryAfterMs,
    /// `x-amz-retry-after`, in milliseconds.
    XAmzRetryAfter,
    /// `Retry-After` (RFC 9110 10.2.3).
    RetryAfter,
    /// The `t` of a `RateLimit` header whose `r` is 0.
    RateLimit,
    /// A classifier of the user's.
    Classifier,
}

/// What a response's headers or trailers say about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing that can be understood.
    Nothing,
    /// Wait at least this long.
    Wait(Hint),
    /// Do not retry: a `grpc-retry-pushback-ms` that is negative, unreadable or
    /// repeated (gRFC A6).
    Never,
}

impl Advice {
    /// The hint, if one was given.
    pub const fn hint(self) -> Option<Hint> {
        match self {
            Self::Wait(hint) => Some(hint),
            Self::Nothing | Self::Never => None,
        }
    }
}

impl HintSource {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pushback => "grpc-retry-pushback-ms",
            Self::RetryInfo => "retry_info",
            Self::RetryAfterMs => "retry-after-ms",
            Self::XMsRetryAfterMs => "x-ms-retry-after-ms",
            Self::XAmzRetryAfter => "x-amz-retry-after",
            Self::RetryAfter => "retry-after",
            Self::RateLimit => "ratelimit",
            Self::Classifier => "classifier",
        }
    }
}
