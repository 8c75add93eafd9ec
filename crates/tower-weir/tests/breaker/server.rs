use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep};
use tower_weir::{BoxError, outcome::Outcome};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Done,
    /// 429.
    Throttled,
    /// 503.
    Unavailable,
    Broken,
}

pub(crate) fn judge(result: Result<&Answer, &BoxError>) -> Outcome {
    match result {
        Ok(Answer::Done) => Outcome::success(),
        Ok(Answer::Throttled) => Outcome::throttled(),
        Ok(Answer::Unavailable) => Outcome::unavailable(),
        Ok(Answer::Broken) | Err(_) => Outcome::failed(),
    }
}

/// What a server does from some moment on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Serves so many calls at once, and refuses the others with this answer.
    Serves(usize, Answer),
    /// Gives every call this answer.
    Answers(Answer),
    /// Answers nothing.
    Hangs,
}

/// A server of 100 ms a call, 30 ms more or less, that refuses within 3 ms.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    start: Instant,
    phases: Vec<(Duration, Does)>,
    state: Mutex<State>,
}

struct State {
    in_flight: usize,
    rng: SmallRng,
    attempts: Vec<Duration>,
}

impl Server {
    /// Its phases, each with its beginning; the seed is that of its service times.
    pub(crate) fn new(phases: &[(u64, Does)], seed: u64) -> Self {
        let phase = |&(from, does): &_| (Duration::from_secs(from), does);
        Self(Arc::new(Inner {
            start: Instant::now(),
            phases: phases.iter().map(phase).collect(),
            state: Mutex::new(State {
                in_flight: 0,
                rng: SmallRng::seed_from_u64(seed),
                attempts: Vec::new(),
            }),
        }))
    }

    fn does(&self) -> Does {
        let now = self.0.start.elapsed();
        let begun = self.0.phases.iter().rev().find(|(from, _)| now >= *from);
        begun.unwrap().1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// When each call came.
    pub(crate) fn attempts(&self) -> Vec<Duration> {
        self.lock().attempts.clone()
    }

    pub(crate) async fn serve(self) -> Result<Answer, BoxError> {
        self.lock().attempts.push(self.0.start.elapsed());
        match self.does() {
            Does::Serves(slots, _) if self.lock().in_flight < slots => {}
            Does::Serves(_, answer) | Does::Answers(answer) => {
                sleep(Duration::from_millis(3)).await;
                return Ok(answer);
            }
            Does::Hangs => std::future::pending().await,
        }
        let slot = Slot::take(&self);
        let spread = self.lock().rng.random_range(0.7..1.3);
        sleep(Duration::from_millis(100).mul_f64(spread)).await;
        drop(slot);
        Ok(Answer::Done)
    }
}

/// Taken until it is dropped, for callers go away too.
struct Slot<'a>(&'a Server);

impl<'a> Slot<'a> {
    fn take(server: &'a Server) -> Self {
        server.lock().in_flight += 1;
        Self(server)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
