use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AdmissionBody, Class, Delayed, Reason, Rejected, ServerGate,
    answer::Answer,
    future::answered,
    linger::Linger,
    pass::{Goes, Pass, Terms},
    service::Shared,
};
use crate::{
    BoxError,
    admit::Waiter,
    alarm::Alarm,
    error::ShuttingDown,
    shutdown::{Presence, Tally, poll_cut},
};

pin_project! {
    /// An operation that waits, fails or is rejected, or is counted as in flight.
    pub(super) struct Attended<S, B, F, E> {
        #[pin]
        kind: Kind<S, B, F, E>,
        // Behind the inner service's future: what that holds must go before the
        // operation's place does.
        pass: Option<Pass>,
        told: Option<Told>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, B, F, E> {
        InLine { #[pin] line: Line<S, B> },
        Sent { #[pin] future: F },
        Failed { error: Option<E> },
        Rejected { error: Option<BoxError>, rest: Option<Pin<Box<Linger<B>>>> },
        Done,
    }
}

pin_project! {
    // It waits for its turn, and then for the inner service.
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
    pub(super) presence: Option<Presence>,
}

type Answered<R, E> = Result<Response<AdmissionBody<R>>, E>;

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
        let goes = ready!(waiter.poll::<Goes>(this.alarm, cx));
        let Some(Turn { since, terms, .. }) = this.turn.take() else {
            return Poll::Ready(Ok(None));
        };
        let goes = goes?;
        let waited = goes.at.map(|at| at.saturating_duration_since(since));
        if let Some(request) = this.request {
            let delayed = Delayed(waited.unwrap_or_default());
            request.extensions_mut().insert(delayed);
        }
        Poll::Ready(Ok(Some(goes.on(terms))))
    }

    /// Sends the request once the inner service is ready.
    fn poll_sent(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Future, S::Error>>
    where
        S: Service<Request<B>>,
    {
        let this = self.project();
        if let Err(error) = ready!(this.inner.poll_ready(cx)) {
            return Poll::Ready(Err(error));
        }
        match this.request.take() {
            Some(request) => Poll::Ready(Ok(this.inner.call(request))),
            None => Poll::Pending,
        }
    }
}

impl<S, B: Body, F, E> Attended<S, B, F, E> {
    pub(super) fn in_line(
        inner: S,
        request: Request<B>,
        turn: Option<Turn>,
        pass: Option<Pass>,
        told: Option<Told>,
    ) -> Self {
        let line = Line {
            turn,
            alarm: Alarm::new(),
            inner,
            request: Some(request),
        };
        let kind = Kind::InLine { line };
        Self { kind, pass, told }
    }

    pub(super) fn sent(future: F, pass: Option<Pass>, told: Option<Told>) -> Self {
        let kind = Kind::Sent { future };
        Self { kind, pass, told }
    }

    pub(super) fn failed(error: E, pass: Option<Pass>, told: Option<Told>) -> Self {
        let error = Some(error);
        let kind = Kind::Failed { error };
        Self { kind, pass, told }
    }

    pub(super) fn rejected(error: BoxError, request: Request<B>, told: Told) -> Self {
        Self {
            kind: Kind::of_rejected(error, Some(request)),
            pass: None,
            told: Some(told),
        }
    }
}

impl<S, B: Body, F, E> Kind<S, B, F, E> {
    fn of_rejected(error: BoxError, request: Option<Request<B>>) -> Self {
        Self::Rejected {
            error: Some(error),
            rest: request.and_then(Linger::over),
        }
    }

    /// Why an operation is rejected that is here when the grace is over: as a new one,
    /// if it has not begun.
    fn cut(self: Pin<&mut Self>) -> BoxError {
        let rejected = match self.project() {
            KindProj::Sent { .. } | KindProj::Done => {
                return ShuttingDown::cut("".into(), 1, None).into();
            }
            KindProj::Rejected { error, .. } => error.take(),
            KindProj::InLine { .. } | KindProj::Failed { .. } => None,
        };
        rejected.unwrap_or_else(|| ShuttingDown::unsent("".into()).into())
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

impl<S, B, F, E, R> Attended<S, B, F, E>
where
    S: Service<Request<B>, Response = Response<R>, Error = E, Future = F>,
    F: Future<Output = Result<Response<R>, E>>,
    B: Body,
    R: Body<Data = Bytes>,
{
    #[inline(never)]
    pub(super) fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<R, E>> {
        let told = self.as_mut().project().told.as_ref();
        match told.and_then(|told| told.presence.as_ref()) {
            Some(presence) if presence.is_cut() => return self.poll_cut(cx),
            Some(_) => {}
            None => return self.poll_answer(cx),
        }
        let polled = self.as_mut().poll_answer(cx);
        let Some(told) = self.as_mut().project().told else {
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

    /// Rejects an operation that is here when the grace is over.
    fn poll_cut(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<R, E>> {
        let mut this = self.as_mut().project();
        if let Some(told) = this.told {
            told.presence = None;
        }
        let error = this.kind.as_mut().cut();
        this.kind.set(Kind::of_rejected(error, None));
        *this.pass = None;
        self.poll_answer(cx)
    }

    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<R, E>> {
        let mut this = self.project();
        loop {
            let next = match this.kind.as_mut().project() {
                KindProj::InLine { mut line } => match ready!(line.as_mut().poll_turn(cx)) {
                    Err(error) => Kind::of_rejected(error, line.project().request.take()),
                    Ok(turn) => {
                        if turn.is_some() {
                            *this.pass = turn;
                        }
                        match ready!(line.as_mut().poll_sent(cx)) {
                            Ok(future) => Kind::Sent { future },
                            Err(error) => Kind::Failed { error: Some(error) },
                        }
                    }
                },
                KindProj::Sent { future } => {
                    let result = ready!(future.poll(cx));
                    this.kind.set(Kind::Done);
                    let pass = this.pass.take();
                    return Poll::Ready(result.map(|response| answered(pass, response)));
                }
                KindProj::Failed { error } => {
                    let Some(error) = error.take() else {
                        return Poll::Pending;
                    };
                    // Here, where it is still known that nothing was sent: to give the
                    // place on may panic.
                    *this.pass = None;
                    return Poll::Ready(Err(error));
                }
                KindProj::Rejected { error, rest } => {
                    if let Some(rest) = rest {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let (Some(error), Some(told)) = (error.take(), &this.told) else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Ok(told.response(error)));
                }
                // It was polled after it had completed.
                KindProj::Done => return Poll::Pending,
            };
            this.kind.set(next);
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
