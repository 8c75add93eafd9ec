//! Integration tests: real servers on port 0 of the loopback.
//!
//! What the tests share is here: a server that answers as a closure says, the
//! clients, programs that are watched, a circuit that stays open, and ways to wait
//! for what is bound to come. The tests of the examples use it too.
#![forbid(unsafe_code)]

pub mod circuit;
pub mod client;
pub mod early;
pub mod nginx;
pub mod program;
pub mod python;
pub mod script;
pub mod wait;

pub use tower_weir::BoxError;
