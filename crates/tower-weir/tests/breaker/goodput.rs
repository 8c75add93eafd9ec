//! Retries, breaker and limiter together in front of a server that is full, or
//! dead.

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
    circuit_breaker::{ChangeCause, CountRefusals, State},
    error::CircuitOpen,
    observe::Event,
    outcome::classify_fn,
};

use crate::{
    rig::seconds,
    server::{Answer, Does, Server, judge},
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaker {
    Off,
    Default,
    /// Every refusal is a failure, 429 too.
    Literal,
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// As much as goes in this time.
    For(Duration),
    /// So many requests by each client.
    Requests(usize),
}

/// Clients, each with its own stack and so many callers who always have work.
#[derive(Clone, Copy, Debug)]
struct Load {
    clients: usize,
    callers: usize,
    bulk: bool,
}

#[derive(Clone, Debug, Default)]
struct Report {
    done: usize,
    /// What the upstream answered otherwise in the end.
    failed: usize,
    /// What an open circuit refused in the end.
    refused: usize,
    wall: Duration,
    /// When circuits opened, and why.
    openings: Vec<(Duration, ChangeCause)>,
    closings: Vec<Duration>,
}

impl Report {
    fn lost(&self) -> usize {
        self.failed + self.refused
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

async fn run(load: Load, breaker: Breaker, server: &Server, work: Work) -> Report {
    let start = Instant::now();
    let report = Arc::new(Mutex::new(Report::default()));
    let mut callers = JoinSet::new();
    for client in 0..load.clients {
        let weir = Weir::new(classify_fn(judge));
        let weir = if load.bulk { weir.bulk() } else { weir };
        let seen = report.clone();
        let weir = weir
            .seed(client as u64)
            .attempt_timeout(seconds(2))
            .breaker_enabled(breaker != Breaker::Off)
            .breaker(|config| match breaker {
                Breaker::Literal => config.count_refusals(CountRefusals::Always),
                Breaker::Off | Breaker::Default => config,
            })
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
        for _ in 0..load.callers {
            let target = server.clone();
            let mut service = ServiceBuilder::new()
                .layer(weir.clone())
                .service(service_fn(move |_: u32| target.clone().serve()));
            let (sent, report) = (sent.clone(), report.clone());
            callers.spawn(async move {
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
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let mut report = std::mem::take(&mut *report.lock().unwrap());
    report.wall = start.elapsed();
    report
}

/// A load, the server's phases, and how many requests each client of a bulk run
/// has.
type Case = (Load, Vec<(u64, Does)>, usize);

/// 16 clients on 4 slots; one on 4; one on 32, then 4, then 32 again.
fn full(refusal: Answer) -> [Case; 3] {
    let load = |clients, callers| Load {
        clients,
        callers,
        bulk: false,
    };
    let serves = |slots| Does::Serves(slots, refusal);
    [
        (load(16, 8), vec![(0, serves(4))], 200),
        (load(1, 64), vec![(0, serves(4))], 2400),
        (
            load(1, 64),
            vec![(0, serves(32)), (20, serves(4)), (40, serves(32))],
            12_000,
        ),
    ]
}

async fn on_a_full_server(refusal: Answer, bulk: bool, breaker: Breaker, seed: u64) -> [Report; 3] {
    let mut reports = [(); 3].map(|()| Report::default());
    for (report, (load, phases, requests)) in reports.iter_mut().zip(full(refusal)) {
        let work = if bulk {
            Work::Requests(requests)
        } else {
            Work::For(seconds(60))
        };
        let server = Server::new(&phases, seed);
        *report = run(Load { bulk, ..load }, breaker, &server, work).await;
    }
    reports
}

#[tokio::test(start_paused = true)]
async fn throttling_that_the_limiter_handles_opens_nothing_and_costs_nothing() {
    for bulk in [false, true] {
        let without = on_a_full_server(Answer::Throttled, bulk, Breaker::Off, 1).await;
        let with = on_a_full_server(Answer::Throttled, bulk, Breaker::Default, 1).await;
        for (with, without) in with.iter().zip(&without) {
            assert_eq!(with.openings, []);
            let goodput = |report: &Report| report.done as f64 / report.wall.as_secs_f64();
            assert!(goodput(with) >= 0.98 * goodput(without), "{with:?}");
            assert_eq!(with.refused, 0);
            assert!(!bulk || with.lost() == 0, "{with:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_by_503_costs_a_tenth_at_most() {
    for seed in 1..=3 {
        let refusal = Answer::Unavailable;
        let without = on_a_full_server(refusal, true, Breaker::Off, seed).await;
        let with = on_a_full_server(refusal, true, Breaker::Default, seed).await;
        for (with, without) in with.iter().zip(&without) {
            assert_eq!((with.done, with.lost()), (without.done, 0));
            assert!(with.wall <= without.wall.mul_f64(1.1), "{with:?}");
        }
        // Clients who starve each other look dead to each other, and the short
        // open periods keep that cheap; one who has the server alone does not.
        assert!(!with[0].openings.is_empty());
        assert_eq!((with[1].openings.len(), with[2].openings.len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_literal_rule_refuses_most_of_what_the_limiter_would_get_through() {
    let [usual, ..] = on_a_full_server(Answer::Throttled, false, Breaker::Default, 1).await;
    let [literal, ..] = on_a_full_server(Answer::Throttled, false, Breaker::Literal, 1).await;
    assert!(usual.lost() * 4 < usual.done, "{usual:?}");
    assert!(literal.openings.len() >= 16, "{literal:?}");
    assert!(literal.refused > literal.done * 4, "{literal:?}");
    // A run that waits for its circuits gets everything done all the same.
    let [bulk, ..] = on_a_full_server(Answer::Throttled, true, Breaker::Literal, 1).await;
    assert_eq!((bulk.done, bulk.lost()), (16 * 200, 0));
}

/// 40 s of it in 120 s.
async fn outage(does: Does, bulk: bool) -> (Report, Server) {
    let alive = Does::Serves(4, Answer::Throttled);
    let server = Server::new(&[(0, alive), (20, does), (60, alive)], 1);
    let load = Load {
        clients: 1,
        callers: 16,
        bulk,
    };
    let work = Work::For(seconds(120));
    (run(load, Breaker::Default, &server, work).await, server)
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_opens_it_however_it_shows() {
    let dead = [
        (Does::Answers(Answer::Broken), seconds(3)),
        (Does::Answers(Answer::Unavailable), seconds(15)),
        (Does::Hangs, seconds(15)),
    ];
    for (does, within) in dead {
        for bulk in [false, true] {
            let (report, server) = outage(does, bulk).await;
            let (opened, cause) = report.openings[0];
            assert!(opened <= seconds(20) + within, "{report:?}");
            assert_ne!(cause, ChangeCause::ProbeFailed);
            // From then on there are only probes, each of which opened it again.
            let reopened = &report.openings[1..];
            assert!(
                reopened
                    .iter()
                    .all(|(_, cause)| *cause == ChangeCause::ProbeFailed)
            );
            let outage = opened..seconds(60);
            let attempts = server.attempts().into_iter();
            let probes = attempts.filter(|at| *at > opened && outage.contains(at));
            assert_eq!(probes.count(), reopened.len(), "{report:?}");
            // Found again within one open period of its return, and the time of
            // a probe that was under way, and closed for good.
            let cap = if bulk { 5 } else { 15 };
            let period = seconds(cap).mul_f64(1.2) + seconds(2);
            let [closed] = report.closings[..] else {
                panic!("{report:?}");
            };
            assert!(closed <= seconds(60) + period + seconds(1), "{report:?}");
            if bulk {
                assert_eq!(report.refused, 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_run_loses_nothing_to_a_server_that_answers_503_and_nothing_else() {
    let (report, _) = outage(Does::Answers(Answer::Unavailable), true).await;
    assert_eq!(report.lost(), 0, "{report:?}");
}
