//! tower middleware for upstreams that throttle, slow down or die.
#![warn(missing_docs)]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "aimd", feature = "circuit-breaker"))]
pub mod admit;
#[cfg(feature = "aimd")]
pub mod aimd;
mod alarm;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
mod deadline;
pub mod error;
mod observe;
pub mod outcome;
mod random;
#[cfg(feature = "retry")]
pub mod retry;

#[cfg(feature = "weir")]
pub mod weir;

pub use self::deadline::Deadline;
#[cfg(feature = "weir")]
pub use self::weir::Weir;

/// The error type that tower middleware shares.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
