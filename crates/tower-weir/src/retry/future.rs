use std::{
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
    RetryPolicy,
    policy::{Next, Progress},
    source::{Drain, Retried, Source, poll_drain},
};
use crate::{
    BoxError,
    alarm::Alarm,
    error::DeadlineExceeded,
    observe::Event,
    outcome::{Classify, Outcome, Refusal, Repeat, Verdict, judge},
};

pin_project! {
    /// The future of a [`Retry`](super::Retry) service's answer.
    pub struct ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S::Future, Req>,
        #[pin]
        deadline: Alarm,
        inner: S,
        policy: Arc<RetryPolicy<C>>,
        // None where nothing is ever repeated.
        request: Option<(R, Progress)>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Req> {
        Attempt { #[pin] future: F },
        // Boxed: most requests never come here, and should not be larger for it.
        Backoff { pause: Box<Pause<Req>> },
        Done,
    }
}

/// Between two attempts. The next one's request is made before the wait, so
/// that an attempt that still sends the body stops doing so.
struct Pause<Req> {
    sleep: Pin<Box<Sleep>>,
    slept: bool,
    drain: Option<Drain>,
    request: Option<Req>,
}

impl<Req> Pause<Req> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.slept {
            poll_drain(&mut self.drain, cx);
            ready!(self.sleep.as_mut().poll(cx));
            self.slept = true;
            self.drain = None;
        }
        Poll::Ready(())
    }
}

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
{
    pub(super) fn new(
        inner: S,
        future: S::Future,
        policy: Arc<RetryPolicy<C>>,
        request: Option<(R, Progress)>,
    ) -> Self {
        Self {
            state: State::Attempt { future },
            deadline: Alarm::new(),
            inner,
            policy,
            request,
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
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    let Poll::Ready(result) = future.poll(cx) else {
                        ready!(late(this.deadline.as_mut(), this.request.as_ref(), cx));
                        break Err(DeadlineExceeded::new().into());
                    };
                    match after_attempt(this.policy, this.request, result.map_err(Into::into)) {
                        Ok(pause) => this.state.set(State::Backoff { pause }),
                        Err(result) => break result,
                    }
                }
                StateProj::Backoff { pause } => {
                    ready!(pause.poll(cx));
                    match this.inner.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => break Err(error.into()),
                        Poll::Pending => {
                            ready!(late(this.deadline.as_mut(), this.request.as_ref(), cx));
                            break Err(DeadlineExceeded::new().into());
                        }
                    }
                    let Some(request) = pause.request.take() else {
                        break Err(polled_again());
                    };
                    let future = this.inner.call(request);
                    this.state.set(State::Attempt { future });
                }
                StateProj::Done => break Err(polled_again()),
            }
        };
        this.state.set(State::Done);
        // While there is a handle on the request's body, what is sent of it is
        // recorded.
        *this.request = None;
        Poll::Ready(result)
    }
}

/// Hands the result back (`Err`), or prepares the next attempt.
#[allow(clippy::type_complexity, reason = "a result in a result is what it is")]
fn after_attempt<Res, C, R>(
    policy: &RetryPolicy<C>,
    request: &mut Option<(R, Progress)>,
    result: Result<Res, BoxError>,
) -> Result<Box<Pause<R::Request>>, Result<Res, BoxError>>
where
    C: Classify<Res>,
    R: Source<Res>,
{
    let Some((source, progress)) = request else {
        return Err(result);
    };
    let outcome = judge(&policy.classifier, progress.protocol(), result.as_ref());
    let attempts = progress.attempts();
    let next = match next(policy, progress, &outcome, &result) {
        Next::Retry(delay) => source.again(progress.attempts()).map(|next| (delay, next)),
        Next::Return(_) => None,
    };
    if matches!(outcome.verdict, Verdict::Refused(Refusal::Throttled)) {
        policy.seam.throttled(source.host(), outcome.cause);
    }
    let Some((delay, next)) = next else {
        return Err(result.map(|mut response| {
            if attempts > 1 {
                R::mark(&mut response, Retried { attempts });
            }
            response
        }));
    };
    policy.seam.tell(
        source.host(),
        Event::Retry {
            cause: outcome.cause,
            attempt: attempts + 1,
            max_attempts: progress.max_attempts(policy),
            delay,
            hint: outcome.hint,
        },
    );
    // An answer that only the policy takes amiss still has its slot, which must
    // not wait for the body's end.
    let good = outcome.verdict == Verdict::Success && outcome.repeat == Repeat::Never;
    let discarded = result.ok().filter(|_| !good);
    Ok(Box::new(Pause {
        sleep: Box::pin(sleep(delay)),
        slept: false,
        drain: discarded.and_then(R::discard),
        request: Some(next),
    }))
}

fn next<Res, C>(
    policy: &RetryPolicy<C>,
    progress: &mut Progress,
    outcome: &Outcome,
    result: &Result<Res, BoxError>,
) -> Next {
    let local = result.as_ref().err().and_then(asks_to_wait);
    progress.decide(policy, outcome, local, Instant::now())
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
fn late<R>(
    alarm: Pin<&mut Alarm>,
    request: Option<&(R, Progress)>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match request.and_then(|(_, progress)| progress.deadline()) {
        Some(deadline) => alarm.poll(deadline, cx),
        None => Poll::Pending,
    }
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
