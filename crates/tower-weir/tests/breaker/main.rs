//! The circuit breaker through its layers, on paused time.
#![cfg(feature = "weir")]

mod events;
mod layer;
mod pend;
mod rig;
mod transitions;
