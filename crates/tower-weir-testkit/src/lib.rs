//! Servers that throttle, slow down and die.
//!
//! What a client's middleware must live with, made on the loopback by real
//! servers, so that tests meet real errors and examples have something to run
//! against:
//!
//! - [`fault`]: a server with one fault, from a refused connection to a body
//!   that is cut off;
//! - [`upstream`]: a server that throttles, slows down and dies by a script, and
//!   counts what reaches it;
//! - [`probe`]: a service that watches whether it is used as tower's contract
//!   asks, and futures dropped at every poll;
//! - [`sim`]: limiters in front of a model of a server, by discrete events;
//! - [`plot`]: drawings of limits and slots over time.

pub mod fault;
mod net;
pub mod plot;
pub mod probe;
pub mod sim;
#[cfg(test)]
mod testing;
pub mod upstream;

/// The `VectorIndex` service of `proto/vector_index.proto`: client, server and
/// messages, as tonic generates them.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated code")]
    tonic::include_proto!("tower_weir.testkit.v1");
}
