use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AdmissionBody, Class, Reason, Rejected, ServerGate, answer::Answer, gate::LEAST_HOLD,
    linger::Linger, service::Shared,
};
use crate::{
    BoxError,
    admit::{HeldBody, Holding, Permit, Waiter},
    alarm::Alarm,
    error::ShuttingDown,
    outcome::{Classify, HttpClassifier, Outcome, Protocol, Verdict},
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
        state: State<S, B, S::Future, S::Error>,
        // Behind the state: whatever the inner service holds for the operation
        // must go before its place does. None for an exempt request.
        permit: Option<Permit<ServerGate>>,
        terms: Terms,
    }
}

/// What is known of an operation besides.
pub(super) struct Terms {
    pub(super) protocol: Protocol,
    pub(super) max_hold: Duration,
    /// Of one that may have to be rejected.
    pub(super) told: Option<Box<Told>>,
}

impl Terms {
    /// Of a request that passes without any admission.
    pub(super) const FREE: Self = Self {
        protocol: Protocol::Http,
        max_hold: Duration::ZERO,
        told: None,
    };

    fn presence(&mut self) -> Option<&mut Option<Presence>> {
        Some(&mut self.told.as_mut()?.presence)
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F, E> {
        Sent { #[pin] future: F },
        Unsent { line: Pin<Box<Line<S, B>>> },
        Failed { error: Option<E> },
        Rejected { error: Option<BoxError>, rest: Option<Pin<Box<Linger<B>>>> },
        Done,
    }
}

pin_project! {
    // A request that is not on its way: it waits for its turn, and then for the
    // inner service. On the heap, since most need not, and servers move and box
    // the future.
    struct Line<S, B> {
        waiter: Option<Waiter<ServerGate>>,
        since: Option<Instant>,
        #[pin]
        alarm: Alarm,
        inner: S,
        request: Option<Request<B>>,
    }
}

/// What it takes to answer a rejection.
pub(super) struct Told {
    shared: Arc<Shared>,
    class: Class,
    answer: Answer,
    /// Of an operation that is counted as in flight.
    presence: Option<Presence>,
}

impl<S, B> Line<S, B> {
    /// Waits for the turn, and lets the request know how long that took.
    fn poll_turn(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Permit<ServerGate>>, BoxError>> {
        let this = self.project();
        let Some(waiter) = this.waiter else {
            return Poll::Ready(Ok(None));
        };
        let turn = ready!(waiter.poll(this.alarm, cx));
        *this.waiter = None;
        let permit = turn?;
        let waited = permit.started().zip(*this.since);
        let waited = waited.map(|(at, since)| at.saturating_duration_since(since));
        if let Some(request) = this.request {
            let delayed = Delayed(waited.unwrap_or_default());
            request.extensions_mut().insert(delayed);
        }
        Poll::Ready(Ok(Some(permit)))
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>> + Clone,
    B: Body,
{
    /// A request that may go: one without a permit passes without any admission.
    ///
    /// It is sent at once if the inner service is ready. Its readiness is asked for
    /// after the permit has been granted, so that nobody queues with it. It is asked on
    /// behalf of no task: one that is not ready is given up, and another asked when the
    /// future is polled.
    #[inline]
    pub(super) fn send(
        inner: &mut S,
        request: Request<B>,
        permit: Option<Permit<ServerGate>>,
        terms: Terms,
    ) -> Self {
        match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            // Made in its place: it can be large.
            Poll::Ready(Ok(())) => Self {
                state: State::Sent {
                    future: inner.call(request),
                },
                permit,
                terms,
            },
            Poll::Ready(Err(error)) => Self {
                state: State::Failed { error: Some(error) },
                permit,
                terms,
            },
            Poll::Pending => {
                // The one that was asked may stand in a line, and would hold up those
                // behind it until this future is polled, if it ever is.
                *inner = inner.clone();
                Self::unsent(inner.clone(), request, None, permit, terms)
            }
        }
    }

    /// One that has to wait for its turn since `now`.
    #[cold]
    pub(super) fn wait(
        inner: &S,
        request: Request<B>,
        waiter: Waiter<ServerGate>,
        now: Instant,
        terms: Terms,
    ) -> Self {
        Self::unsent(inner.clone(), request, Some((waiter, now)), None, terms)
    }

    #[cold]
    fn unsent(
        inner: S,
        request: Request<B>,
        waits: Option<(Waiter<ServerGate>, Instant)>,
        permit: Option<Permit<ServerGate>>,
        terms: Terms,
    ) -> Self {
        let (waiter, since) = waits.unzip();
        let line = Line {
            waiter,
            since,
            alarm: Alarm::new(),
            inner,
            request: Some(request),
        };
        let line = Box::pin(line);
        Self {
            state: State::Unsent { line },
            permit,
            terms,
        }
    }

    #[cold]
    pub(super) fn reject(error: BoxError, request: Request<B>, terms: Terms) -> Self {
        Self {
            state: State::Rejected {
                error: Some(error),
                rest: Linger::over(request),
            },
            permit: None,
            terms,
        }
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.as_mut().project().terms.told {
            None => self.poll_answer(cx),
            Some(_) => self.poll_told(cx),
        }
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
    /// Polls an operation that did not go at once, or is counted as in flight.
    fn poll_told(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        match self.as_mut().project().terms.presence() {
            Some(Some(presence)) if presence.is_cut() => return self.poll_cut(cx),
            Some(Some(_)) => {}
            _ => return self.poll_answer(cx),
        }
        let polled = self.as_mut().poll_answer(cx);
        let Some(presence) = self.as_mut().project().terms.presence() else {
            return polled;
        };
        if let Poll::Ready(answer) = &polled {
            if let Some(presence) = presence.take() {
                presence.leave(became(answer));
            }
        } else if poll_cut(presence, cx).is_ready() {
            return self.poll_cut(cx);
        }
        polled
    }

    /// Rejects an operation that is here when the grace is over: as a new one,
    /// if it has not begun.
    fn poll_cut(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let mut this = self.as_mut().project();
        if let Some(presence) = this.terms.presence() {
            *presence = None;
        }
        let error = match this.state.as_mut().project() {
            StateProj::Unsent { .. } | StateProj::Failed { .. } => {
                Some(ShuttingDown::unsent("".into()).into())
            }
            StateProj::Rejected { error, .. } => error.take(),
            _ => Some(ShuttingDown::cut("".into(), 1, None).into()),
        };
        this.state.set(State::Rejected { error, rest: None });
        *this.permit = None;
        self.poll_answer(cx)
    }

    #[inline]
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Sent { future } => {
                    let result = ready!(future.poll(cx));
                    this.state.set(State::Done);
                    let permit = this.permit.take();
                    return Poll::Ready(result.map(|response| match permit {
                        Some(permit) => held(response, permit, this.terms),
                        None => response.map(AdmissionBody::free),
                    }));
                }
                StateProj::Unsent { line } => {
                    match ready!(line.as_mut().poll_turn(cx)) {
                        Ok(None) => {}
                        Ok(permit) => *this.permit = permit,
                        Err(error) => {
                            let request = line.as_mut().project().request.take();
                            let error = Some(error);
                            let rest = request.and_then(Linger::over);
                            this.state.set(State::Rejected { error, rest });
                            continue;
                        }
                    }
                    let line = line.as_mut().project();
                    if let Err(error) = ready!(line.inner.poll_ready(cx)) {
                        let error = Some(error);
                        this.state.set(State::Failed { error });
                        continue;
                    }
                    let Some(request) = line.request.take() else {
                        return Poll::Pending;
                    };
                    let future = line.inner.call(request);
                    this.state.set(State::Sent { future });
                }
                StateProj::Failed { error } => {
                    let Some(error) = error.take() else {
                        return Poll::Pending;
                    };
                    *this.permit = None;
                    return Poll::Ready(Err(error));
                }
                StateProj::Rejected { error, rest } => {
                    if let Some(rest) = rest {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let (Some(error), Some(told)) = (error.take(), &this.terms.told) else {
                        return Poll::Pending;
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Ok(told.response(error)));
                }
                // It was polled after it had completed.
                StateProj::Done => return Poll::Pending,
            }
        }
    }
}

impl Told {
    pub(super) fn new(
        shared: &Arc<Shared>,
        class: Class,
        headers: &HeaderMap,
        presence: Option<Presence>,
    ) -> Self {
        Self {
            presence,
            shared: shared.clone(),
            class,
            answer: Answer::to(headers, shared.settings.rate_limit_headers),
        }
    }

    fn response<R>(&self, error: BoxError) -> Response<AdmissionBody<R>> {
        let rejected: Rejected = self.shared.rejected(error, self.class.name());
        self.answer.response(rejected).map(AdmissionBody::rejected)
    }
}

/// Keeps the operation pending until its response's body ends.
#[inline]
fn held<R: Body>(
    response: Response<R>,
    mut permit: Permit<ServerGate>,
    terms: &Terms,
) -> Response<AdmissionBody<R>> {
    let (now, protocol, max_hold) = (Instant::now(), terms.protocol, terms.max_hold);
    let classifier = HttpClassifier::new();
    // Nearly always; what else a classifier finds out of it, no server asks for.
    let outcome = match protocol == Protocol::Http && response.status().is_success() {
        true => Outcome::success(),
        false => classifier.classify(protocol, Ok(&response)),
    };
    let (head, body) = response.into_parts();
    let body = if body.is_end_stream() || max_hold.is_zero() {
        permit.settle(outcome, now);
        AdmissionBody::free(body)
    } else {
        if outcome.verdict == Verdict::Success && max_hold >= LEAST_HOLD {
            permit.head(now);
        } else {
            permit.hold(outcome, now, max_hold);
        }
        let held = Holding {
            permit,
            protocol,
            classifier,
        };
        AdmissionBody::held(HeldBody::new(body, Some(held)))
    };
    Response::from_parts(head, body)
}
