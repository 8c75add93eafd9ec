//! A circuit breaker: stop calling an upstream that is down, and find out when
//! it is back.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::circuit_breaker::{BreakerConfig, CircuitBreakerLayer, Ratio};
//! use tower_weir::error::CircuitOpen;
//! # let client = tower::service_fn(|_: http::Request<String>| async {
//! #     Ok::<_, tower_weir::BoxError>(http::Response::new(String::new()))
//! # });
//!
//! let config = BreakerConfig::default().failure_rate(Ratio::new(0.25)?);
//! let mut client = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::http().config(config))
//!     .service(client);
//!
//! let request = http::Request::get("http://index.internal/query").body(String::new())?;
//! match client.ready().await?.call(request).await {
//!     Ok(response) => println!("{}", response.status()),
//!     Err(error) if error.is::<CircuitOpen>() => println!("{error}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The circuit is **Closed** (admitting), **Open** (refusing) or **HalfOpen**
//! (probing). It opens when 15% of the calls in the last 5 minutes failed, out of
//! at least 100, or on 10 failures in a row over at least 2 s, which a busy host
//! need not wait for ([`FailureRun::sooner`]); stays open for 1 s, twice as long
//! after each failed probe, up to 15 s (2 s if the probe was refused); then lets one
//! call at a time through, and closes after two that succeed. All of it is in
//! [`BreakerConfig`].
//!
//! # What counts as a failure
//!
//! 5xx, connection errors, timeouts. An upstream that answers 429 lives, so it
//! does not count; 503 and UNAVAILABLE count only while nothing has succeeded on
//! the host for 10 s. Why: a limiter has throttling in hand, and with 429 and 503
//! in the rate, 16 clients on 4 slots kept opening their breakers and lost 71 to
//! 87% of their requests to them. [`CountRefusals`] sets it.
//!
//! # While it is open
//!
//! A call is refused at once with a [`CircuitOpen`](crate::error::CircuitOpen), or
//! waits its turn, or its service pends in `poll_ready`, which is what a balancer
//! wants of an endpoint that is down: see [`WhenOpen`].
//!
//! # What cannot move it
//!
//! Every call carries the epoch of its admission, and a result of another epoch
//! is dropped: a success from before the outage cannot close the circuit. Probes
//! are admitted in `call`, so a service that was polled ready and never called
//! holds none; one whose caller goes away frees its place; one that never ends is
//! replaced when its lease is over.
//!
//! # What to watch
//!
//! [`CircuitBreakerHandle::snapshot`], and the event
//! [`Circuit`](crate::observe::Event::Circuit): an outage has one line at INFO when
//! it opens the circuit and one when the circuit closes, with its probes at DEBUG
//! in between.

mod config;
mod gate;
mod handle;
mod layer;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod window;

#[cfg(feature = "weir")]
pub(crate) use self::gate::GateConfig;
pub use self::{
    config::{
        BreakerConfig, CountRefusals, FailureRun, InvalidOpenFor, InvalidRatio, InvalidWindow,
        OpenFor, Probes, Ratio, SlowCalls, Window,
    },
    state::{ChangeCause, Control, Snapshot, State, Transition},
    window::Counts,
};
pub use self::{
    gate::{Breaker, ManyHosts, WhenOpen},
    handle::CircuitBreakerHandle,
    layer::{CircuitBreaker, CircuitBreakerLayer},
};
