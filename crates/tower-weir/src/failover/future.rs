use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{board::Report, journey::Journey};
use crate::{
    BoxError,
    alarm::Alarm,
    deadline::far,
    error::DeadlineExceeded,
    outcome::Classify,
    retry::{Ending, MapReplay},
};

pin_project! {
    /// The future of a [`Failover`](super::Failover)'s answer.
    pub struct ResponseFuture<S, Req, C, B, M>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, S::Future, Req>,
        #[pin]
        alarm: Alarm,
        journey: Option<Journey<S, C, B, M>>,
        // The last result, while there may be a better one.
        kept: Option<Kept<S::Response>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req> {
        Readying {
            service: Option<S>,
            request: Option<Req>,
            until: Option<Instant>,
        },
        Called { #[pin] future: F },
        Broken { error: Option<BoxError> },
    }
}

/// A result that is not the request's yet, and whether it came from an upstream.
struct Kept<Res> {
    real: bool,
    result: Result<Res, BoxError>,
}

impl<Res> Kept<Res> {
    /// The better one of a kept result and a later one: the later, unless only
    /// the earlier came from an upstream.
    fn better(kept: Option<Self>, later: Self) -> Self {
        match kept {
            Some(kept) if kept.real && !later.real => kept,
            _ => later,
        }
    }
}

impl<S, Req, C, B, M> ResponseFuture<S, Req, C, B, M>
where
    S: Service<Req>,
{
    fn new(state: State<S, S::Future, Req>, journey: Option<Journey<S, C, B, M>>) -> Self {
        Self {
            state,
            alarm: Alarm::new(),
            journey,
            kept: None,
        }
    }

    pub(super) fn called(mut journey: Journey<S, C, B, M>, future: S::Future) -> Self {
        journey.leg.sent();
        Self::new(State::Called { future }, Some(journey))
    }

    pub(super) fn readying(journey: Journey<S, C, B, M>, request: Req) -> Self
    where
        S: Clone,
    {
        let state = readying(&journey, request, Instant::now());
        Self::new(state, Some(journey))
    }

    pub(super) fn broken(error: BoxError) -> Self {
        Self::new(State::Broken { error: Some(error) }, None)
    }
}

/// Begins to wait for the service of the region that comes next.
fn readying<S: Service<Req> + Clone, Req, C, B, M>(
    journey: &Journey<S, C, B, M>,
    request: Req,
    now: Instant,
) -> State<S, S::Future, Req> {
    State::Readying {
        service: Some(journey.shared.service(journey.region())),
        request: Some(request),
        until: Some(far(now, journey.ready_within)),
    }
}

impl<S, C, B, M, ResB> Future for ResponseFuture<S, Request<M::Out>, C, B, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B>,
    S: Service<Request<M::Out>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<ResB>>,
{
    type Output = Result<Response<ResB>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            let Some(journey) = this.journey else {
                break match this.state.as_mut().project() {
                    StateProj::Broken { error } => Err(error.take().unwrap_or_else(polled_again)),
                    _ => Err(polled_again()),
                };
            };
            let result = match this.state.as_mut().project() {
                StateProj::Readying {
                    service: waiting,
                    request,
                    until,
                } => {
                    let Some(service) = waiting else {
                        break Err(polled_again());
                    };
                    match service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            let Some(request) = request.take() else {
                                break Err(polled_again());
                            };
                            journey.leg.sent();
                            let future = service.call(request);
                            this.state.set(State::Called { future });
                            continue;
                        }
                        Poll::Ready(Err(error)) => {
                            let now = Instant::now();
                            let later = Kept {
                                real: false,
                                result: Err(error.into()),
                            };
                            let kept = Kept::better(this.kept.take(), later);
                            let Some(request) = journey.unready(now) else {
                                break kept.result;
                            };
                            *this.kept = Some(kept);
                            this.state.set(readying(journey, request, now));
                            continue;
                        }
                        Poll::Pending => {
                            let until = until.as_mut();
                            let alarm = until.iter().map(|at| **at).chain(journey.deadline).min();
                            let Some(alarm) = alarm else {
                                return Poll::Pending;
                            };
                            ready!(this.alarm.as_mut().poll(alarm, cx));
                            let now = Instant::now();
                            if journey.is_late(now) {
                                journey.leg.abandon(Report::Nothing, now);
                                journey.conclude(Ending::Deadline);
                                let late = Kept {
                                    real: false,
                                    result: Err(late(false)),
                                };
                                break Kept::better(this.kept.take(), late).result;
                            }
                            // One that is slow to be ready must not block the others.
                            match journey.not_ready(now) {
                                Some(request) => {
                                    this.state.set(readying(journey, request, now));
                                }
                                None => match this.kept.take() {
                                    Some(kept) => break kept.result,
                                    None => {
                                        let core = &journey.shared.core;
                                        let due = core.board(|board| board.next_due(now));
                                        wait_until(this.state.as_mut(), due);
                                    }
                                },
                            }
                            continue;
                        }
                    }
                }
                StateProj::Called { future } => match future.poll(cx) {
                    Poll::Ready(result) => result.map_err(Into::into),
                    Poll::Pending => {
                        let Some(deadline) = journey.deadline else {
                            return Poll::Pending;
                        };
                        ready!(this.alarm.as_mut().poll(deadline, cx));
                        let now = Instant::now();
                        let report = journey.leg.late(now);
                        journey.leg.abandon(report, now);
                        journey.conclude(Ending::Deadline);
                        break Err(late(true));
                    }
                },
                StateProj::Broken { error } => {
                    break Err(error.take().unwrap_or_else(polled_again));
                }
            };
            let now = Instant::now();
            let result = result.map(|mut response: Response<ResB>| {
                journey.mark(response.extensions_mut());
                response
            });
            let (real, request) = journey.after(result.as_ref(), now);
            let kept = Kept::better(this.kept.take(), Kept { real, result });
            let Some(request) = request else {
                break kept.result;
            };
            *this.kept = Some(kept);
            this.state.set(readying(journey, request, now));
        };
        this.state.set(State::Broken { error: None });
        *this.journey = None;
        *this.kept = None;
        Poll::Ready(result)
    }
}

/// There is nowhere else to go yet: the region is waited for, until there may be.
fn wait_until<S, F, Req>(state: Pin<&mut State<S, F, Req>>, due: Option<Instant>) {
    if let StateProj::Readying { until, .. } = state.project() {
        *until = due;
    }
}

fn late(sent: bool) -> BoxError {
    if sent {
        DeadlineExceeded::sent().into()
    } else {
        DeadlineExceeded::unsent().into()
    }
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}

impl<S, Req, C, B, M> fmt::Debug for ResponseFuture<S, Req, C, B, M>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
