use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AdmissionBody, Class, Reason, Rejected, ServerGate, answer::Answer, linger::Linger,
    service::Shared,
};
use crate::{
    BoxError,
    admit::{Entered, HeldBody, Holding, Permit, Waiter},
    alarm::Alarm,
    error::ShuttingDown,
    outcome::{Classify, HttpClassifier},
    shutdown::{Presence, Tally, poll_cut},
};

/// A request extension: how long the operation was delayed before its turn
/// came. One that ran at once has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed(pub Duration);

pin_project! {
    /// The future of an [`Admission`](super::Admission)'s answer. Dropping it
    /// leaves the queue at once.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
        shared: Arc<Shared>,
        // What it takes to answer a rejection; nothing for an exempt request.
        told: Option<(Class, Answer)>,
        presence: Option<Presence>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F> {
        Waiting { place: Pin<Box<Place>>, call: Option<(S, Request<B>)> },
        Admitted { permit: Option<Permit<ServerGate>>, call: Option<(S, Request<B>)> },
        Sent { #[pin] future: F, permit: Option<Permit<ServerGate>> },
        Rejected { error: Option<BoxError>, rest: Option<Pin<Box<Linger<B>>>> },
        Done,
    }
}

pin_project! {
    // A place in the queue, and the timer for it. On the heap, since most
    // operations need none, and servers move and box the future.
    struct Place {
        waiter: Waiter<ServerGate>,
        since: Instant,
        #[pin]
        alarm: Alarm,
    }
}

impl Place {
    /// Waits for the turn; tells how long that took, too.
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Permit<ServerGate>, Delayed), BoxError>> {
        let this = self.project();
        let turn = ready!(this.waiter.poll(this.alarm, cx));
        Poll::Ready(turn.map(|permit| {
            let delay = permit.started().map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(*this.since)
            });
            (permit, Delayed(delay))
        }))
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    B: Body,
{
    /// A request that passes without any admission.
    pub(super) fn free(shared: &Arc<Shared>, inner: S, request: Request<B>) -> Self {
        let call = Some((inner, request));
        Self {
            state: State::Admitted { permit: None, call },
            shared: shared.clone(),
            told: None,
            presence: None,
        }
    }

    pub(super) fn entered(
        shared: &Arc<Shared>,
        class: Class,
        answer: Answer,
        inner: S,
        request: Request<B>,
        entered: Result<Entered<ServerGate>, BoxError>,
        now: Instant,
    ) -> Self {
        let state = match entered {
            Ok(Entered::Admitted(permit)) => State::Admitted {
                permit: Some(permit),
                call: Some((inner, request)),
            },
            Ok(Entered::Waiting(waiter)) => {
                let place = Box::pin(Place {
                    waiter,
                    since: now,
                    alarm: Alarm::new(),
                });
                let call = Some((inner, request));
                State::Waiting { place, call }
            }
            Err(error) => State::Rejected {
                error: Some(error),
                rest: Linger::over(request),
            },
        };
        Self {
            state,
            shared: shared.clone(),
            told: Some((class, answer)),
            presence: None,
        }
    }

    pub(super) fn counted(mut self, presence: Option<Presence>) -> Self {
        self.presence = presence;
        self
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<AdmissionBody<R>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if this.presence.as_ref().is_some_and(Presence::is_cut) {
            return self.poll_cut(cx);
        }
        let polled = self.as_mut().poll_answer(cx);
        let presence = self.as_mut().project().presence;
        if let Poll::Ready(answer) = &polled {
            if let Some(presence) = presence.take() {
                presence.leave(became(answer));
            }
        } else if poll_cut(presence, cx).is_ready() {
            return self.poll_cut(cx);
        }
        polled
    }
}

