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
    AdmissionBody, Class, Reason, Rejected, ServerGate,
    answer::Answer,
    linger::Linger,
    pass::{Pass, Terms},
    service::Shared,
};
use crate::{
    BoxError,
    admit::{Granted, Waiter},
    alarm::Alarm,
    error::ShuttingDown,
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
        pass: Option<Pass>,
        // Of one that may have to be rejected.
        told: Option<Box<Told>>,
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
        turn: Option<Turn>,
        #[pin]
        alarm: Alarm,
        inner: S,
        request: Option<Request<B>>,
    }
}

/// That of an operation that has to wait for it.
pub(super) struct Turn {
    pub(super) waiter: Waiter<ServerGate>,
    pub(super) since: Instant,
    pub(super) terms: Terms,
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
    ) -> Poll<Result<Option<Pass>, BoxError>> {
        let this = self.project();
        let Some(Turn { waiter, .. }) = this.turn else {
            return Poll::Ready(Ok(None));
        };
        let granted = ready!(waiter.poll(this.alarm, cx));
        let Some(Turn { since, terms, .. }) = this.turn.take() else {
            return Poll::Ready(Ok(None));
        };
        let granted: Granted<_> = granted?;
        let at = granted.at;
        let pass = Pass::new(granted, terms);
        let waited = at.map(|at| at.saturating_duration_since(since));
        if let Some(request) = this.request {
            let delayed = Delayed(waited.unwrap_or_default());
            request.extensions_mut().insert(delayed);
        }
        Poll::Ready(Ok(Some(pass)))
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>> + Clone,
    B: Body,
{
    /// A request that may go: one without a pass goes without any admission.
    ///
    /// It is sent at once if the inner service is ready. Its readiness is asked for
    /// after the pass has been granted, so that nobody queues with it. It is asked on
    /// behalf of no task: one that is not ready is given up, and another asked when the
    /// future is polled.
    #[inline]
    pub(super) fn send(
        inner: &mut S,
        request: Request<B>,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    ) -> Self {
        match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            // Made in its place: it can be large.
            Poll::Ready(Ok(())) => Self {
                state: State::Sent {
                    future: inner.call(request),
                },
                pass,
                told,
            },
            Poll::Ready(Err(error)) => Self {
                state: State::Failed { error: Some(error) },
                pass,
                told,
            },
            Poll::Pending => {
                // The one that was asked may stand in a line, and would hold up those
                // behind it until this future is polled, if it ever is.
                *inner = inner.clone();
                Self::unsent(inner.clone(), request, None, pass, told)
            }
        }
    }

    /// One that has to wait for its turn.
    #[cold]
    pub(super) fn wait(
        inner: &S,
        request: Request<B>,
        turn: Turn,
        told: Option<Box<Told>>,
    ) -> Self {
        Self::unsent(inner.clone(), request, Some(turn), None, told)
    }

    #[cold]
    fn unsent(
        inner: S,
        request: Request<B>,
        turn: Option<Turn>,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    ) -> Self {
        let line = Line {
            turn,
            alarm: Alarm::new(),
            inner,
            request: Some(request),
        };
        let line = Box::pin(line);
        Self {
            state: State::Unsent { line },
            pass,
            told,
        }
    }

    #[cold]
    pub(super) fn reject(error: BoxError, request: Request<B>, told: Option<Box<Told>>) -> Self {
        Self {
            state: State::Rejected {
                error: Some(error),
                rest: Linger::over(request),
            },
            pass: None,
            told,
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
        match self.as_mut().project().told {
            None => self.poll_answer(cx),
            Some(_) => self.poll_told(cx),
        }
    }
}

fn presence(told: &mut Option<Box<Told>>) -> Option<&mut Option<Presence>> {
    Some(&mut told.as_mut()?.presence)
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
        match presence(self.as_mut().project().told) {
            Some(Some(presence)) if presence.is_cut() => return self.poll_cut(cx),
            Some(Some(_)) => {}
            _ => return self.poll_answer(cx),
        }
        let polled = self.as_mut().poll_answer(cx);
        let Some(presence) = presence(self.as_mut().project().told) else {
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
        if let Some(presence) = presence(this.told) {
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
        *this.pass = None;
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
                    let pass = this.pass.take();
                    return Poll::Ready(result.map(|response| {
                        let pass = pass.and_then(|pass| pass.answered(&response));
                        response.map(|body| AdmissionBody::own(body, pass))
                    }));
                }
                StateProj::Unsent { line } => {
                    match ready!(line.as_mut().poll_turn(cx)) {
                        Ok(None) => {}
                        Ok(pass) => *this.pass = pass,
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
                    *this.pass = None;
                    return Poll::Ready(Err(error));
                }
                StateProj::Rejected { error, rest } => {
                    if let Some(rest) = rest {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let (Some(error), Some(told)) = (error.take(), &this.told) else {
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
