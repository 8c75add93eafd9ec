use std::{
    cell::LazyCell,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

use super::{
    Ending, RetryPolicy,
    policy::Rules,
    source::{Drain, Retried, Source, poll_drain},
    turn::{Planned, Turn},
};
use crate::{
    BoxError,
    alarm::Alarm,
    clock,
    deadline::far,
    error::{BudgetExhausted, DeadlineExceeded, ShuttingDown},
    outcome::{Classify, Fault, Outcome, Repeat, Verdict, judge},
    shutdown::{Presence, Tally, poll_cut},
    trust::{self, Task},
};

/// A timer that an attempt was given may fire this much before the deadline that
/// it was meant to keep.
const TICK: Duration = Duration::from_millis(1);

pin_project! {
    /// The future of a [`Retry`](super::Retry) service's answer.
    pub struct ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S::Future, Req, S::Response>,
        // Apart: only a request with a deadline that does not end at once has one.
        alarm: Option<Pin<Box<Alarm>>>,
        deadline: Option<Instant>,
        // None once no other attempt can follow.
        inner: Option<S>,
        policy: Arc<RetryPolicy<C>>,
        // None where nothing is ever repeated.
        turn: Option<Turn<R>>,
        presence: Option<Presence>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Req, Res> {
        Attempt { #[pin] future: F },
        // Boxed: most requests never come here, and should not be larger for it.
        Backoff { pause: Box<Pause<Req, Res>> },
        Refused { error: Option<BoxError> },
        Done,
    }
}

/// Between two attempts. The next one's request is made before the wait, so
/// that an attempt that still sends the body stops doing so.
struct Pause<Req, Res> {
    sleep: Pin<Box<Sleep>>,
    slept: bool,
    drain: Option<Drain>,
    request: Option<Req>,
    /// What the budget must still grant the next attempt for.
    owed: Option<Outcome>,
    /// What the caller gets if it never does, where that can be kept for nothing.
    kept: Option<Result<Res, BoxError>>,
}

impl<Req, Res> Pause<Req, Res> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.slept {
            poll_drain(&mut self.drain, cx);
            ready!(self.sleep.as_mut().poll(cx));
            self.slept = true;
            self.drain = None;
        }
        Poll::Ready(())
    }

    /// When the wait was over.
    fn since(&self) -> Instant {
        self.sleep.deadline()
    }

    fn wait_again(&mut self, wait: Duration) {
        self.sleep.as_mut().reset(far(Instant::now(), wait));
        self.slept = false;
    }
}

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
{
    // Its parts are large: they are to be moved once, to where the future is.
    #[inline(always)]
    pub(super) fn new(
        inner: S,
        future: S::Future,
        policy: Arc<RetryPolicy<C>>,
        deadline: Option<Instant>,
        turn: Option<Turn<R>>,
        presence: Option<Presence>,
    ) -> Self {
        Self {
            state: State::Attempt { future },
            alarm: None,
            deadline,
            inner: Some(inner),
            policy,
            turn,
            presence,
        }
    }

    /// A request that is not sent.
    pub(super) fn refused(policy: Arc<RetryPolicy<C>>, error: BoxError) -> Self {
        Self {
            state: State::Refused { error: Some(error) },
            alarm: None,
            deadline: None,
            inner: None,
            policy,
            turn: None,
            presence: None,
        }
    }
}

