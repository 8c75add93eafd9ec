//! Retries: send a request again when that can help, may be done, and is bearable.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::retry::RetryLayer;
//! # let client = tower::service_fn(
//! #     |_: http::Request<tower_weir::retry::ReplayBody<String>>| async {
//! #         Ok::<_, tower_weir::BoxError>(http::Response::new(String::new()))
//! #     },
//! # );
//!
//! let mut client = ServiceBuilder::new()
//!     .layer(RetryLayer::http().deadline(Duration::from_secs(10)))
//!     .service(client);
//!
//! let request = http::Request::get("http://index.internal/query").body(String::new())?;
//! let response = client.ready().await?.call(request).await?;
//! # drop(response);
//! # Ok(())
//! # }
//! ```
//!
//! # What is repeated
//!
//! HTTP: 408, 429, 500, 502, 503 and 504, up to 3 times. gRPC: UNAVAILABLE,
//! RESOURCE_EXHAUSTED and ABORTED, up to 5 times, as long as the status came
//! without response headers (gRFC A6). Errors: by what they are
//! ([`Fault`](crate::outcome::Fault)).
//!
//! What the upstream certainly did not act on may be repeated whatever the
//! method. What it may have acted on is repeated only if that is safe: GET, HEAD,
//! OPTIONS, TRACE, PUT, DELETE, a request with an `Idempotency-Key` header or an
//! [`Idempotent`](crate::outcome::Idempotent) extension, or all of them with
//! [`any_method`](RetryPolicy::any_method).
//!
//! # When
//!
//! After what the server asked for, in whichever form it did
//! ([`hint`](crate::outcome::hint)), or after a jittered [`backoff`], whichever is
//! longer. A wait that would end after the deadline is not begun: the caller gets
//! the answer there is, at once and unchanged.
//!
//! The deadline is the earliest of the [layer's](RetryPolicy::deadline), of a
//! [`Deadline`](crate::Deadline) among the request's extensions, and of a gRPC
//! request's `grpc-timeout`, which tells each attempt what is left.
//!
//! # How many a server must bear
//!
//! Each host has a [`budget`], by default 20% of the requests that went well in the
//! last 10 s, plus 10 a second. A retry that it refuses is not made. Only a caller who is
//! [patient](RetryPolicy::patience) waits for it.
//!
//! # Request bodies
//!
//! They are recorded as they are sent, in bounded memory, and played again: see
//! [`ReplayBody`].
//!
//! # What tells of it
//!
//! An answer that took more than one attempt carries [`Retried`]. gRPC attempts
//! after the first carry `grpc-previous-rpc-attempts`, others
//! [a header](RetryPolicy::attempt_header) if one is named. A span with the field
//! `http.request.resend_count` is told the number; and each decision is an
//! [`Event`](crate::observe::Event): a retry, and why a request that failed is not
//! sent again ([`GaveUp`](crate::observe::Event::GaveUp)).
//!
//! # Who else repeats
//!
//! - hyper-util's client sends a request once more by itself if the idle
//!   connection it had taken from its pool turns out to be closed before anything
//!   was written (`Builder::retry_canceled_requests`, on by default). That is
//!   safe, costs no wait, and nobody hears of it. With it off the layer does the
//!   same: the fault is [`NotSent`](crate::outcome::Fault::NotSent), and the
//!   retry counts.
//! - reqwest repeats requests up to twice that HTTP/2 refused unseen
//!   (`ClientBuilder::retry`), within a budget of its own. Behind this layer
//!   switch it off with `reqwest::retry::never()`: else one stream that is refused
//!   is tried three times for each of our attempts. Its `Client` takes requests of
//!   its own type: a `service_fn` that makes one with `reqwest::Request::try_from`
//!   and `reqwest::Body::wrap` stands between it and the layer.
//! - tonic's `Channel` connects anew by itself and repeats no request.
//! - Two stacks of this crate, one within the other, multiply: see
//!   [`NoRetry`] and [`suppress_nested`](RetryPolicy::suppress_nested).
//!
//! Whoever keeps tower's own `Retry` can give it a [`RetryPolicy`].
//!
//! # Off
//!
//! [`enabled(false)`](RetryLayer::enabled) takes the layer out of the way,
//! `max_retries(0)` keeps its deadline. tower's `option_layer` does not type-check
//! here, since the two sides would send different bodies.

pub mod backoff;
pub mod budget;
mod future;
pub(crate) mod grpc_timeout;
#[cfg(feature = "idempotency")]
mod idempotency;
mod layer;
mod live;
mod map;
mod policy;
mod progress;
mod recorder;
mod replay;
mod service;
mod setters;
mod source;
mod tower_policy;
mod turn;
pub mod wait;

#[cfg(feature = "idempotency")]
#[cfg_attr(docsrs, doc(cfg(feature = "idempotency")))]
pub use self::idempotency::IdempotencyKey;
#[cfg(feature = "tonic")]
pub use self::map::ToTonic;
#[cfg(feature = "config")]
pub(crate) use self::policy::PolicyTerms;
pub(crate) use self::setters::policy_setters;
pub use self::{
    future::ResponseFuture,
    layer::{CloneRequest, RetryLayer},
    live::RetryHandle,
    map::{MapBody, MapReplay, MapsBodies, Same},
    policy::RetryPolicy,
    recorder::{Attempt, End, Ending, Recorder},
    replay::{Account, BodyTakenOver, NotReplayable, ReplayBody, ReplayHandle, RequestBodyError},
    service::Retry,
    source::{CloneSource, HttpSource, NoRetry, Retried, Source},
};
#[cfg(any(feature = "failover", feature = "fallback"))]
pub(crate) use self::{progress::Terms, service::recorded, source::is_head_only};
