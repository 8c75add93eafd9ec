use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    exchange::{Admitted, Exchange},
    gate::Gate,
    permit::Permit,
    service::Shared,
    settings::Hold,
    waiter::Waiter,
};
use crate::{
    BoxError,
    alarm::Alarm,
    deadline::far,
    error::{AttemptTimeout, DeadlineExceeded},
    outcome::{Fault, Protocol},
};

/// What is kept of a request once it has been sent.
#[derive(Clone, Copy)]
pub(super) struct CallFacts {
    pub(super) protocol: Protocol,
    pub(super) deadline: Option<Instant>,
    pub(super) hold: Hold,
}

pin_project! {
    /// The future of an [`Admit`](super::Admit) service's answer.
    pub struct ResponseFuture<S, Req, G, X>
    where
        S: Service<Req>,
        G: Gate,
    {
        #[pin]
        state: State<S, Req, S::Future, G>,
        #[pin]
        alarm: Alarm,
        shared: Arc<Shared<G, X>>,
        facts: CallFacts,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, G: Gate> {
        Waiting { waiter: Waiter<G>, call: Option<(S, Req)> },
        Admitted { permit: Option<Permit<G>>, call: Option<(S, Req)> },
        Sent { #[pin] future: F, permit: Option<Permit<G>> },
        Refused { error: Option<BoxError> },
        Done,
    }
}

impl<S, Req, G, X> ResponseFuture<S, Req, G, X>
where
    S: Service<Req>,
    G: Gate,
{
    fn new(
        shared: Arc<Shared<G, X>>,
        facts: CallFacts,
        state: State<S, Req, S::Future, G>,
    ) -> Self {
        Self {
            state,
            alarm: Alarm::new(),
            shared,
            facts,
        }
    }

    /// A call that passes without any admission.
    pub(super) fn free(shared: Arc<Shared<G, X>>, inner: S, request: Req) -> Self {
        let facts = CallFacts {
            protocol: Protocol::default(),
            deadline: None,
            hold: Hold::Headers,
        };
        let call = Some((inner, request));
        Self::new(shared, facts, State::Admitted { permit: None, call })
    }

    pub(super) fn admitted(
        shared: Arc<Shared<G, X>>,
        facts: CallFacts,
        inner: S,
        request: Req,
        permit: Permit<G>,
    ) -> Self {
        let permit = Some(permit);
        let call = Some((inner, request));
        Self::new(shared, facts, State::Admitted { permit, call })
    }

    pub(super) fn waiting(
        shared: Arc<Shared<G, X>>,
        facts: CallFacts,
        inner: S,
        request: Req,
        waiter: Waiter<G>,
    ) -> Self {
        let call = Some((inner, request));
        Self::new(shared, facts, State::Waiting { waiter, call })
    }

    pub(super) fn refused(shared: Arc<Shared<G, X>>, facts: CallFacts, error: BoxError) -> Self {
        let error = Some(error);
        Self::new(shared, facts, State::Refused { error })
    }
}

impl<S, Req, G, X> fmt::Debug for ResponseFuture<S, Req, G, X>
where
    S: Service<Req>,
    G: Gate,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, Req, G, X> Future for ResponseFuture<S, Req, G, X>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    G: Gate,
    X: Exchange<Req, S::Response>,
{
    type Output = Result<X::Response<G>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Waiting { waiter, call } => {
                    let permit = ready!(waiter.poll(this.alarm.as_mut(), cx));
                    match permit {
                        Ok(permit) => State::Admitted {
                            permit: Some(permit),
                            call: call.take(),
                        },
                        Err(error) => State::Refused { error: Some(error) },
                    }
                }
                StateProj::Admitted { permit, call } => {
                    let Some((mut inner, request)) = call.take() else {
                        return Poll::Ready(Err(polled_again()));
                    };
                    match watched(permit, || inner.poll_ready(cx)) {
                        Poll::Ready(Ok(())) => State::Sent {
                            future: watched(permit, || inner.call(request)),
                            permit: permit.take(),
                        },
                        Poll::Ready(Err(error)) => {
                            let error = error.into();
                            judge(this.shared, this.facts, permit, Err(&error));
                            State::Refused { error: Some(error) }
                        }
                        Poll::Pending => {
                            *call = Some((inner, request));
                            let alarm = this.alarm.as_mut();
                            let late = ready!(time_out(alarm, permit, this.shared, this.facts, cx));
                            State::Refused { error: Some(late) }
                        }
                    }
                }
                StateProj::Sent { future, permit } => match watched(permit, || future.poll(cx)) {
                    Poll::Ready(Ok(response)) => {
                        let now = Instant::now();
                        let facts = *this.facts;
                        let exchange = &this.shared.exchange;
                        let admitted = permit.take().map(|permit| Admitted {
                            permit,
                            outcome: exchange.judge(facts.protocol, Ok(&response)),
                            protocol: facts.protocol,
                            now,
                            hold: facts.hold,
                            max_hold: this.shared.settings.max_hold,
                        });
                        let response = exchange.answer(response, admitted);
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(response));
                    }
                    Poll::Ready(Err(error)) => {
                        let error = error.into();
                        judge(this.shared, this.facts, permit, Err(&error));
                        State::Refused { error: Some(error) }
                    }
                    Poll::Pending => {
                        let alarm = this.alarm.as_mut();
                        let late = ready!(time_out(alarm, permit, this.shared, this.facts, cx));
                        State::Refused { error: Some(late) }
                    }
                },
                StateProj::Refused { error } => {
                    let error = error.take().unwrap_or_else(polled_again);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error));
                }
                StateProj::Done => return Poll::Ready(Err(polled_again())),
            };
            this.state.set(next);
        }
    }
}

/// Runs the inner service's code; should it panic, the permit knows.
fn watched<G: Gate, T>(permit: &mut Option<Permit<G>>, f: impl FnOnce() -> T) -> T {
    if let Some(permit) = permit {
        permit.watch(true);
    }
    let result = f();
    if let Some(permit) = permit {
        permit.watch(false);
    }
    result
}

/// Settles an admitted call that brought an error.
fn judge<Req, Res, G: Gate, X: Exchange<Req, Res>>(
    shared: &Shared<G, X>,
    facts: &CallFacts,
    permit: &mut Option<Permit<G>>,
    result: Result<&Res, &BoxError>,
) {
    if let Some(permit) = permit.take() {
        let outcome = shared.exchange.judge(facts.protocol, result);
        permit.settle(outcome, Instant::now());
    }
}

/// Ready when the attempt's time is up: it has been settled, and the error is
/// for the caller.
fn time_out<G: Gate, X>(
    alarm: Pin<&mut Alarm>,
    permit: &mut Option<Permit<G>>,
    shared: &Shared<G, X>,
    facts: &CallFacts,
    cx: &mut Context<'_>,
) -> Poll<BoxError> {
    let Some(sent) = permit.as_ref() else {
        return Poll::Pending;
    };
    let own = shared.settings.attempt_timeout;
    let own = own.map(|timeout| far(sent.started(), timeout));
    let Some(at) = own.into_iter().chain(facts.deadline).min() else {
        return Poll::Pending;
    };
    ready!(alarm.poll(at, cx));
    let now = Instant::now();
    let after = now.saturating_duration_since(sent.started());
    Poll::Ready(if facts.deadline == Some(at) {
        // The permit knows the deadline: it settles as past it.
        *permit = None;
        DeadlineExceeded::new().into()
    } else {
        if let Some(permit) = permit.take() {
            permit.settle(Fault::AttemptTimeout.outcome(facts.protocol), now);
        }
        AttemptTimeout::new(after).into()
    })
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}
