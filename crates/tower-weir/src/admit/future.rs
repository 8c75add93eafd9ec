use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
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
    outcome::{Outcome, Protocol},
};

/// What is kept of a request once it has been sent.
#[derive(Clone, Copy)]
pub(super) struct CallFacts {
    pub(super) protocol: Protocol,
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
        // Boxed: most calls are sent at once, and should not be larger for it.
        Unsent { call: Option<Box<(S, Req)>> },
        Sent { #[pin] future: F },
        Refused { error: Option<BoxError> },
        Done,
    }
}

impl<S, Req, F> State<S, Req, F> {
    #[cold]
    fn unsent(inner: S, request: Req) -> Self {
        Self::Unsent {
            call: Some(Box::new((inner, request))),
        }
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
            waiter.bound();
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
    fn new(exchange: X, facts: CallFacts, seat: Seat<G>, state: State<S, Req, S::Future>) -> Self {
        Self {
            state,
            seat,
            alarm: Alarm::new(),
            exchange,
            facts,
        }
    }

    /// A call that passes without any admission.
    pub(super) fn free(exchange: X, inner: &mut S, request: Req) -> Self
    where
        S: Clone,
        S::Error: Into<BoxError>,
        X: Exchange<Req, S::Response>,
    {
        let facts = CallFacts {
            protocol: Protocol::default(),
            hold: Hold::Headers,
        };
        Self::admitted(exchange, facts, inner, request, None)
    }

    /// A call that may go. It goes now if the inner service is ready, which needs
    /// neither a clone of that nor a place for the request; else when it is polled.
    #[inline]
    pub(super) fn admitted(
        exchange: X,
        facts: CallFacts,
        inner: &mut S,
        request: Req,
        permit: Option<Permit<G>>,
    ) -> Self
    where
        S: Clone,
        S::Error: Into<BoxError>,
        X: Exchange<Req, S::Response>,
    {
        let mut seat = Seat::Admitted(permit);
        // No task waits for it yet: the one that polls the call asks again.
        let mut cx = Context::from_waker(Waker::noop());
        let deadline = seat.permit().and_then(|permit| permit.deadline());
        let late = deadline.is_some_and(|at| Instant::now() >= at);
        let ready = match late {
            true => Poll::Pending,
            false => watched(&mut seat, || inner.poll_ready(&mut cx)),
        };
        match ready {
            Poll::Ready(Ok(())) => {
                watch(&mut seat, true);
                let future = inner.call(request);
                watch(&mut seat, false);
                Self::new(exchange, facts, seat, State::Sent { future })
            }
            Poll::Ready(Err(error)) => {
                let error = Failed::Inner(error.into());
                let error = fail(&exchange, &facts, &mut seat, error);
                // One that has failed is not to be asked again.
                *inner = inner.clone();
                Self::refused(exchange, facts, error)
            }
            Poll::Pending => {
                // The one that has asked may have a place in a line, in which nobody
                // would notice its turn: it is given up.
                *inner = inner.clone();
                let state = State::unsent(inner.clone(), request);
                Self::new(exchange, facts, seat, state)
            }
        }
    }

    pub(super) fn waiting(
        exchange: X,
        facts: CallFacts,
        inner: S,
        request: Req,
        waiter: Waiter<G>,
    ) -> Self {
        let state = State::unsent(inner, request);
        Self::new(exchange, facts, Seat::Waiting(waiter), state)
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
                    let Some(mut unsent) = call.take() else {
                        return Poll::Ready(Err(polled_again()));
                    };
                    let in_time = this.seat.permit().is_none_or(Permit::send);
                    let ready = if in_time {
                        let ready = watched(this.seat, || unsent.0.poll_ready(cx));
                        ready.map_err(|error| Failed::Inner(error.into()))
                    } else {
                        Poll::Ready(Err(Failed::TooLate(DeadlineExceeded::unsent())))
                    };
                    let error = match ready {
                        Poll::Ready(Ok(())) => {
                            let (mut inner, request) = *unsent;
                            let future = watched(this.seat, || inner.call(request));
                            this.state.set(State::Sent { future });
                            continue;
                        }
                        Poll::Ready(Err(error)) => error,
                        Poll::Pending => {
                            *call = Some(unsent);
                            let alarm = this.alarm.as_mut();
                            ready!(time_out(alarm, this.seat, cx))
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Err(fail(this.exchange, this.facts, this.seat, error)));
                }
                StateProj::Sent { future } => {
                    let in_time = this.seat.permit().is_none_or(Permit::send);
                    let polled = if in_time {
                        let polled = watched(this.seat, || future.poll(cx));
                        polled.map_err(|error| Failed::Inner(error.into()))
                    } else {
                        // The service has had it since the call.
                        Poll::Ready(Err(Failed::TooLate(DeadlineExceeded::sent())))
                    };
                    let error = match polled {
                        Poll::Ready(Ok(response)) => {
                            this.state.set(State::Done);
                            let response = answer(this.exchange, this.facts, this.seat, response);
                            return Poll::Ready(Ok(response));
                        }
                        Poll::Ready(Err(error)) => error,
                        Poll::Pending => {
                            let alarm = this.alarm.as_mut();
                            ready!(time_out(alarm, this.seat, cx))
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Err(fail(this.exchange, this.facts, this.seat, error)));
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
    watch(seat, true);
    let result = f();
    watch(seat, false);
    result
}

#[inline]
fn watch<G: Gate>(seat: &mut Seat<G>, running: bool) {
    if let Some(permit) = seat.permit() {
        permit.watch(running);
    }
}

/// Why an admitted call brought no answer.
enum Failed {
    Inner(BoxError),
    /// Its own time was up, after so long.
    TimedOut(Duration),
    /// The request's deadline passed.
    PastDeadline,
    /// The request's deadline had passed before the call was polled.
    TooLate(DeadlineExceeded),
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
        Failed::TooLate(error) => {
            // The caller's doing, whether the service has had the request or not.
            if let Some(permit) = seat.permit() {
                permit.settle(Outcome::ignored(), clock::read());
            }
            return error.into();
        }
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
    let deadline = permit.deadline();
    let Some(at) = own.into_iter().chain(deadline).min() else {
        return Poll::Pending;
    };
    ready!(alarm.poll(at, cx));
    Poll::Ready(if deadline == Some(at) {
        Failed::PastDeadline
    } else {
        Failed::TimedOut(Instant::now().saturating_duration_since(started))
    })
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}
