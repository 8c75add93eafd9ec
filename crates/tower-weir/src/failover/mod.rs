//! Several regions, and each request to the first of them that is up.
//!
//! ```
//! # #[cfg(all(feature = "weir", feature = "failover"))]
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use std::time::Duration;
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Layer, Service, ServiceExt};
//! use tower_weir::{Weir, failover::{AnsweredBy, Failover, Origin, Region}};
//!
//! let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! // A stack for each, with a budget, a circuit and a limit of its own.
//! let stack = || {
//!     let weir = Weir::http().max_retries(1).queue_timeout(Duration::from_secs(1));
//!     weir.layer(client.clone())
//! };
//! let mut client = Failover::http([
//!     Region::new("eu", stack()).at(Origin::new("http://eu.index.internal")?),
//!     Region::new("us", stack()).at(Origin::new("http://us.index.internal")?),
//! ])?
//! .deadline(Duration::from_secs(10));
//!
//! let request = http::Request::get("http://index.internal/query").body(Full::<Bytes>::default())?;
//! let response = client.ready().await?.call(request).await?;
//! if let Some(by) = response.extensions().get::<AnsweredBy>() {
//!     println!("{} answered", by.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # One request
//!
//! A request goes to the most preferred region that is up. If that one refuses
//! it or fails, the request goes to the next one at once, as long as the rules of
//! repetition let it, those of [`retry`](crate::retry): what no region may have
//! acted on always; what one may have acted on only if the request is safe to
//! repeat (an idempotent method, an `Idempotency-Key`, the
//! [`Idempotent`](crate::outcome::Idempotent) extension,
//! [`any_method`](Failover::any_method)), or ended as gRPC repeats any method
//! after (UNAVAILABLE). All attempts count, also those that a region's own
//! retries made: a timeout that is followed by an open circuit may have been
//! processed, and a POST stays where it is then.
//!
//! Its body is recorded once for all regions, in bounded memory, and played
//! again. Its deadline is one for all of them. With
//! [`NoRetry`](crate::retry::NoRetry) it goes on only if nothing was sent.
//!
//! A key that the retries of one region give
//! (`RetryPolicy::idempotency_key`) is not known to the other: put the key on the
//! request before it comes here, and only if the regions share what they know of
//! keys.
//!
//! # A region that is down
//!
//! It goes down with a [run](Failover::failures) of failures, with a
//! [run](Failover::refusals) of refusals, or at once when its stack refuses
//! everything: its circuit is open, or it is being drained. While it is down it
//! gets one request [a period](Failover::probe_every) as a probe, one that can go
//! elsewhere if there is any, and it is up again after
//! [so many](Failover::successes) good ones in a row and
//! [a least time](Failover::min_down). Probes go to regions that are preferred to
//! the one in use; others are tried when they are needed.
//!
//! If no region is up, every request tries all of them, the one first that was
//! not tried for the longest time. The caller then gets the last result that came
//! from an upstream, or, if all was refused on the way, the last refusal. Nothing
//! waits for a region to come back. An answer that came while the request was still
//! being sent is such a result only if nothing follows its head: the next region has
//! the body then, and the rest of the answer may not come.
//!
//! # The regions' stacks
//!
//! - Each is a stack of its own, made by its own layer value: `Weir::http()`
//!   once for each region, not one value cloned. Then budgets, circuits and
//!   limits are independent.
//! - They should refuse rather than wait, or a request waits where it is while
//!   another region could serve it: `max_retries(1)` or 2, a short
//!   [`queue_timeout`](crate::Weir::queue_timeout) (a limiter that has shrunk in an
//!   outage has a long queue), and not [`Weir::bulk`](crate::Weir::bulk), which
//!   waits for an open circuit.
//! - A hung region is noticed by timeouts: set
//!   [`attempt_timeout`](crate::Weir::attempt_timeout).
//! - They have one type. Where they differ, put each into a
//!   [box](Region::boxed), over one type of request body
//!   ([`map_body`](Failover::map_body); `Failover::grpc` has one already).
//!
//! # Readiness
//!
//! [`poll_ready`](tower_service::Service::poll_ready) is ready when the region
//! that the next request goes to is. A region that is not ready does not block
//! the others: the next one that is takes the request. To have calls wait
//! instead, put a queue into the region's stack, as `Weir` does, which is always
//! ready. Only one region's service is ever kept ready, and that is the one that
//! is called.
//!
//! # What tells of it
//!
//! The answer carries [`AnsweredBy`]. The [handle](Failover::handle) tells where
//! each region stands, and can [prefer](FailoverHandle::prefer) or
//! [pin](FailoverHandle::pin) one by hand. Events:
//! [`Region`](crate::observe::Event::Region) and
//! [`Elsewhere`](crate::observe::Event::Elsewhere).
//!
//! A gRPC status that comes after headers, in trailers, is too late for another
//! region; the region's circuit counts it all the same.

mod board;
mod boxed;
mod core;
mod down;
mod future;
mod handle;
mod journey;
mod leg;
mod origin;
mod policy;
mod region;
mod rules;
mod service;
mod shared;
mod slot;
mod verdict;

pub use self::{
    boxed::BoxStack,
    down::{AnsweredBy, DownCause, RegionChange},
    future::ResponseFuture,
    handle::{FailoverHandle, FailoverSnapshot, RegionCounts, RegionSnapshot},
    origin::{InvalidOrigin, Origin},
    region::{InvalidRegions, Region},
    rules::Run,
    service::Failover,
};
