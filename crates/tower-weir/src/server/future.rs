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
use tokio::time::Instant;
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
        sent: Option<S::Future>,
        // Behind the future: whatever the inner service holds for the operation
        // must go before its place does. None for an exempt request.
        pass: Option<Pass>,
        // Servers move and box the future: what most operations never come to is on the
        // heap.
        attended: Option<Pin<Box<AttendedBy<S, B>>>>,
    }
}

type AttendedBy<S, B> =
    Attended<S, B, <S as Service<Request<B>>>::Future, <S as Service<Request<B>>>::Error>;

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
                sent: Some(inner.call(request)),
                pass,
                attended: None,
            },
            not => Self::not_sent(inner, not, request, pass, None),
        }
    }

    /// The same of one that is counted as in flight.
    #[inline(never)]
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

    fn attended(attended: AttendedBy<S, B>) -> Self {
        Self {
            sent: None,
            pass: None,
            attended: Some(Box::pin(attended)),
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
        let mut this = self.project();
        if let Some(future) = this.sent.as_mut().as_pin_mut() {
            let result = ready!(future.poll(cx));
            let pass = this.pass.take();
            this.sent.set(None);
            return Poll::Ready(result.map(|response| answered(pass, response)));
        }
        // None if it was polled after it had completed.
        let Some(attended) = this.attended else {
            return Poll::Pending;
        };
        let answer = ready!(attended.as_mut().poll(cx));
        *this.attended = None;
        Poll::Ready(answer)
    }
}

/// Keeps the operation pending until its response's body ends.
///
/// The pass comes first because arguments are dropped from the last to the first: a body
/// that panics when it is asked whether it is over goes before the operation's place does.
#[inline]
pub(super) fn answered<R: Body<Data = Bytes>>(
    mut pass: Option<Pass>,
    response: Response<R>,
) -> Response<AdmissionBody<R>> {
    if let Some(own) = &mut pass {
        let over = response.body().is_end_stream();
        if own.goes_on_after(response.status(), over) {
            own.head(Instant::now());
        } else {
            answered_otherwise(&mut pass, &response, over);
        }
    }
    response.map(|body| AdmissionBody::own(body, pass))
}

#[inline(never)]
fn answered_otherwise<R>(pass: &mut Option<Pass>, response: &Response<R>, over: bool) {
    *pass = pass.take().and_then(|pass| {
        let outcome = pass.outcome(response);
        pass.answered(outcome, over)
    });
}
