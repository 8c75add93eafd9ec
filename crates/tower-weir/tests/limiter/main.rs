//! The concurrency limiter through its layer, on paused time.
#![cfg(feature = "aimd")]

mod handle;
mod hosts;
mod rig;
mod waiters;
