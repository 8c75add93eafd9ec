//! tower middleware for upstreams that throttle, slow down or die.
#![warn(missing_docs)]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "aimd")]
pub mod aimd;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
pub mod outcome;
#[cfg(feature = "retry")]
mod random;
#[cfg(feature = "retry")]
pub mod retry;

/// The error type that tower middleware shares.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
