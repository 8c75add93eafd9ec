use crate::{
    BoxError,
    outcome::{Classify, Fault, Outcome, Protocol},
};

/// The classifier for clients that tonic generates: every answer is a success,
/// and an error goes by the code of its `tonic::Status`, or by what it wraps.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusErrors;

impl<Res> Classify<Res> for StatusErrors {
    fn classify(&self, protocol: Protocol, result: Result<&Res, &BoxError>) -> Outcome {
        match result {
            Ok(_) => Outcome::success(),
            Err(error) => Fault::classify(error.as_ref(), protocol),
        }
    }
}
