//! A breaker in front of an upstream that dies for 20 s under load and comes back,
//! with retries outside: over HTTP and gRPC, with 200 calls a second.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, error_handling::HandleErrorLayer, routing::post};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tests::{
    BoxError,
    circuit::opens_after,
    client::{Over, channel, hyper},
    wait::{until, within},
};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::Code;
use tower::{Service, ServiceBuilder, ServiceExt, util::MapRequestLayer};
use tower_weir::{
    circuit_breaker::{
        BreakerConfig, ChangeCause, CircuitBreakerLayer, FailureRun, State, Transition,
    },
    error::CircuitOpen,
    observe::Event,
    retry::RetryLayer,
};
use tower_weir_testkit::{
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::{Answer, Phase, ServiceTime, Trouble, TroubleKind, Upstream},
};

const EVERY: Duration = Duration::from_millis(5);
const A_SECOND_OF_LOAD: usize = 200;
/// So many that 15% of them are more than a second of load: it is the run that
/// has to open the circuit.
const WELL: usize = 10 * A_SECOND_OF_LOAD;
const DEAD: Duration = Duration::from_secs(20);
/// Longer than any retry waits.
const HANG: Duration = Duration::from_secs(10);

/// What the caller of one call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Answer,
    /// The upstream's own failure.
    Failure,
    CircuitOpen,
    Other,
}

/// What happened, and when.
#[derive(Clone, Default)]
struct Log {
    attempts: Arc<Mutex<Vec<Instant>>>,
    changes: Arc<Mutex<Vec<(Instant, Transition)>>>,
    got: Arc<Mutex<Vec<(Got, Instant, Duration)>>>,
}

impl Log {
    /// The breaker that is watched.
    fn breaker(&self) -> CircuitBreakerLayer {
        let changes = self.changes.clone();
        CircuitBreakerLayer::http()
            .seed(1)
            .observe(move |_, event| {
                if let Event::Circuit(change) = event {
                    changes.lock().unwrap().push((Instant::now(), *change));
                }
            })
    }

    /// Between the breaker and the client: what is sent.
    fn attempts<R>(&self) -> MapRequestLayer<impl Fn(R) -> R + Clone + use<R>> {
        let attempts = self.attempts.clone();
        MapRequestLayer::new(move |request| {
            attempts.lock().unwrap().push(Instant::now());
            request
        })
    }
}

async fn upstream() -> Upstream {
    let builder = Upstream::builder().slots(1000);
    let quick = ServiceTime::constant(Duration::from_millis(1));
    builder.service_time(quick).start().await.unwrap()
}

/// Every request is answered by a server error.
fn broken() -> Phase {
    let answer = Answer::status(StatusCode::INTERNAL_SERVER_ERROR);
    Phase {
        troubles: vec![Trouble::always(TroubleKind::Answer(answer))],
        ..Phase::default()
    }
}

/// Nothing listens.
fn gone() -> Phase {
    Phase {
        lasts: None,
        ..Phase::outage(DEAD)
    }
}

