//! What an upstream says about when to come back.

use std::time::Duration;

/// How long the upstream asked us to wait before the next attempt, and how it
/// said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The wait, from the moment the response's head arrived.
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
