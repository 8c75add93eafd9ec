//! Clients with the whole stack, in front of a server that is full or dead. The
//! example `breaker_goodput` prints what the tests assert.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    circuit_breaker::{BreakerConfig, ChangeCause, CountRefusals, State},
    error::CircuitOpen,
    observe::Event,
    outcome::classify_fn,
};

use crate::server::{Answer, Does, Server, judge};

/// What the stack's breaker is told; `None` turns it off.
pub(crate) type Breaker = Option<fn(BreakerConfig) -> BreakerConfig>;

pub(crate) const OFF: Breaker = None;
pub(crate) const DEFAULT: Breaker = Some(|config| config);
/// Every refusal is a failure, 429 too.
pub(crate) const LITERAL: Breaker = Some(|config| config.count_refusals(CountRefusals::Always));

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// As much as goes in this time.
    For(Duration),
    /// So many requests by each client.
    Requests(usize),
}

/// Clients, each with its own stack and so many callers who always have work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) callers: usize,
    pub(crate) work: Work,
    pub(crate) bulk: bool,
    pub(crate) breaker: Breaker,
    pub(crate) seed: u64,
}

/// A server that is full, and who wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Full {
    /// 16 clients of 8 callers on 4 slots.
    Crowd,
    /// One client of 64 callers on 4 slots.
    Alone,
    /// The same on 32 slots, then 4, then 32 again.
    Step,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) done: usize,
    /// What the upstream answered otherwise in the end.
    pub(crate) failed: usize,
    /// What an open circuit refused in the end.
    pub(crate) refused: usize,
    pub(crate) wall: Duration,
    /// When circuits opened, and why.
    pub(crate) openings: Vec<(Duration, ChangeCause)>,
    pub(crate) closings: Vec<Duration>,
}

impl Report {
    pub(crate) fn lost(&self) -> usize {
        self.failed + self.refused
    }

    /// Requests done in a second.
    pub(crate) fn goodput(&self) -> f64 {
        self.done as f64 / self.wall.as_secs_f64()
    }

    fn count(&mut self, answer: Result<Answer, BoxError>) {
        match answer {
            Ok(Answer::Done) => self.done += 1,
            Ok(_) => self.failed += 1,
            Err(error) if error.is::<CircuitOpen>() => self.refused += 1,
            Err(_) => self.failed += 1,
        }
    }
}

impl Full {
    pub(crate) const ALL: [Self; 3] = [Self::Crowd, Self::Alone, Self::Step];

    /// Runs its clients against it: for a time as they are by default, or with
    /// `.bulk()` until their requests are done.
    pub(crate) async fn run(
        self,
        refusal: Answer,
        work: Work,
        breaker: Breaker,
        seed: u64,
    ) -> Report {
        let serves = |slots| Does::Serves(slots, refusal);
        let (clients, callers, phases) = match self {
            Self::Crowd => (16, 8, vec![(0, serves(4))]),
            Self::Alone => (1, 64, vec![(0, serves(4))]),
            Self::Step => {
                let phases = vec![(0, serves(32)), (20, serves(4)), (40, serves(32))];
                (1, 64, phases)
            }
        };
        let crowd = Crowd {
            clients,
            callers,
            work,
            bulk: matches!(work, Work::Requests(_)),
            breaker,
            seed,
        };
        crowd.run(&Server::new(&phases, seed)).await
    }
}

impl Crowd {
    /// Runs them against a server until their work is done.
    pub(crate) async fn run(self, server: &Server) -> Report {
        let Self {
            clients,
            callers,
            work,
            bulk,
            breaker,
            seed,
        } = self;
        let start = Instant::now();
        let report = Arc::new(Mutex::new(Report::default()));
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let weir = Weir::new(classify_fn(judge));
            let weir = if bulk { weir.bulk() } else { weir };
            let seen = report.clone();
            let weir = weir
                .seed(seed * 1000 + client as u64)
                .attempt_timeout(Duration::from_secs(2))
                .breaker_enabled(breaker.is_some())
                .breaker(breaker.unwrap_or(|config| config))
                .observe(move |_, event| {
                    let mut seen = seen.lock().unwrap();
                    match event {
                        Event::Circuit(change) if change.to == State::Open => {
                            seen.openings.push((start.elapsed(), change.cause));
                        }
                        Event::Circuit(change) if change.to == State::Closed => {
                            seen.closings.push(start.elapsed());
                        }
                        _ => {}
                    }
                });
            let sent = Arc::new(AtomicUsize::new(0));
            for _ in 0..callers {
                let target = server.clone();
                let mut service = ServiceBuilder::new()
                    .layer(weir.clone())
                    .service(service_fn(move |_: u32| target.clone().serve()));
                let (sent, report) = (sent.clone(), report.clone());
                tasks.spawn(async move {
                    while match work {
                        Work::For(time) => start.elapsed() < time,
                        Work::Requests(requests) => sent.fetch_add(1, Ordering::Relaxed) < requests,
                    } {
                        let answer = service.ready().await.unwrap().call(0).await;
                        let refused = answer.is_err();
                        report.lock().unwrap().count(answer);
                        if refused {
                            // Somebody else's work comes first.
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let mut report = std::mem::take(&mut *report.lock().unwrap());
        report.wall = start.elapsed();
        report
    }
}

/// One client in front of a server that does something else from 20 s to 60 s,
/// of 120 s.
pub(crate) async fn outage(does: Does, bulk: bool) -> (Report, Server) {
    let alive = Does::Serves(4, Answer::Throttled);
    let server = Server::new(&[(0, alive), (20, does), (60, alive)], 1);
    let crowd = Crowd {
        clients: 1,
        callers: 16,
        work: Work::For(Duration::from_secs(120)),
        bulk,
        breaker: DEFAULT,
        seed: 1,
    };
    (crowd.run(&server).await, server)
}
