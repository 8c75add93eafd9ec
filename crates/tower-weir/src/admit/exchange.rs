use std::borrow::Cow;

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{
    Hold, Priority, Weight,
    body::{HeldBody, Holding},
    gate::{Gate, sealed::Sealed},
    permit::Permit,
};
use crate::{
    BoxError, Deadline,
    hosts::host_of,
    outcome::{Classify, HttpClassifier, Outcome, Protocol, Repeat, Verdict, judge},
};

/// What a service's requests and answers are to the admission: HTTP, where a
/// call lasts until its response body ends, or plain values.
///
/// Sealed: [`Http`] and [`Plain`] are the two there are.
pub trait Exchange<Req, Res>: Sealed + Clone + Send + Sync + 'static {
    /// What the caller gets for an answer.
    #[doc(hidden)]
    type Response<G: Gate>;

    /// The host that a request is for, if it says.
    #[doc(hidden)]
    fn host<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>>;

    #[doc(hidden)]
    fn describe(&self, request: &Req) -> Facts;

    #[doc(hidden)]
    fn judge(&self, protocol: Protocol, result: Result<&Res, &BoxError>) -> Outcome;

    /// Hands the answer on. With a permit, the call goes on with the body.
    #[doc(hidden)]
    fn answer<G: Gate>(
        &self,
        response: Res,
        admitted: Option<Admitted<'_, G>>,
    ) -> Self::Response<G>;
}

/// What the admission wants to know of a request.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Facts {
    pub protocol: Protocol,
    pub deadline: Option<Instant>,
    pub hold: Option<Hold>,
    pub priority: Priority,
    pub weight: Option<Weight>,
}

/// A call whose answer has come.
#[doc(hidden)]
pub struct Admitted<'a, G: Gate> {
    /// There is one: where it is kept, and can stay if it settles now.
    pub(super) permit: &'a mut Option<Permit<G>>,
    pub(super) outcome: Outcome,
    pub(super) protocol: Protocol,
    pub(super) now: Instant,
    pub(super) hold: Hold,
}

/// HTTP and gRPC, told apart by each request's content type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http<C = HttpClassifier> {
    classifier: C,
    protocol: Option<Protocol>,
}

impl<C> Http<C> {
    pub(crate) const fn new(classifier: C) -> Self {
        Self {
            classifier,
            protocol: None,
        }
    }

    /// The same for answers that `classifier` judges.
    pub(crate) fn classify<D>(&self, classifier: D) -> Http<D> {
        Http {
            classifier,
            protocol: self.protocol,
        }
    }

    /// Takes every request for one of `protocol`.
    pub(crate) fn only(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl<C> Sealed for Http<C> {}

impl<B, R, C> Exchange<Request<B>, Response<R>> for Http<C>
where
    R: Body,
    C: Classify<Response<R>> + Clone + Send + Sync + 'static,
{
    type Response<G: Gate> = Response<HeldBody<R, G, C>>;

    fn host<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        host_of(request.uri(), request.headers())
    }

    #[inline]
    fn describe(&self, request: &Request<B>) -> Facts {
        let extensions = request.extensions();
        Facts {
            protocol: self
                .protocol
                .unwrap_or_else(|| Protocol::of(request.headers())),
            deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
            hold: extensions.get::<Hold>().copied(),
            priority: extensions.get::<Priority>().copied().unwrap_or_default(),
            weight: extensions.get::<Weight>().copied(),
        }
    }

    fn judge(&self, protocol: Protocol, result: Result<&Response<R>, &BoxError>) -> Outcome {
        judge(&self.classifier, protocol, result)
    }

    fn answer<G: Gate>(
        &self,
        response: Response<R>,
        admitted: Option<Admitted<'_, G>>,
    ) -> Self::Response<G> {
        let (head, body) = response.into_parts();
        let held = admitted.and_then(|admitted| {
            let Admitted {
                permit: place,
                outcome,
                protocol,
                now,
                hold,
            } = admitted;
            let permit = place.as_mut()?;
            // An answer that will be thrown away for another attempt must hold
            // no slot while it is drained.
            let good = outcome.verdict == Verdict::Success && outcome.repeat == Repeat::Never;
            if hold == Hold::BodyEnd && good && !body.is_end_stream() {
                permit.hold(outcome, now, permit.knobs().max_hold());
                return Some(Holding {
                    permit: place.take()?,
                    protocol,
                    classifier: self.classifier.clone(),
                });
            }
            permit.answered(outcome, now);
            None
        });
        Response::from_parts(head, HeldBody::new(body, held))
    }
}

/// Plain values: a call ends with its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain<C> {
    classifier: C,
}

impl<C> Plain<C> {
    pub(crate) const fn new(classifier: C) -> Self {
        Self { classifier }
    }
}

impl<C> Sealed for Plain<C> {}

impl<Req, Res, C> Exchange<Req, Res> for Plain<C>
where
    C: Classify<Res> + Clone + Send + Sync + 'static,
{
    type Response<G: Gate> = Res;

    fn host<'a>(&self, _: &'a Req) -> Option<Cow<'a, str>> {
        None
    }

    #[inline]
    fn describe(&self, _: &Req) -> Facts {
        Facts::default()
    }

    fn judge(&self, protocol: Protocol, result: Result<&Res, &BoxError>) -> Outcome {
        judge(&self.classifier, protocol, result)
    }

    #[inline]
    fn answer<G: Gate>(&self, response: Res, admitted: Option<Admitted<'_, G>>) -> Res {
        if let Some(admitted) = admitted
            && let Some(permit) = admitted.permit
        {
            permit.answered(admitted.outcome, admitted.now);
        }
        response
    }
}
