use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    exchange::{Admitted, Exchange},
    gate::Gate,
    permit::Permit,
    settings::Hold,
    waiter::Waiter,
};
use crate::{
    BoxError,
    alarm::Alarm,
    clock,
    deadline::far,
    error::{AttemptTimeout, DeadlineExceeded},
    outcome::Protocol,
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
        state: State<S, Req, S::Future>,
        // Behind the state: whatever the inner service holds for the call must
        // go before the call's slot does.
        seat: Seat<G>,
        #[pin]
        alarm: Alarm,
        exchange: X,
        facts: CallFacts,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F> {
        Unsent { call: Option<(S, Req)> },
        Sent { #[pin] future: F },
        Refused { error: Option<BoxError> },
        Done,
    }
}

/// What a call has of its host.
enum Seat<G: Gate> {
    Waiting(Waiter<G>),
    /// With its permit, unless it passes without any admission.
    Admitted(Option<Permit<G>>),
}

impl<G: Gate> Seat<G> {
    #[inline]
    fn permit(&mut self) -> Option<&mut Permit<G>> {
        match self {
            Self::Admitted(permit) => permit.as_mut(),
            Self::Waiting(_) => None,
        }
    }

    /// Waits for the turn of a call that must.
    #[inline]
    fn poll(&mut self, alarm: Pin<&mut Alarm>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Self::Waiting(waiter) = self {
            let permit = ready!(waiter.poll(alarm, cx));
            *self = Self::Admitted(Some(permit?));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S, Req, G, X> ResponseFuture<S, Req, G, X>
where
    S: Service<Req>,
    G: Gate,
{
    #[inline]
    fn new(
        exchange: X,
        facts: CallFacts,
        seat: Seat<G>,
        state: State<S, Req, S::Future>,
    ) -> Self {
        Self {
            state,
            seat,
            alarm: Alarm::new(),
            exchange,
            facts,
        }
    }

    /// A call that passes without any admission.
    pub(super) fn free(exchange: X, inner: S, request: Req) -> Self {
        let facts = CallFacts {
            protocol: Protocol::default(),
            deadline: None,
            hold: Hold::Headers,
        };
        let call = Some((inner, request));
        Self::new(exchange, facts, Seat::Admitted(None), State::Unsent { call })
    }

    #[inline]
    pub(super) fn admitted(
        exchange: X,
        facts: CallFacts,
        inner: S,
        request: Req,
        permit: Permit<G>,
    ) -> Self {
        let call = Some((inner, request));
        let seat = Seat::Admitted(Some(permit));
        Self::new(exchange, facts, seat, State::Unsent { call })
    }

    pub(super) fn waiting(
        exchange: X,
        facts: CallFacts,
        inner: S,
        request: Req,
        waiter: Waiter<G>,
    ) -> Self {
        let call = Some((inner, request));
        Self::new(exchange, facts, Seat::Waiting(waiter), State::Unsent { call })
    }

    pub(super) fn refused(exchange: X, facts: CallFacts, error: BoxError) -> Self {
        let error = Some(error);
        Self::new(
            exchange,
            facts,
            Seat::Admitted(None),
            State::Refused { error },
        )
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Unsent { call } => {
                    if let Err(error) = ready!(this.seat.poll(this.alarm.as_mut(), cx)) {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    let Some((mut inner, request)) = call.take() else {
                        return Poll::Ready(Err(polled_again()));
                    };
                    let sent = this.seat.permit().and_then(Permit::send);
                    let ready = if is_past(sent, this.facts.deadline) {
                        Poll::Ready(Err(Failed::TooLate))
                    } else {
                        let ready = watched(this.seat, || inner.poll_ready(cx));
                        ready.map_err(|error| Failed::Inner(error.into()))
                    };
                    let error = match ready {
                        Poll::Ready(Ok(())) => {
                            let future = watched(this.seat, || inner.call(request));
                            this.state.set(State::Sent { future });
                            continue;
                        }
                        Poll::Ready(Err(error)) => error,
                        Poll::Pending => {
                            *call = Some((inner, request));
                            let alarm = this.alarm.as_mut();
                            ready!(time_out(alarm, this.seat, this.facts, cx))
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Err(fail(this.exchange, this.facts, this.seat, error)));
                }
                StateProj::Sent { future } => {
                    let result = match watched(this.seat, || future.poll(cx)) {
                        Poll::Ready(Ok(response)) => Ok(response),
                        Poll::Ready(Err(error)) => Err(Failed::Inner(error.into())),
                        Poll::Pending => {
                            let alarm = this.alarm.as_mut();
                            let late = time_out(alarm, this.seat, this.facts, cx);
                            Err(ready!(late))
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(match result {
                        Ok(response) => Ok(answer(this.exchange, this.facts, this.seat, response)),
                        Err(error) => Err(fail(this.exchange, this.facts, this.seat, error)),
                    });
                }
                StateProj::Refused { error } => {
                    let error = error.take().unwrap_or_else(polled_again);
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error));
                }
                StateProj::Done => return Poll::Ready(Err(polled_again())),
            }
        }
    }
}

/// Runs the inner service's code; should it panic, the permit knows.
#[inline]
fn watched<G: Gate, T>(seat: &mut Seat<G>, f: impl FnOnce() -> T) -> T {
    if let Some(permit) = seat.permit() {
        permit.watch(true);
    }
    let result = f();
    if let Some(permit) = seat.permit() {
        permit.watch(false);
    }
    result
}

/// Why an admitted call brought no answer.
enum Failed {
    Inner(BoxError),
    /// Its own time was up, after so long.
    TimedOut(Duration),
    /// The request's deadline passed.
    PastDeadline,
    /// The request's deadline had passed before the call was sent.
    TooLate,
}

fn is_past(now: Option<Instant>, deadline: Option<Instant>) -> bool {
    now.zip(deadline)
        .is_some_and(|(now, deadline)| now >= deadline)
}

/// Hands an answer on; an admitted call may go on with its body.
#[inline]
fn answer<Req, Res, G: Gate, X: Exchange<Req, Res>>(
    exchange: &X,
    facts: &CallFacts,
    seat: &mut Seat<G>,
    response: Res,
) -> X::Response<G> {
    let permit = match seat {
        Seat::Admitted(permit) if permit.is_some() => Some(permit),
        _ => None,
    };
    let admitted = permit.map(|permit| Admitted {
        permit,
        outcome: exchange.judge(facts.protocol, Ok(&response)),
        protocol: facts.protocol,
        now: clock::read(),
        hold: facts.hold,
    });
    exchange.answer(response, admitted)
}

/// Settles an admitted call that brought no answer; returns the caller's error.
fn fail<Req, Res, G: Gate, X: Exchange<Req, Res>>(
    exchange: &X,
    facts: &CallFacts,
    seat: &mut Seat<G>,
    failed: Failed,
) -> BoxError {
    let error = match failed {
        Failed::Inner(error) => error,
        Failed::TimedOut(after) => AttemptTimeout::new(after).into(),
        Failed::PastDeadline => {
            // The permit knows the deadline: it settles as past it.
            *seat = Seat::Admitted(None);
            return DeadlineExceeded::sent().into();
        }
        Failed::TooLate => DeadlineExceeded::unsent().into(),
    };
    if let Some(permit) = seat.permit() {
        let outcome = exchange.judge(facts.protocol, Err(&error));
        permit.settle(outcome, clock::read());
    }
    error
}

/// Ready when the attempt's time is up.
fn time_out<G: Gate>(
    alarm: Pin<&mut Alarm>,
    seat: &mut Seat<G>,
    facts: &CallFacts,
    cx: &mut Context<'_>,
) -> Poll<Failed> {
    let Some(permit) = seat.permit() else {
        return Poll::Pending;
    };
    let Some(started) = permit.started() else {
        return Poll::Pending;
    };
    let own = permit.knobs().attempt_timeout();
    let own = own.map(|timeout| far(started, timeout));
    let Some(at) = own.into_iter().chain(facts.deadline).min() else {
        return Poll::Pending;
    };
    ready!(alarm.poll(at, cx));
    Poll::Ready(if facts.deadline == Some(at) {
        Failed::PastDeadline
    } else {
        Failed::TimedOut(Instant::now().saturating_duration_since(started))
    })
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}
