//! The circuit breaker through its layers, on paused time.
#![cfg(feature = "weir")]

mod crowd;
mod events;
mod goodput;
mod layer;
mod outage;
mod pend;
mod rig;
mod server;
mod transitions;
