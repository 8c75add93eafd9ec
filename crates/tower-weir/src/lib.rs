//! tower middleware for upstreams that throttle, slow down or die.
//!
//! A weir is a low dam that keeps a river's flow at what the channel below can
//! take. This crate does that for requests. [`Weir`] is the whole stack as one
//! layer, in front of any hyper or tonic client:
//!
//! ```
//! # #[cfg(feature = "weir")]
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::Weir;
//!
//! let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! let mut client = ServiceBuilder::new()
//!     .layer(Weir::http().ceiling(64))
//!     .service(client);
//!
//! let request = http::Request::post("http://index.internal/upsert")
//!     .body(Full::new(Bytes::from_static(b"{}")))?;
//! let response = client.ready().await?.call(request).await?;
//! # drop(response);
//! # Ok(())
//! # }
//! ```
//!
//! # The layers and their order
//!
//! Each layer also stands alone. From the outside in:
//!
//! 1. [`RetryLayer`](retry::RetryLayer) repeats what may be repeated, after the
//!    wait that the server asked for or a jittered backoff, within the deadline
//!    of the whole request. It holds nothing while it waits.
//! 2. [`CircuitBreakerLayer`](circuit_breaker::CircuitBreakerLayer) refuses at
//!    once while the upstream is down. Inside of the retries, so that it sees
//!    every attempt.
//! 3. [`AimdConcurrencyLayer`](aimd::AimdConcurrencyLayer) keeps as many calls in
//!    flight as the upstream can take, which it finds out by itself. Innermost,
//!    so that neither backoffs nor refusals hold a slot.
//!
//! [`Weir`] puts them together in this order, the last two as one step, so that a
//! circuit that opens also refuses who waits for a slot. A request flows in, its
//! result flows back once: a classifier turns it into an
//! [`Outcome`](outcome::Outcome), and each layer reads that its own way.
//!
//! Around them: [`Failover`](failover::Failover) sends a request to the first of
//! several regions that is up, each behind a stack of its own;
//! [`FallbackLayer`](fallback::FallbackLayer) has another answer for what has
//! failed all the same; and outermost,
//! [`DeadLetterLayer`](dead_letter::DeadLetterLayer) keeps what finally failed, to
//! be sent again.
//!
//! At the other end of the wire, [`AdmissionLayer`](server::AdmissionLayer)
//! delays and then rejects what a server cannot take.
//!
//! # State
//!
//! A layer value owns its state, one entry per host. Cloning the value, layering
//! it twice, or handing it to a framework that layers it per connection shares
//! that state; every setter makes a new value with fresh state.
//!
//! So set first, then layer and take handles: a handle that was taken before a setter
//! sees nothing.
//!
//! [`Shutdown`] ends a stack, or a whole program's: nothing new, no more retries, a
//! grace for what is in flight, and a report.
//!
//! # Panics
//!
//! Layers and services can be made anywhere. Calls need a tokio runtime with its timers
//! on (`enable_time` or `enable_all` of its builder, or `#[tokio::main]`): without, the
//! first call that waits for anything panics, in tokio.
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `retry` | yes | [`retry`] |
//! | `aimd` | yes | [`aimd`] |
//! | `circuit-breaker` | yes | [`circuit_breaker`] |
//! | `weir` | yes | [`Weir`], and the three above |
//! | `split` | yes | [`split`]: batches that are too large, or hold a bad item, in parts |
//! | `dead-letter` | yes | [`dead_letter`]: what is left of requests that finally failed |
//! | `dead-letter-file` | no | `dead_letter::file`: such letters in a file |
//! | `server` | yes | [`server`]: admission for axum and tonic servers |
//! | `failover` | yes | [`failover`]: several regions, the first that is up |
//! | `fallback` | yes | [`fallback`]: another answer for what has failed |
//! | `hyper` | yes | tells the errors of hyper, hyper-util and h2 apart |
//! | `idempotency` | no | `IdempotencyKey`: keys by which an upstream tells repetitions |
//! | `config` | no | `config`: every layer's settings from a file, and applied to layers that run |
//! | `json` | no | `split::json`: batches that are JSON |
//! | `tonic` | no | `RetryLayer::grpc()`, `Weir::grpc()`, and a `tonic::Status` within this crate's errors |
#![cfg_attr(
    not(all(feature = "weir", feature = "server")),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        unused_variables,
        reason = "what the layers share is not all used by each; with all of them it is"
    )
)]
#![warn(missing_docs)]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
pub mod admit;
#[cfg(feature = "aimd")]
pub mod aimd;
mod alarm;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
mod clock;
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub mod config;
#[cfg(feature = "dead-letter")]
pub mod dead_letter;
mod deadline;
pub mod error;
#[cfg(feature = "failover")]
pub mod failover;
#[cfg(feature = "fallback")]
pub mod fallback;
mod hosts;
pub mod observe;
pub mod outcome;
mod panics;
mod random;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "server")]
pub mod server;
pub mod shutdown;
#[cfg(feature = "split")]
pub mod split;
#[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
mod srtt;
#[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
mod sync;
#[cfg(feature = "retry")]
mod trust;
mod updates;
#[cfg(feature = "weir")]
pub mod weir;

#[cfg(feature = "weir")]
pub use self::weir::Weir;
pub use self::{deadline::Deadline, shutdown::Shutdown};

/// The error type that tower middleware shares.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The code of the README and of the book's pages, compiled.
#[cfg(all(doctest, feature = "weir", feature = "fallback", feature = "tonic"))]
mod book {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/circuit-breaker.md")]
    struct CircuitBreaker;
    #[doc = include_str!("../../../docs/compile-errors.md")]
    struct CompileErrors;
    #[doc = include_str!("../../../docs/concurrency-limit.md")]
    struct ConcurrencyLimit;
    #[doc = include_str!("../../../docs/fallback.md")]
    struct Fallback;
    #[doc = include_str!("../../../docs/observing.md")]
    struct Observing;
}
