//! One handle that ends a whole stack, on paused time.
#![cfg(feature = "weir")]

mod bodies;
mod crowd;
mod drain;
mod layers;
mod letters;
mod rig;
mod server;
mod waits;
