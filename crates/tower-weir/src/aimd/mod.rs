//! A concurrency limit that finds the upstream's capacity.

mod config;
pub mod law;

pub use self::config::{Decrease, LawConfig};
