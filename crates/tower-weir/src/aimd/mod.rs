//! A concurrency limit that finds the upstream's capacity.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::aimd::AimdConcurrencyLayer;
//! # let client = tower::service_fn(|_: http::Request<String>| async {
//! #     Ok::<_, tower_weir::BoxError>(http::Response::new(String::new()))
//! # });
//!
//! let mut client = ServiceBuilder::new()
//!     .layer(AimdConcurrencyLayer::http().ceiling(64))
//!     .service(client);
//!
//! let request = http::Request::get("http://index.internal/query").body(String::new())?;
//! let response = client.ready().await?.call(request).await?;
//! # drop(response);
//! # Ok(())
//! # }
//! ```
//!
//! # Why
//!
//! A server has so many slots, and how many nobody tells its clients; it changes
//! when a replica joins or a neighbour gets busy. A client that sends more gets
//! refusals, and load that the server spends on refusing; one that sends less
//! leaves slots idle. Additive increase, measured decrease finds the number: it
//! doubles each round trip until the first refusal, falls on a refusal by as much as
//! the refusals say, and then goes up by one after a streak of successes. The [law]
//! is pure code, with its constants argued.
//!
//! What else it takes to be gentle: a slot whose call was refused *cools* for
//! about a round trip, since a refusal comes back in no time and would be
//! followed by the next one; refusals of calls that were in flight together count
//! as one event; growth needs successes that were sent while the limit was in the
//! way, so an idle client's limit stays where it is.
//!
//! # When it misbehaves
//!
//! A server that answers 503 at random, for reasons other than load, costs
//! throughput: only 429, 503, RESOURCE_EXHAUSTED, UNAVAILABLE and HTTP/2's
//! ENHANCE_YOUR_CALM lower the limit, but those do. A server that queues without
//! end instead of refusing is filled up to the ceiling: set
//! [`ceiling`](AimdConcurrencyLayer::ceiling) to what you would grant it.
//!
//! # What to watch
//!
//! [`snapshot`](AimdConcurrencyLayer::snapshot): a limit that sits at the ceiling
//! while calls wait says that the ceiling is too low; many cooling slots, that
//! the upstream refuses. The first refusal of a host is logged at INFO, each
//! change of a limit at DEBUG.

mod config;
mod gate;
mod handle;
pub mod law;
mod layer;
#[cfg(test)]
mod tests;

pub use self::config::{Decrease, LatencySignal, LawConfig};
pub(crate) use self::gate::LimiterConfig;
pub use self::{
    gate::{LastDecrease, Limiter, LimiterSnapshot},
    handle::AimdHandle,
    layer::{AimdConcurrency, AimdConcurrencyLayer},
};