/// Calls 200 times a second, until the circuit has closed again, and checks what
/// became of it. A machine that is too slow makes fewer calls, so load is bounded in
/// calls, not in time.
async fn dies<F>(upstream: &Upstream, death: Phase, log: Log, call: impl Fn() -> F)
where
    F: Future<Output = Got> + Send + 'static,
{
    let mut calls = JoinSet::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let (mut died, mut back) = (None, None);
    let closed = || {
        let changes = log.changes.lock().unwrap();
        changes
            .last()
            .is_some_and(|(_, change)| change.to == State::Closed)
    };
    while back.is_none() || !closed() {
        let now = ticks.tick().await;
        assert!(now < start + Duration::from_secs(180), "it stays open");
        let heard = upstream.stats().attempts;
        if died.is_none() && calls.len() == WELL {
            upstream.set_phase(death.clone()).unwrap();
            died = Some((Instant::now(), heard));
        }
        if back.is_none() && died.is_some_and(|(died, _)| now >= died + DEAD) {
            back = Some((Instant::now(), heard));
            upstream.set_phase(Phase::default()).unwrap();
        }
        let (call, got) = (call(), log.got.clone());
        calls.spawn(async move {
            let made = Instant::now();
            let answer = call.await;
            got.lock().unwrap().push((answer, made, made.elapsed()));
        });
    }
    let ((died, heard), (back, heard_since)) = (died.unwrap(), back.unwrap());
    let made = calls.len();
    within("a call hangs", async {
        while calls.join_next().await.is_some() {}
    })
    .await;

    let got = log.got.lock().unwrap();
    let count = |kind| got.iter().filter(|(got, ..)| *got == kind).count();
    let calls = |from: Instant, to: Instant| {
        let calls = got.iter().filter(|(_, made, _)| (from..to).contains(made));
        calls.count()
    };
    assert_eq!(got.len(), made);
    assert_eq!(count(Got::Other), 0);
    assert!(count(Got::Answer) >= WELL * 9 / 10);
    assert!(count(Got::CircuitOpen) > calls(died, back) * 3 / 4);
    let longest = got.iter().map(|(.., took)| *took).max().unwrap();
    assert!(longest < HANG, "{longest:?}");

    let changes = log.changes.lock().unwrap();
    let (tripped, first) = changes[0];
    assert_eq!((first.from, first.to), (State::Closed, State::Open));
    assert_eq!(first.cause, ChangeCause::FailureRun);
    let probed = |(_, change): &&(Instant, Transition)| change.to == State::HalfOpen;
    let rounds = changes.iter().filter(probed).count();
    let attempts = log.attempts.lock().unwrap();
    let within = |from: Instant, to: Instant| {
        let attempts = attempts.iter().filter(|at| (from..to).contains(at));
        attempts.count()
    };
    // While it is dead, each round of probes ends with its first.
    assert!(within(died, back) <= A_SECOND_OF_LOAD + rounds);
    assert!(within(tripped, back) <= rounds, "{changes:?}");
    assert!(heard_since - heard <= (A_SECOND_OF_LOAD + rounds) as u64);

    let (_, last) = changes[changes.len() - 1];
    assert_eq!((last.from, last.to), (State::HalfOpen, State::Closed));
    // The first call after an open period is the probe, and the first round of
    // them that is answered again closes the circuit.
    for ((at, change), (next, _)) in changes.iter().zip(&changes[1..]) {
        if let Some(open_for) = change.open_for {
            assert!(calls(*at + open_for, *next) <= 1, "{changes:?}");
        }
    }
    let since = changes.iter().filter(|(at, _)| *at >= back);
    // None, if the probe that closed it was under way.
    assert!(since.filter(probed).count() <= 1, "{changes:?}");
}

async fn over_http(over: Over, death: Phase) {
    let upstream = upstream().await;
    let log = Log::default();
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::http().seed(1))
        .layer(log.breaker())
        .layer(log.attempts())
        .service(hyper(over));
    let url = upstream.url();
    dies(&upstream, death, log, || {
        let request = Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
        let call = stack.clone().oneshot(request);
        async move {
            match call.await {
                Ok(response) => {
                    let status = response.status();
                    let body = response.into_body().collect().await;
                    match (status, body) {
                        (StatusCode::OK, Ok(_)) => Got::Answer,
                        _ => Got::Failure,
                    }
                }
                Err(error) => failure(&error),
            }
        }
    })
    .await;
}

/// An error is our refusal, or the client's own.
fn failure(error: &BoxError) -> Got {
    if error.is::<CircuitOpen>() {
        Got::CircuitOpen
    } else if error.is::<hyper_util::client::legacy::Error>() {
        Got::Failure
    } else {
        Got::Other
    }
}

