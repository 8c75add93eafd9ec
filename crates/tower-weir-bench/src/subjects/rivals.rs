//! What is no tower layer: called the way each documents, around the same inner
//! service.

use std::{fmt, hint::black_box, sync::Arc};

use congestion_limiter::{
    limiter::{DefaultLimiter, Limiter, Outcome},
    limits::Aimd,
};
use failsafe::futures::CircuitBreaker;
use recloser::{AsyncRecloser, Recloser};
use tower::Service;

use super::{BAD, Call, Fault, Inner, Subject, inner, refused};

#[derive(Clone)]
struct Guarded<G> {
    guard: G,
    inner: Inner,
    number: u64,
}

/// A call that reaches the inner service when it is polled, as theirs would.
async fn lazily(mut inner: Inner, number: u64) -> Result<u64, Fault> {
    inner.call(black_box(number)).await
}

impl<G> Guarded<G> {
    fn new(guard: G) -> Self {
        Self {
            guard,
            inner: inner(),
            number: 1,
        }
    }
}

impl Call for Guarded<AsyncRecloser> {
    type Error = recloser::Error<Fault>;

    async fn call(&mut self) -> Result<(), Self::Error> {
        let call = lazily(self.inner, self.number);
        black_box(self.guard.call(call).await?);
        Ok(())
    }

    fn future_size(&mut self) -> usize {
        size_of_val(&self.guard.call(lazily(self.inner, self.number)))
    }
}

/// failsafe's breaker, whose type is long.
#[derive(Clone)]
struct Failsafe<B>(B);

impl<B> Call for Guarded<Failsafe<B>>
where
    B: CircuitBreaker + Clone + Send + Sync + 'static,
{
    type Error = failsafe::Error<Fault>;

    async fn call(&mut self) -> Result<(), Self::Error> {
        let call = lazily(self.inner, self.number);
        black_box(self.guard.0.call(call).await?);
        Ok(())
    }

    fn future_size(&mut self) -> usize {
        size_of_val(&self.guard.0.call(lazily(self.inner, self.number)))
    }
}

impl Call for Guarded<Arc<DefaultLimiter<Aimd>>> {
    type Error = Fault;

    async fn call(&mut self) -> Result<(), Fault> {
        let token = self.guard.try_acquire().await.ok_or(Fault)?;
        let answer = lazily(self.inner, self.number).await;
        self.guard.release(token, Some(Outcome::Success)).await;
        black_box(answer?);
        Ok(())
    }

    fn future_size(&mut self) -> usize {
        size_of_val(&Call::call(self))
    }
}

fn recloser(calls: usize) -> Guarded<AsyncRecloser> {
    let recloser = Recloser::custom().closed_len(calls).build();
    Guarded::new(AsyncRecloser::from(recloser))
}

fn failsafe() -> Guarded<Failsafe<impl CircuitBreaker + Clone + Send + Sync + fmt::Debug + 'static>>
{
    Guarded::new(Failsafe(failsafe::Config::new().build()))
}

pub(super) fn generic() -> Vec<Subject> {
    let limit = DefaultLimiter::new(Aimd::new(256, 1..=256));
    vec![
        Subject::new("recloser", recloser(100)),
        Subject::new("failsafe", failsafe()),
        Subject::new("congestion-limiter", Guarded::new(Arc::new(limit))),
    ]
}

pub(super) fn windows() -> Vec<Subject> {
    let counted = [100, 10_000]
        .map(|calls| Subject::new(format!("recloser, last {calls} calls"), recloser(calls)));
    counted.into_iter().collect()
}

pub(super) fn open_breakers() -> Vec<Subject> {
    let (mut recloser, mut failsafe) = (recloser(100), failsafe());
    (recloser.number, failsafe.number) = (BAD, BAD);
    vec![
        Subject::new("open: recloser", refused(recloser)),
        Subject::new("open: failsafe", refused(failsafe)),
    ]
}