impl<S, Req, C, R> Future for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    R: Source<S::Response, Request = Req>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut became = None;
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    // What has been counted as cut must not come to an end of
                    // its own.
                    if this.presence.as_ref().is_some_and(Presence::is_cut) {
                        break Err(cut(this.turn.as_ref(), &this.policy.rules));
                    }
                    let task = this
                        .turn
                        .as_ref()
                        .map_or(Task::NONE, |turn| turn.leaves(&this.policy.rules));
                    // Not within closures, or the answer would be moved once more.
                    let left = trust::leave(task);
                    clock::listen();
                    let polled = future.poll(cx);
                    let (heard, deposited) = (clock::heard(), left.taken());
                    let Poll::Ready(result) = polled else {
                        if poll_cut(this.presence, cx).is_ready() {
                            break Err(cut(this.turn.as_ref(), &this.policy.rules));
                        }
                        ready!(late(this.alarm, *this.deadline, cx));
                        break Err(too_late(this.turn.as_ref(), &this.policy.rules));
                    };
                    let Some(turn) = this.turn else {
                        break in_time(*this.deadline, result.map_err(Into::into));
                    };
                    let mut judged = None;
                    if let Ok(response) = &result {
                        match after_answer(this.policy, turn, response, heard, deposited) {
                            // The way of nearly all requests: the answer is moved
                            // to the caller and nowhere else.
                            None => break result.map_err(Into::into),
                            outcome => judged = outcome,
                        }
                    }
                    let result = in_time(*this.deadline, result.map_err(Into::into));
                    let ending = this.presence.as_ref().is_some_and(Presence::has_begun);
                    match after_attempt(this.policy, turn, judged, result, heard, ending) {
                        Ok(pause) => this.state.set(State::Backoff { pause }),
                        Err(result) => break result,
                    }
                }
                StateProj::Backoff { pause } => {
                    let (Some(turn), Some(inner)) = (this.turn.as_mut(), this.inner.as_mut())
                    else {
                        break Err(polled_again());
                    };
                    if let Some(presence) = this.presence {
                        presence.watch(cx);
                        if presence.has_begun() {
                            became = Some(Tally::Backoff);
                            break Err(turn.shut_down(&this.policy.rules).into());
                        }
                    }
                    ready!(pause.poll(cx));
                    if let Some(outcome) = pause.owed {
                        match turn.pay(&this.policy.rules, &outcome) {
                            Ok(()) => pause.owed = None,
                            Err(Some(wait)) => {
                                pause.wait_again(wait);
                                continue;
                            }
                            Err(None) => {
                                turn.abandon(&this.policy.rules, Ending::BudgetEmpty);
                                if let Some(result) = pause.kept.take() {
                                    break result;
                                }
                                let host = turn.host(&this.policy.rules);
                                break Err(BudgetExhausted::new(
                                    host.as_ref().into(),
                                    outcome.cause,
                                )
                                .into());
                            }
                        }
                    }
                    let deadline = *this.deadline;
                    match inner.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            turn.abandon(&this.policy.rules, Ending::Exhausted);
                            break pause.kept.take().unwrap_or_else(|| Err(error.into()));
                        }
                        Poll::Pending => {
                            let end = turn.progress.end(&this.policy.rules, pause.since());
                            ready!(late(this.alarm, end, cx));
                            if deadline.is_none_or(|at| Instant::now() < at) {
                                turn.abandon(&this.policy.rules, Ending::Exhausted);
                                break pause.kept.take().unwrap_or_else(|| {
                                    Err(turn.never_ready(&this.policy.rules, pause.since()))
                                });
                            }
                            turn.abandon(&this.policy.rules, Ending::Deadline);
                            break Err(DeadlineExceeded::sent().into());
                        }
                    }
                    if deadline.is_some_and(|at| Instant::now() >= at) {
                        turn.abandon(&this.policy.rules, Ending::Deadline);
                        break Err(DeadlineExceeded::sent().into());
                    }
                    let Some(mut request) = pause.request.take() else {
                        break Err(polled_again());
                    };
                    turn.source.stamp(&mut request, || {
                        Some(deadline?.saturating_duration_since(Instant::now()))
                    });
                    turn.begin(&this.policy.rules);
                    let future = inner.call(request);
                    this.state.set(State::Attempt { future });
                }
                StateProj::Refused { error } => {
                    break Err(error.take().unwrap_or_else(polled_again));
                }
                StateProj::Done => break Err(polled_again()),
            }
        };
        if let StateProj::Backoff { .. } = this.state.as_mut().project() {
            // One that was asked and is not called keeps its place, or its readiness,
            // as long as it is there, and who has the result may keep the future.
            *this.inner = None;
        }
        this.state.set(State::Done);
        // While there is a handle on the request's body, what is sent of it is
        // recorded.
        *this.turn = None;
        if let Some(presence) = this.presence.take() {
            presence.leave(became.unwrap_or_else(|| Tally::of(&result)));
        }
        Poll::Ready(result)
    }
}

/// A timeout that was derived from the deadline is the deadline.
fn in_time<Res>(deadline: Option<Instant>, result: Result<Res, BoxError>) -> Result<Res, BoxError> {
    match (deadline, result) {
        (Some(deadline), Err(error))
            if Fault::of(error.as_ref()) == Fault::AttemptTimeout
                && deadline.saturating_duration_since(Instant::now()) <= TICK =>
        {
            Err(DeadlineExceeded::sent().into())
        }
        (_, result) => result,
    }
}

