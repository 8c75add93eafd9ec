//! Letters of requests that finally failed, on paused time.
#![cfg(all(feature = "dead-letter", feature = "weir"))]

mod bodies;
mod cancel;
mod letters;
mod sinks;
mod strict;
mod support;
