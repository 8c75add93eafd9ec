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
//! # Request bodies
//!
//! They are recorded as they are sent, in bounded memory, and played again: see
//! [`ReplayBody`].

pub mod backoff;
pub mod budget;
mod future;
mod grpc_timeout;
#[cfg(feature = "idempotency")]
mod idempotency;
mod layer;
mod map;
mod policy;
mod progress;
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
pub(crate) use self::setters::policy_setters;
pub use self::{
    future::ResponseFuture,
    layer::{CloneRequest, RetryLayer},
    map::{MapBody, MapReplay, MapsBodies, Same},
    policy::RetryPolicy,
    replay::{Account, BodyTakenOver, NotReplayable, ReplayBody, ReplayHandle, RequestBodyError},
    service::Retry,
    source::{CloneSource, HttpSource, NoRetry, Retried, Source},
};
