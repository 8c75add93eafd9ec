use http::HeaderMap;

use super::{Fault, Outcome, Protocol, error};
use crate::BoxError;

/// Turns the result of an attempt into an [`Outcome`].
///
/// The default for HTTP and gRPC is [`HttpClassifier`](super::HttpClassifier).
/// For anything else, or to overrule it, make one from a closure with
/// [`classify_fn`]. What this crate's own layers refuse is judged before a
/// classifier is asked: it says nothing about the upstream.
///
/// Limiter and breaker clone their classifier for every call: what is large in it
/// belongs behind an [`Arc`](std::sync::Arc).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not judge results of the type `{Res}`",
    label = "the classifier of this stack does not know such results",
    note = "`classify_fn` makes a classifier of a closure over one type of result",
    note = "over HTTP implement `Classify<http::Response<B>>` for every `B`: each layer has a body of its own"
)]
pub trait Classify<Res> {
    /// Judges a result. `protocol` is that of the request.
    fn classify(&self, protocol: Protocol, result: Result<&Res, &BoxError>) -> Outcome;

    /// Judges the trailers of a response whose head was a success; `None`
    /// leaves the head's outcome standing. The head has reached the caller by
    /// then, so that [`Outcome::repeat`] has no effect here.
    fn classify_trailers(&self, protocol: Protocol, trailers: &HeaderMap) -> Option<Outcome> {
        let _ = (protocol, trailers);
        None
    }
}

/// Makes a classifier from a closure over the result.
///
/// ```
/// use tower_weir::{BoxError, outcome::{Outcome, classify_fn}};
///
/// // A service that answers with a number: negative means "busy".
/// let classifier = classify_fn(|result: Result<&i64, &BoxError>| match result {
///     Ok(n) if *n < 0 => Outcome::throttled(),
///     Ok(_) => Outcome::success(),
///     Err(_) => Outcome::failed(),
/// });
/// # let _ = classifier;
/// ```
pub fn classify_fn<Res, F>(f: F) -> ClassifyFn<F>
where
    F: Fn(Result<&Res, &BoxError>) -> Outcome,
{
    ClassifyFn(f)
}

/// A classifier made by [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F>(F);

impl<F> std::fmt::Debug for ClassifyFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClassifyFn")
    }
}

impl<Res, F> Classify<Res> for ClassifyFn<F>
where
    F: Fn(Result<&Res, &BoxError>) -> Outcome,
{
    fn classify(&self, _: Protocol, result: Result<&Res, &BoxError>) -> Outcome {
        (self.0)(result)
    }
}

/// Asks the classifier, unless the result is one of this crate's own errors.
pub(crate) fn judge<Res, C: Classify<Res>>(
    classifier: &C,
    protocol: Protocol,
    result: Result<&Res, &BoxError>,
) -> Outcome {
    if let Err(error) = result
        && let Some(fault) = error::own_fault(error.as_ref())
    {
        return fault.outcome(protocol);
    }
    classifier.classify(protocol, result)
}

/// The classifier for services that know only success and failure: `Ok` is a
/// success, `Err` a failure that may be repeated if that is safe.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsFail;

impl<Res> Classify<Res> for ErrorsFail {
    fn classify(&self, protocol: Protocol, result: Result<&Res, &BoxError>) -> Outcome {
        match result {
            Ok(_) => Outcome::success(),
            Err(error) => Fault::of(error.as_ref()).outcome(protocol),
        }
    }
}
