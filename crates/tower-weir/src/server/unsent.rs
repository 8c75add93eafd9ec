use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    AdmissionBody, Class, Delayed, Rejected, ServerGate,
    answer::Answer,
    linger::Linger,
    pass::{Goes, Pass, Terms},
    service::Shared,
};
use crate::{BoxError, admit::Waiter, alarm::Alarm, shutdown::Presence};

pin_project! {
    /// An operation that is not on its way, or never will be.
    pub(super) struct Unsent<S, B, E> {
        #[pin]
        kind: Kind<S, B, E>,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, B, E> {
        InLine { #[pin] line: Line<S, B> },
        Failed { error: Option<E> },
        Rejected { error: Option<BoxError>, rest: Option<Pin<Box<Linger<B>>>> },
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

/// What comes of it.
pub(super) enum Next<F, A> {
    Sent {
        future: F,
        pass: Option<Pass>,
        told: Option<Box<Told>>,
    },
    Answered(A),
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
}

impl<S, B: Body, E> Unsent<S, B, E> {
    pub(super) fn in_line(
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
        let kind = Kind::InLine { line };
        Self { kind, pass, told }
    }

    pub(super) fn failed(error: E, pass: Option<Pass>, told: Option<Box<Told>>) -> Self {
        let error = Some(error);
        let kind = Kind::Failed { error };
        Self { kind, pass, told }
    }

    pub(super) fn rejected(
        error: BoxError,
        request: Option<Request<B>>,
        told: Option<Box<Told>>,
    ) -> Self {
        let kind = Kind::of_rejected(error, request);
        let pass = None;
        Self { kind, pass, told }
    }
}

impl<S, B: Body, E> Kind<S, B, E> {
    fn of_rejected(error: BoxError, request: Option<Request<B>>) -> Self {
        Self::Rejected {
            error: Some(error),
            rest: request.and_then(Linger::over),
        }
    }
}

impl<S, B, E> Unsent<S, B, E> {
    pub(super) fn told(self: Pin<&mut Self>) -> &mut Option<Box<Told>> {
        self.project().told
    }

    /// Why it is rejected, if it already was.
    pub(super) fn rejection(self: Pin<&mut Self>) -> Option<BoxError> {
        match self.project().kind.project() {
            KindProj::Rejected { error, .. } => error.take(),
            KindProj::InLine { .. } | KindProj::Failed { .. } => None,
        }
    }

    pub(super) fn poll<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Next<S::Future, Answered<R, E>>>
    where
        S: Service<Request<B>, Error = E>,
        B: Body,
    {
        let mut this = self.project();
        loop {
            match this.kind.as_mut().project() {
                KindProj::InLine { mut line } => {
                    match ready!(line.as_mut().poll_turn(cx)) {
                        Ok(None) => {}
                        Ok(pass) => *this.pass = pass,
                        Err(error) => {
                            let request = line.as_mut().project().request.take();
                            let rejected = Kind::of_rejected(error, request);
                            this.kind.set(rejected);
                            continue;
                        }
                    }
                    let line = line.as_mut().project();
                    if let Err(error) = ready!(line.inner.poll_ready(cx)) {
                        let error = Some(error);
                        this.kind.set(Kind::Failed { error });
                        continue;
                    }
                    let Some(request) = line.request.take() else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Next::Sent {
                        future: line.inner.call(request),
                        pass: this.pass.take(),
                        told: this.told.take(),
                    });
                }
                KindProj::Failed { error } => {
                    let Some(error) = error.take() else {
                        return Poll::Pending;
                    };
                    // Here, where it is still known that nothing was sent: to give the
                    // place on may panic.
                    *this.pass = None;
                    return Poll::Ready(Next::Answered(Err(error)));
                }
                KindProj::Rejected { error, rest } => {
                    if let Some(rest) = rest {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let (Some(error), Some(told)) = (error.take(), &this.told) else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Next::Answered(Ok(told.response(error))));
                }
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
