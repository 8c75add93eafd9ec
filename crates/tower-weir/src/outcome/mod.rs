//! One vocabulary for what becomes of an attempt.

mod code;
mod fault;
pub mod hint;
mod verdict;

pub use self::{
    code::GrpcCode,
    fault::Fault,
    hint::{Hint, HintSource},
    verdict::{Cause, Failure, Outcome, Processed, Refusal, Repeat, Verdict},
};
