//! Integration tests: real servers on port 0 of the loopback.
//!
//! What the tests share is here: a server that answers as a closure says, the
//! clients, a circuit that stays open, and ways to wait for what is bound to come.
#![forbid(unsafe_code)]

pub mod circuit;
pub mod client;
pub mod early;
pub mod nginx;
pub mod python;
pub mod script;
pub mod wait;

pub use tower_weir::BoxError;
