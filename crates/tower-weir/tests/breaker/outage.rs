//! 20 s without an upstream, under 200 calls a second with retries.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    circuit_breaker::{ChangeCause, CircuitBreakerLayer, State, Transition},
    error::CircuitOpen,
    observe::Event,
    retry::{ReplayBody, RetryLayer},
};

use crate::rig::seconds;

const A_SECOND_OF_LOAD: usize = 200;
const EVERY: Duration = Duration::from_millis(5);
const OUTAGE: Duration = seconds(20);

/// What reached the upstream during its outage, before and after the trip, and
/// what the circuit did, in time since the upstream died.
struct Seen {
    before: usize,
    after: usize,
    changes: Vec<(Duration, Transition)>,
}

/// The upstream is well for so long, and dead for 20 s. It takes a time to answer.
async fn outage(well: Duration, answers_in: Duration) -> Seen {
    let start = Instant::now();
    let died = start + well;
    let back = died + OUTAGE;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (sent, changed) = (attempts.clone(), changes.clone());
    let breaker = CircuitBreakerLayer::http().seed(1);
    let breaker = breaker.observe(move |_, event| {
        if let Event::Circuit(change) = event {
            changed.lock().unwrap().push((died.elapsed(), *change));
        }
    });
    let service = ServiceBuilder::new()
        .layer(RetryLayer::http().seed(1))
        .layer(breaker)
        .service(service_fn(move |_: Request<ReplayBody<String>>| {
            let now = Instant::now();
            sent.lock().unwrap().push(now);
            async move {
                sleep(answers_in).await;
                let status = if (died..back).contains(&now) {
                    500
                } else {
                    200
                };
                let response = Response::builder().status(status);
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
            }
        }));
    let mut calls = JoinSet::new();
    let mut next = start;
    while next < back + seconds(25) {
        sleep_until(next).await;
        next += EVERY;
        let request = Request::get("http://index.test/").body(String::new());
        let call = service.clone().oneshot(request.unwrap());
        calls.spawn(async move {
            match call.await {
                Ok(response) => assert!([200, 500].contains(&response.status().as_u16())),
                Err(error) => assert!(error.is::<CircuitOpen>(), "{error}"),
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    let changes = std::mem::take(&mut *changes.lock().unwrap());
    let tripped = died + changes[0].0;
    let attempts = attempts.lock().unwrap();
    let during = |from: Instant, to| attempts.iter().filter(|at| (from..to).contains(at)).count();
    Seen {
        before: during(died, tripped),
        after: during(tripped, back),
        changes,
    }
}

fn only_probes_follow(seen: &Seen, answers_in: Duration) {
    let rounds = |seen: &Seen| {
        let half_open = |(_, change): &&(Duration, Transition)| change.to == State::HalfOpen;
        let during = seen.changes.iter().filter(|(at, _)| *at < OUTAGE);
        during.filter(half_open).count()
    };
    assert_eq!(seen.after, rounds(seen));
    let mut changes = seen.changes.iter().rev();
    let open_for = changes.find_map(|(_, change)| change.open_for).unwrap();
    let (closed, last) = seen.changes[seen.changes.len() - 1];
    assert_eq!((last.from, last.to), (State::HalfOpen, State::Closed));
    let probes = 2 * answers_in;
    assert!(
        closed <= OUTAGE + open_for + probes + 4 * EVERY,
        "{closed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn it_gets_less_than_a_second_of_load_however_long_it_was_well() {
    let cause = |well| match well {
        2 => ChangeCause::FailureRate,
        _ => ChangeCause::FailureRun,
    };
    for (well, answers_in) in [(2, 2), (6, 2), (300, 2), (300, 100)] {
        let answers_in = Duration::from_millis(answers_in);
        let seen = outage(seconds(well), answers_in).await;
        assert_eq!(seen.changes[0].1.cause, cause(well), "after {well} s");
        assert!(seen.before <= A_SECOND_OF_LOAD, "{}", seen.before);
        only_probes_follow(&seen, answers_in);
    }
}