async fn over_grpc(death: Phase) {
    let upstream = upstream().await;
    let log = Log::default();
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::grpc().seed(1))
        .layer(log.breaker().for_host("index"))
        .layer(log.attempts())
        .service(channel(&upstream.url()));
    let client = VectorIndexClient::new(stack);
    dies(&upstream, death, log, || {
        let mut client = client.clone();
        async move {
            match client.query(QueryRequest::default()).await {
                Ok(_) => Got::Answer,
                Err(status) if status.message().starts_with("circuit open for index") => {
                    assert_eq!(status.code(), Code::Unavailable);
                    Got::CircuitOpen
                }
                Err(status) => match status.code() {
                    // tonic's word for one that it had taken and not yet sent.
                    Code::Cancelled | Code::Internal | Code::Unavailable | Code::Unknown => {
                        Got::Failure
                    }
                    _ => Got::Other,
                },
            }
        }
    })
    .await;
}

/// Side by side, since each takes its time.
#[tokio::test]
async fn a_server_that_dies_for_twenty_seconds_gets_a_second_of_load() {
    tokio::join!(
        over_http(Over::Http1, broken()),
        over_http(Over::Http2, gone()),
        over_grpc(broken()),
        over_grpc(gone()),
    );
}

/// What the rule for an outage under load must not take for one: 400 calls fail by
/// one connection, and are sent again at once.
#[tokio::test]
async fn a_lost_connection_opens_nothing_however_many_calls_shared_it() {
    let upstream = upstream().await;
    // A run need not last: only the hundred calls that are wanted hold it back.
    let run = FailureRun::new(10_000, Duration::ZERO).sooner(100);
    let config = BreakerConfig::default().failure_run(run);
    let breaker = CircuitBreakerLayer::http().config(config);
    let layers = ServiceBuilder::new().layer(breaker.clone());
    let service = layers.service(hyper(Over::Http2));
    let url = upstream.url();
    let send = || {
        let request = Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
        service.clone().oneshot(request)
    };
    // A history in which 400 failures are no rate.
    for _ in 0..40 {
        let calls: JoinSet<_> = (0..100).map(|_| send()).collect();
        for answer in within("good calls", calls.join_all()).await {
            assert_eq!(answer.unwrap().status(), StatusCode::OK);
        }
    }
    let held = Phase {
        delay: Duration::from_secs(10),
        ..Phase::default()
    };
    upstream.set_phase(held).unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..400 {
        let (first, again) = (send(), send());
        calls.spawn(async move {
            let failed = first.await.is_err();
            (failed, again.await.unwrap().status())
        });
    }
    until("all are under way", || upstream.stats().attempts == 4400).await;
    let cut = Phase {
        requests: Some(1),
        troubles: vec![Trouble::always(TroubleKind::CloseBeforeResponse)],
        ..Phase::default()
    };
    upstream.set_phase(cut).unwrap();
    assert!(send().await.is_err());
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap(), (true, StatusCode::OK));
    }
    let circuit = breaker.snapshot()[0].1;
    assert_eq!(circuit.state, State::Closed);
    assert_eq!((circuit.counts.calls, circuit.counts.failed), (4801, 401));
}

/// One value on the method routers of an axum app, which calls `layer()` for
/// each: the routes and ten connections share its circuit.
#[tokio::test]
async fn method_routes_and_ten_connections_share_one_breaker() {
    let breaker = CircuitBreakerLayer::http()
        .for_host("app")
        .config(opens_after(3));
    let refused = |_: BoxError| async { StatusCode::SERVICE_UNAVAILABLE };
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refused))
        .layer(breaker.clone());
    let broken = || post(|| async { StatusCode::INTERNAL_SERVER_ERROR });
    let app = Router::new()
        .route("/a", broken().layer::<_, Infallible>(layers.clone()))
        .route("/b", broken().layer::<_, Infallible>(layers));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });

    let mut statuses = Vec::new();
    for path in ["/a", "/b"].into_iter().cycle().take(10) {
        let request = Request::post(format!("{url}{path}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let mut client = hyper(Over::Http1);
        let response = client.ready().await.unwrap().call(request).await.unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses[..3], [500; 3]);
    assert_eq!(statuses[3..], [503; 7]);
    assert_eq!(breaker.snapshot()[0].1.counts.calls, 3);
}
