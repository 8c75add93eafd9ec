//! The whole stack as one layer.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::Weir;
//! # let client = tower::service_fn(
//! #     |_: http::Request<tower_weir::retry::ReplayBody<String>>| async {
//! #         Ok::<_, tower_weir::BoxError>(http::Response::new(String::new()))
//! #     },
//! # );
//!
//! // For a caller who waits for an answer:
//! let stack = Weir::http().deadline(Duration::from_secs(5));
//! // For work that must all be done, and may take its time:
//! let bulk = Weir::http().bulk().ceiling(64);
//!
//! let mut client = ServiceBuilder::new().layer(bulk.clone()).service(client);
//! let request = http::Request::put("http://index.internal/1").body(String::new())?;
//! let response = client.ready().await?.call(request).await?;
//! for host in bulk.snapshot() {
//!     println!("{}: {:?}", host.host, host.limiter);
//! }
//! # drop((stack, response));
//! # Ok(())
//! # }
//! ```
//!
//! The order is retry, breaker, limiter, client, from the outside in; breaker and
//! limiter are two gates of one admission, so that an open circuit refuses at
//! once, a queue does not outlive the trip, and a probe does not wait in it.

mod gate;
mod handle;
mod layer;
#[cfg(all(test, feature = "config"))]
mod tests;

pub use self::{
    gate::Joined,
    handle::{HostSnapshot, WeirHandle},
    layer::{Weir, WeirService},
};
