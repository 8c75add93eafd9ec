//! One vocabulary for what becomes of an attempt.
//!
//! A result flows one way: [`Classify`] turns it into an [`Outcome`], and every
//! layer reads the same outcome its own way. An outcome answers three separate
//! questions: what the attempt says about the upstream ([`Verdict`]), whether
//! another may follow ([`Repeat`]), and whether the upstream may have acted on
//! it ([`Processed`]); and it carries the upstream's [`Hint`], if there is one.
//!
//! ```
//! use http::{Response, StatusCode};
//! use tower_weir::outcome::{Classify, HttpClassifier, Protocol, Refusal, Repeat, Verdict};
//!
//! let response = Response::builder()
//!     .status(StatusCode::TOO_MANY_REQUESTS)
//!     .header("retry-after", "2")
//!     .body(())?;
//! let outcome = HttpClassifier::new().classify(Protocol::Http, Ok(&response));
//! assert_eq!(outcome.verdict, Verdict::Refused(Refusal::Throttled));
//! assert_eq!(outcome.repeat, Repeat::Always);
//! assert_eq!(outcome.wait().unwrap().as_secs(), 2);
//! # Ok::<(), http::Error>(())
//! ```

mod classify;
mod code;
mod error;
mod fault;
mod grpc;
pub mod hint;
mod http;
mod protocol;
mod verdict;

#[cfg(feature = "dead-letter")]
pub(crate) use self::error::own_fault;
pub(crate) use self::{classify::judge, protocol::is_safe};
pub use self::{
    classify::{Classify, ClassifyFn, ErrorsFail, classify_fn},
    code::GrpcCode,
    fault::Fault,
    hint::{Hint, HintSource},
    http::HttpClassifier,
    protocol::{Idempotent, Protocol, is_safe_to_repeat},
    verdict::{Cause, Failure, Outcome, Processed, Refusal, Repeat, Verdict},
};
