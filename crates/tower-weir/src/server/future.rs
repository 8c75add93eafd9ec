use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    AdmissionBody, Reason, Rejected,
    pass::Pass,
    unsent::{Next, Told, Turn, Unsent},
};
use crate::{
    BoxError,
    error::ShuttingDown,
    shutdown::{Tally, poll_cut},
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
    }
}

pin_project! {
    // Servers move and box the future: what most operations never come to is on the
    // heap.
    #[project = StateProj]
    enum State<S, B, F, E> {
        Sent {
            #[pin]
            future: F,
            // Behind the future: whatever the inner service holds for the operation
            // must go before its place does. None for an exempt request.
            pass: Option<Pass>,
            // Of one that may have to be rejected.
            told: Option<Box<Told>>,
        },
        Unsent { unsent: Pin<Box<Unsent<S, B, E>>> },
        // What it is counted by goes when its answer has.
        Done { told: Option<Box<Told>> },
    }
}

impl<S, B> State<S, B, S::Future, S::Error>
where
    S: Service<Request<B>> + Clone,
    B: Body,
{
    // Not within its callers: the future, which can be large, would be made in one place
    // and moved to the next.
    #[inline(never)]
    fn sent(
        inner: &mut S,
        request: Request<B>,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    ) -> Self {
        match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Sent {
                future: inner.call(request),
                pass,
                told,
            },
            not => Self::not_sent(inner, not, request, pass, told),
        }
    }

    #[cold]
    fn not_sent(
        inner: &mut S,
        ready: Poll<Result<(), S::Error>>,
        request: Request<B>,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    ) -> Self {
        Self::unsent(match ready {
            Poll::Ready(Err(error)) => Unsent::failed(error, pass, told),
            // The one that was asked may stand in a line, and would hold up those
            // behind it until this future is polled, if it ever is.
            _ => {
                *inner = inner.clone();
                Unsent::in_line(inner.clone(), request, None, pass, told)
            }
        })
    }

    fn unsent(unsent: Unsent<S, B, S::Error>) -> Self {
        let unsent = Box::pin(unsent);
        Self::Unsent { unsent }
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
        Self {
            state: State::sent(inner, request, pass, told),
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
        let unsent = Unsent::in_line(inner.clone(), request, Some(turn), None, told);
        Self {
            state: State::unsent(unsent),
        }
    }

    #[cold]
    pub(super) fn reject(error: BoxError, request: Request<B>, told: Option<Box<Told>>) -> Self {
        let unsent = Unsent::rejected(error, Some(request), told);
        Self {
            state: State::unsent(unsent),
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
        if let StateProj::Sent {
            future,
            pass,
            told: None,
        } = self.as_mut().project().state.project()
        {
            let result = ready!(future.poll(cx));
            let pass = pass.take();
            self.project().state.set(State::Done { told: None });
            return Poll::Ready(result.map(|response| answered(response, pass)));
        }
        self.poll_told(cx)
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
    #[inline(never)]
    fn poll_told(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let told = self.as_mut().told();
        match told.and_then(|told| told.presence.as_ref()) {
            Some(presence) if presence.is_cut() => return self.poll_cut(cx),
            Some(_) => {}
            None => return self.poll_answer(cx),
        }
        let polled = self.as_mut().poll_answer(cx);
        let Some(told) = self.as_mut().told() else {
            return polled;
        };
        if let Poll::Ready(answer) = &polled {
            if let Some(presence) = told.presence.take() {
                presence.leave(became(answer));
            }
        } else if poll_cut(&mut told.presence, cx).is_ready() {
            return self.poll_cut(cx);
        }
        polled
    }

    fn told(self: Pin<&mut Self>) -> Option<&mut Told> {
        match self.project().state.project() {
            StateProj::Sent { told, .. } | StateProj::Done { told } => told.as_deref_mut(),
            StateProj::Unsent { unsent } => unsent.as_mut().told().as_deref_mut(),
        }
    }

    /// Rejects an operation that is here when the grace is over: as a new one,
    /// if it has not begun.
    fn poll_cut(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        if let Some(told) = self.as_mut().told() {
            told.presence = None;
        }
        let mut state = self.as_mut().project().state;
        let (error, told) = match state.as_mut().project() {
            StateProj::Sent { told, .. } | StateProj::Done { told } => {
                let cut = ShuttingDown::cut("".into(), 1, None);
                (Some(cut.into()), told.take())
            }
            StateProj::Unsent { unsent } => {
                let rejected = unsent.as_mut().rejection();
                (rejected, unsent.as_mut().told().take())
            }
        };
        let error = error.unwrap_or_else(|| ShuttingDown::unsent("".into()).into());
        let unsent = Box::pin(Unsent::rejected(error, None, told));
        state.set(State::Unsent { unsent });
        self.poll_answer(cx)
    }

    #[inline]
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<AdmissionBody<R>>, S::Error>> {
        let mut state = self.project().state;
        loop {
            let (future, pass, told) = match state.as_mut().project() {
                StateProj::Sent { future, pass, told } => {
                    let result = ready!(future.poll(cx));
                    let (pass, told) = (pass.take(), told.take());
                    state.set(State::Done { told });
                    return Poll::Ready(result.map(|response| answered(response, pass)));
                }
                StateProj::Unsent { unsent } => match ready!(unsent.as_mut().poll(cx)) {
                    Next::Sent { future, pass, told } => (future, pass, told),
                    Next::Answered(answer) => {
                        let told = unsent.as_mut().told().take();
                        state.set(State::Done { told });
                        return Poll::Ready(answer);
                    }
                },
                // It was polled after it had completed.
                StateProj::Done { .. } => return Poll::Pending,
            };
            state.set(State::Sent { future, pass, told });
        }
    }
}

/// Keeps the operation pending until its response's body ends.
#[inline]
fn answered<R: Body<Data = Bytes>>(
    response: Response<R>,
    pass: Option<Pass>,
) -> Response<AdmissionBody<R>> {
    // The pass is put in its place first: it would be moved thrice.
    let mut response = response.map(|body| AdmissionBody::own(body, pass));
    AdmissionBody::begin(&mut response);
    response
}