/// Ends a request that its first answer ends; else what is made of the answer.
/// `ended` is when the attempt did, if that is known, and `deposited` whether its
/// budget has been told.
#[inline]
fn after_answer<Res, C, R>(
    policy: &RetryPolicy<C>,
    turn: &mut Turn<R>,
    response: &Res,
    ended: Option<Instant>,
    deposited: bool,
) -> Option<Outcome>
where
    C: Classify<Res>,
    R: Source<Res>,
{
    let rules = &policy.rules;
    let judged = judge(&policy.classifier, turn.progress.protocol(), Ok(response));
    let mut ends = |outcome: &Outcome| {
        let over = turn.is_over(outcome);
        if over && !deposited {
            turn.deposit(rules, outcome, || ended.unwrap_or_else(Instant::now));
        }
        over
    };
    let over = match rules.lists() {
        true => ends(&rules.apply(judged)),
        false => ends(&judged),
    };
    (!over).then_some(judged)
}

/// Hands the result back (`Err`), or prepares the next attempt. An answer has been
/// `judged` already; at an `ending` there are no more attempts.
#[allow(clippy::type_complexity, reason = "a result in a result is what it is")]
fn after_attempt<Res, C, R>(
    policy: &RetryPolicy<C>,
    turn: &mut Turn<R>,
    judged: Option<Outcome>,
    result: Result<Res, BoxError>,
    ended: Option<Instant>,
    ending: bool,
) -> Result<Box<Pause<R::Request, Res>>, Result<Res, BoxError>>
where
    C: Classify<Res>,
    R: Source<Res>,
{
    let rules = &policy.rules;
    let protocol = turn.progress.protocol();
    let judge = || judge(&policy.classifier, protocol, result.as_ref());
    let judged = judged.unwrap_or_else(judge);
    let outcome = rules.apply(judged);
    let (attempts, retried) = (turn.progress.attempts(), turn.progress.retried());
    let local = result.as_ref().err().and_then(asks_to_wait);
    let now = LazyCell::new(|| ended.unwrap_or_else(Instant::now));
    let Ok(Planned {
        delay,
        request,
        owed,
    }) = turn.plan(rules, &outcome, local, ending, || *now)
    else {
        let result = result.map_err(|error| turn.explain(attempts, error));
        return Err(marked::<Res, R>(result, retried));
    };
    turn.tell_retry(rules, &outcome, delay);
    let whole = result.as_ref().map_or(true, R::is_whole);
    let (kept, discarded) = if whole {
        (Some(marked::<Res, R>(result, retried)), None)
    } else {
        // An answer that only the policy takes amiss still has its slot, which
        // must not wait for the body's end.
        let good = judged.verdict == Verdict::Success && judged.repeat == Repeat::Never;
        (None, result.ok().filter(|_| !good))
    };
    Ok(Box::new(Pause {
        sleep: Box::pin(sleep(delay)),
        slept: false,
        drain: discarded.and_then(R::discard),
        request: Some(request),
        owed,
        kept,
    }))
}

/// The result as the caller gets it, of which attempt it is.
fn marked<Res, R: Source<Res>>(
    result: Result<Res, BoxError>,
    retried: Option<Retried>,
) -> Result<Res, BoxError> {
    result.map(|mut response| {
        if let Some(retried) = retried {
            R::mark(&mut response, retried);
        }
        response
    })
}

/// How long a layer of this crate that refused the attempt asks to wait.
#[cfg(feature = "circuit-breaker")]
fn asks_to_wait(error: &BoxError) -> Option<Duration> {
    let open = error.downcast_ref::<crate::error::CircuitOpen>()?;
    open.retry_after()
}

#[cfg(not(feature = "circuit-breaker"))]
fn asks_to_wait(_: &BoxError) -> Option<Duration> {
    None
}

/// Ready when the request's deadline has passed.
fn late(
    alarm: &mut Option<Pin<Box<Alarm>>>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match deadline {
        Some(deadline) => {
            let alarm = alarm.get_or_insert_with(|| Box::pin(Alarm::new()));
            alarm.as_mut().poll(deadline, cx)
        }
        None => Poll::Pending,
    }
}

/// The grace of a shutdown is over, and the attempt is dropped.
fn cut<Res, R: Source<Res>>(turn: Option<&Turn<R>>, rules: &Rules) -> BoxError {
    match turn {
        Some(turn) => turn.cut(rules).into(),
        None => ShuttingDown::cut(rules.host.clone().unwrap_or_default(), 1, None).into(),
    }
}

/// The deadline has passed, and the attempt is dropped.
fn too_late<Res, R: Source<Res>>(turn: Option<&Turn<R>>, rules: &Rules) -> BoxError {
    if let Some(turn) = turn {
        turn.cut_short(rules, Ending::Deadline, Fault::Deadline);
    }
    DeadlineExceeded::sent().into()
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}

impl<S, Req, C, R> fmt::Debug for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