/// Who was rejected for the shutdown's sake had waited for its turn, if it was
/// counted in.
fn became<B, E>(answer: &Result<Response<B>, E>) -> Tally {
    let rejected = |answer: &Response<B>| {
        let rejected = answer.extensions().get::<Rejected>();
        rejected.is_some_and(|rejected| rejected.reason() == Reason::ShuttingDown)
    };
    match answer.as_ref().is_ok_and(rejected) {
        true => Tally::Queued,
        false => Tally::Finished,
    }
}

impl<S, B, R> ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body,
    R: Body<Data = Bytes>,
{
    /// Rejects an operation that is here when the grace is over: as a new one,
    /// if it has not begun.
    fn poll_cut(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let mut this = self.as_mut().project();
        *this.presence = None;
        let error = match this.state.as_mut().project() {
            StateProj::Waiting { .. } | StateProj::Admitted { call: Some(_), .. } => {
                Some(ShuttingDown::unsent("".into()).into())
            }
            StateProj::Rejected { error, .. } => error.take(),
            _ => Some(ShuttingDown::cut("".into(), 1, None).into()),
        };
        this.state.set(State::Rejected { error, rest: None });
        self.poll_answer(cx)
    }

    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { place, call } => {
                    let next = match ready!(place.as_mut().poll(cx)) {
                        Ok((permit, delayed)) => {
                            let mut call = call.take();
                            if let Some((_, request)) = &mut call {
                                request.extensions_mut().insert(delayed);
                            }
                            let permit = Some(permit);
                            State::Admitted { permit, call }
                        }
                        Err(error) => State::Rejected {
                            error: Some(error),
                            rest: call.take().and_then(|(_, request)| Linger::over(request)),
                        },
                    };
                    this.state.set(next);
                }
                StateProj::Admitted { permit, call } => {
                    let Some((inner, _)) = call else {
                        return Poll::Pending;
                    };
                    if let Err(error) = ready!(inner.poll_ready(cx)) {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    let Some((mut inner, request)) = call.take() else {
                        return Poll::Pending;
                    };
                    let future = inner.call(request);
                    let permit = permit.take();
                    this.state.set(State::Sent { future, permit });
                }
                StateProj::Sent { future, permit } => {
                    let result = ready!(future.poll(cx));
                    let permit = permit.take();
                    // Whatever the inner service holds for the operation goes
                    // before its place does, or there could be one too many.
                    this.state.set(State::Done);
                    let told = this.told.take();
                    let hold = this.shared.settings.max_hold;
                    return Poll::Ready(result.map(|response| match (permit, told) {
                        (Some(permit), Some((_, answer))) => held(response, permit, &answer, hold),
                        _ => response.map(|body| AdmissionBody::passed(HeldBody::new(body, None))),
                    }));
                }
                StateProj::Rejected { error, rest } => {
                    if let Some(rest) = rest {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let (Some(error), Some((class, answer))) = (error.take(), this.told.take())
                    else {
                        return Poll::Pending;
                    };
                    let rejected: Rejected = this.shared.rejected(error, class.name());
                    this.state.set(State::Done);
                    let response = answer.response(rejected);
                    return Poll::Ready(Ok(response.map(AdmissionBody::rejected)));
                }
                // It was polled after it had completed.
                StateProj::Done => return Poll::Pending,
            }
        }
    }
}

/// Keeps the operation pending until its response's body ends.
fn held<R: Body>(
    response: Response<R>,
    mut permit: Permit<ServerGate>,
    answer: &Answer,
    max_hold: Duration,
) -> Response<AdmissionBody<R>> {
    let (now, protocol) = (Instant::now(), answer.protocol());
    let classifier = HttpClassifier::new();
    let outcome = classifier.classify(protocol, Ok(&response));
    let (head, body) = response.into_parts();
    let held = if body.is_end_stream() || max_hold.is_zero() {
        permit.settle(outcome, now);
        None
    } else {
        permit.hold(outcome, now, max_hold);
        Some(Holding {
            permit,
            protocol,
            classifier,
        })
    };
    let body = AdmissionBody::passed(HeldBody::new(body, held));
    Response::from_parts(head, body)
}
