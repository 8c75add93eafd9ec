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
    AdmissionBody,
    attended::{Attended, Told, Turn},
    pass::Pass,
};
use crate::BoxError;

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
        },
        Attended { attended: Pin<Box<Attended<S, B, F, E>>> },
        Done,
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
    pub(super) fn send(inner: &mut S, request: Request<B>, pass: Option<Pass>) -> Self {
        match ready_now(inner) {
            Poll::Ready(Ok(())) => Self {
                state: State::Sent {
                    future: inner.call(request),
                    pass,
                },
            },
            not => Self::not_sent(inner, not, request, pass, None),
        }
    }

    /// The same of one that is counted as in flight.
    #[cold]
    pub(super) fn send_counted(inner: &mut S, request: Request<B>, pass: Pass, told: Told) -> Self {
        let (pass, told) = (Some(pass), Some(told));
        match ready_now(inner) {
            Poll::Ready(Ok(())) => Self::attended(Attended::sent(inner.call(request), pass, told)),
            not => Self::not_sent(inner, not, request, pass, told),
        }
    }

    #[cold]
    fn not_sent(
        inner: &mut S,
        ready: Poll<Result<(), S::Error>>,
        request: Request<B>,
        pass: Option<Pass>,
        told: Option<Told>,
    ) -> Self {
        Self::attended(match ready {
            Poll::Ready(Err(error)) => Attended::failed(error, pass, told),
            // The one that was asked may stand in a line, and would hold up those
            // behind it until this future is polled, if it ever is.
            _ => {
                *inner = inner.clone();
                Attended::in_line(inner.clone(), request, None, pass, told)
            }
        })
    }

    /// One that has to wait for its turn.
    #[cold]
    pub(super) fn wait(inner: &S, request: Request<B>, turn: Turn, told: Told) -> Self {
        let (inner, turn, told) = (inner.clone(), Some(turn), Some(told));
        Self::attended(Attended::in_line(inner, request, turn, None, told))
    }

    #[cold]
    pub(super) fn reject(error: BoxError, request: Request<B>, told: Told) -> Self {
        Self::attended(Attended::rejected(error, request, told))
    }

    fn attended(attended: Attended<S, B, S::Future, S::Error>) -> Self {
        let attended = Box::pin(attended);
        Self {
            state: State::Attended { attended },
        }
    }
}

/// On behalf of no task.
#[inline]
fn ready_now<S: Service<R>, R>(inner: &mut S) -> Poll<Result<(), S::Error>> {
    inner.poll_ready(&mut Context::from_waker(Waker::noop()))
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
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        match state.as_mut().project() {
            StateProj::Sent { future, pass } => {
                let result = ready!(future.poll(cx));
                let pass = pass.take();
                state.set(State::Done);
                Poll::Ready(result.map(|response| answered(response, pass)))
            }
            StateProj::Attended { attended } => {
                let answer = ready!(attended.as_mut().poll(cx));
                state.set(State::Done);
                Poll::Ready(answer)
            }
            // It was polled after it had completed.
            StateProj::Done => Poll::Pending,
        }
    }
}

/// Keeps the operation pending until its response's body ends.
#[inline]
pub(super) fn answered<R: Body<Data = Bytes>>(
    response: Response<R>,
    pass: Option<Pass>,
) -> Response<AdmissionBody<R>> {
    // The pass is put in its place first: it would be moved thrice.
    let mut response = response.map(|body| AdmissionBody::own(body, pass));
    AdmissionBody::begin(&mut response);
    response
}
