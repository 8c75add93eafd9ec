//! Admission on the server's side, over plain services and on paused time.
#![cfg(feature = "server")]

mod admission;
mod bodies;
mod edges;
mod faults;
mod support;
