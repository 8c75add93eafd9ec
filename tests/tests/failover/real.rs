//! Over real HTTP and gRPC: region A dies under 200 calls a second, B takes over
//! and A gets it back. Nothing at the call sites says a type.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tests::{
    BoxError,
    client::{Over, channel, hyper},
    script::boxed,
    wait::{until, within},
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    dead_letter::{ChannelSink, DeadLetterLayer},
    failover::{AnsweredBy, Failover, Origin, Region},
    fallback::FallbackLayer,
    outcome::Processed,
    retry::{Recorder, RetryLayer},
};
use tower_weir_testkit::{
    fault::{Fault, Server},
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::{Answer, Phase, ServiceTime, Trouble, TroubleKind, Upstream},
};

use crate::support::{Log, SECOND};

const EVERY: Duration = Duration::from_millis(5);
/// A second of load.
const CALLS: usize = 200;
/// When B has all of them.
const SETTLED: Duration = Duration::from_secs(4);
const MOST: Duration = Duration::from_secs(120);

async fn upstream() -> Upstream {
    let builder = Upstream::builder().slots(1000);
    let quick = ServiceTime::constant(Duration::from_millis(1));
    builder.service_time(quick).start().await.unwrap()
}

fn origin(upstream: &Upstream) -> Origin {
    Origin::new(&upstream.url()).unwrap()
}

fn gone() -> Phase {
    Phase {
        lasts: None,
        ..Phase::outage(SECOND)
    }
}

fn unavailable() -> Phase {
    let answer = Answer::status(StatusCode::SERVICE_UNAVAILABLE);
    Phase {
        troubles: vec![Trouble::always(TroubleKind::Answer(answer))],
        ..Phase::default()
    }
}

/// A failover that is in more of a hurry than by default.
macro_rules! hasty {
    ($failover:expr) => {
        $failover
            .probe_every(Duration::from_millis(200))
            .min_down(Duration::from_millis(500))
    };
}

/// Calls 200 times a second until A has had it back for half a second, and
/// checks who answered when. A call gives the index of the region that answered
/// well. A machine that is too slow makes fewer calls a second, and as many.
async fn dies<F>(a: &Upstream, death: Phase, call: impl Fn() -> F)
where
    F: Future<Output = Option<usize>> + Send + 'static,
{
    let (mut calls, got) = (JoinSet::new(), Log::default());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let (mut died, mut lived, mut back) = (None, None, None);
    let due = |moment: Option<Instant>, now: Instant| moment.is_some_and(|at| now >= at);
    while !due(back, Instant::now()) {
        let now = ticks.tick().await;
        assert!(now < start + MOST, "A does not get it back");
        if died.is_none() && calls.len() == CALLS {
            until("A has answered", || got.all().len() == CALLS).await;
            a.set_phase(death.clone()).unwrap();
            died = Some(Instant::now());
        }
        let settled = died.map(|died| died + SETTLED);
        let since = got.all().into_iter().filter(|(at, _)| due(settled, *at));
        if lived.is_none() && since.count() >= CALLS {
            a.set_phase(Phase::default()).unwrap();
            lived = Some(Instant::now());
        }
        let (call, log) = (call(), got.clone());
        calls.spawn(async move {
            let at = Instant::now();
            log.push((at, call.await));
        });
        if lived.is_some() && back.is_none() {
            let last = got.all();
            let last = last.iter().rev().take(50);
            if last.clone().count() == 50 && last.clone().all(|(_, by)| *by == Some(0)) {
                back = Some(now + SECOND / 2);
            }
        }
    }
    within("a call hangs", async {
        while calls.join_next().await.is_some() {}
    })
    .await;
    let (died, lived, mut got) = (died.unwrap(), lived.unwrap(), got.all());
    got.sort_by_key(|(at, _)| *at);
    let failed = got.iter().filter(|(_, by)| by.is_none()).count();
    assert!(
        failed * 100 <= got.len(),
        "{failed} of {} failed",
        got.len()
    );
    let (before, after) = got.split_at(CALLS);
    assert!(before.iter().all(|(at, by)| *at < died && *by == Some(0)));
    let during = after
        .iter()
        .filter(|(at, _)| *at >= died + SETTLED && *at < lived);
    let b = during.clone().filter(|(_, by)| *by == Some(1)).count();
    assert!(b * 100 >= during.count() * 99);
    let first = after.iter().position(|(_, by)| *by == Some(1)).unwrap();
    assert!(first < 20, "single requests go on at once: {first}");
}

async fn over_http(over: Over, death: Phase) {
    let (a, b) = (upstream().await, upstream().await);
    let client = hyper(over);
    let stack = || {
        Weir::http()
            .max_retries(1)
            .queue_timeout(SECOND)
            .layer(client.clone())
    };
    let failover = Failover::http([
        Region::new("a", stack()).at(origin(&a)),
        Region::new("b", stack()).at(origin(&b)),
    ]);
    let failover = hasty!(failover.unwrap());
    let (url, body) = ("http://anywhere.test/upsert", r#"{"id":"a"}"#);
    dies(&a, death, || {
        let request = Request::put(url).body(Full::new(Bytes::from_static(body.as_bytes())));
        let call = failover.clone().oneshot(request.unwrap());
        async move {
            let response = call.await.ok()?;
            let by = response.extensions().get::<AnsweredBy>()?.index;
            let well = response.status() == StatusCode::OK;
            response.into_body().collect().await.ok()?;
            well.then_some(by)
        }
    })
    .await;
    assert!(b.stats().successes > 0);
}

#[tokio::test]
async fn over_http_1_b_takes_over_from_a_that_is_gone() {
    over_http(Over::Http1, gone()).await;
}

#[tokio::test]
async fn over_http_2_b_takes_over_from_a_that_is_unavailable() {
    over_http(Over::Http2, unavailable()).await;
}

async fn over_grpc(death: Phase) {
    let (a, b) = (upstream().await, upstream().await);
    let stack = |name, upstream: &Upstream| {
        let weir = Weir::grpc()
            .max_retries(1)
            .queue_timeout(SECOND)
            .for_host(name);
        Region::new(name, weir.layer(channel(&upstream.url())))
    };
    let failover = Failover::grpc([stack("a", &a), stack("b", &b)]);
    let client = VectorIndexClient::new(hasty!(failover.unwrap()));
    dies(&a, death, || {
        let mut client = client.clone();
        async move {
            let answer = client.query(QueryRequest::default()).await.ok()?;
            Some(answer.extensions().get::<AnsweredBy>()?.index)
        }
    })
    .await;
}

#[tokio::test]
async fn over_grpc_b_takes_over_from_a_that_is_gone() {
    over_grpc(gone()).await;
}

#[tokio::test]
async fn over_grpc_b_takes_over_from_a_that_says_unavailable() {
    over_grpc(unavailable()).await;
}

#[tokio::test]
async fn over_bare_channels_a_refused_connection_sends_a_call_on() {
    let (a, b) = (
        Server::start(Fault::Refused).await.unwrap(),
        upstream().await,
    );
    let failover = Failover::grpc([
        Region::new("a", channel(&a.url())),
        Region::new("b", channel(&b.url())),
    ]);
    let mut client = VectorIndexClient::new(failover.unwrap());
    let call = client.query(QueryRequest::default());
    let answer = within("an answer", call).await.unwrap();
    let by = answer.extensions().get::<AnsweredBy>().unwrap();
    assert_eq!(&*by.name, "b");
}

/// Stacks of differing types, erased, and a layer further out that has the
/// record of all.
#[tokio::test]
async fn stacks_that_differ_are_boxed_over_one_body() {
    let (a, b) = (upstream().await, upstream().await);
    a.set_phase(unavailable()).unwrap();
    let plain = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(boxed))
        .map_err(BoxError::from)
        .service(hyper(Over::Http1));
    let retried = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(boxed))
        .layer(Weir::http())
        .service(hyper(Over::Http1));
    let failover = Failover::http([
        Region::new("a", plain).at(origin(&a)).boxed(),
        Region::new("b", retried).at(origin(&b)).boxed(),
    ])
    .unwrap()
    .map_body(|body: tower_weir::retry::ReplayBody<Full<Bytes>>| boxed(body));
    let recorder = Recorder::new();
    let mut request = Request::get("http://anywhere.test/")
        .body(Full::from("{}"))
        .unwrap();
    request.extensions_mut().insert(recorder.clone());
    let response = within("an answer", failover.oneshot(request))
        .await
        .unwrap();
    assert_eq!(
        &*response.extensions().get::<AnsweredBy>().unwrap().name,
        "b"
    );
    let attempts = recorder.attempts();
    let hosts: Vec<_> = attempts.iter().map(|attempt| &*attempt.host).collect();
    assert_eq!(hosts, ["a", b.addr().to_string().as_str()]);
    assert_eq!(recorder.processed(), Processed::Maybe);
}

/// The whole is `Clone + Send`, alone and in a stack.
#[tokio::test]
async fn it_stands_in_a_stack_as_any_service() {
    fn is_clone_and_send<S: Clone + Send + 'static>(service: S) -> S {
        service
    }
    let (a, b) = (upstream().await, upstream().await);
    let client = hyper(Over::Http1);
    let stack = || Weir::http().layer(client.clone());
    let failover = Failover::http([
        Region::new("a", stack()).at(origin(&a)),
        Region::new("b", stack()).at(origin(&b)),
    ]);
    let service = ServiceBuilder::new()
        .concurrency_limit(4)
        .layer(RetryLayer::http().max_retries(0))
        .service(is_clone_and_send(failover.unwrap()));
    let mut service = is_clone_and_send(service);
    let request = Request::get("http://anywhere.test/").body(Full::<Bytes>::default());
    let call = service.ready().await.unwrap();
    let future = tower::Service::call(call, request.unwrap());
    let response = tokio::spawn(future).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

/// A letter of a request that no region served has the attempts at all of them,
/// and the body, of which each sent its own copy.
#[tokio::test]
async fn a_dead_letter_tells_of_all_regions() {
    let (a, b) = (upstream().await, upstream().await);
    for upstream in [&a, &b] {
        upstream.set_phase(unavailable()).unwrap();
    }
    let client = hyper(Over::Http1);
    let stack = || Weir::http().max_retries(0).layer(client.clone());
    let failover = Failover::http([
        Region::new("a", stack()).at(origin(&a)),
        Region::new("b", stack()).at(origin(&b)),
    ]);
    let (letters, mut received) = tokio::sync::mpsc::channel(1);
    let service = ServiceBuilder::new()
        .layer(DeadLetterLayer::new(ChannelSink::new(letters)))
        .layer(
            FallbackLayer::http()
                .on([])
                .answer(|_| http::Response::new(Full::<Bytes>::default())),
        )
        .service(failover.unwrap());
    let body = ["{\"id\":", "\"a\"}"].map(|data| Ok::<_, BoxError>(Frame::data(Bytes::from(data))));
    let body = StreamBody::new(tokio_stream::iter(body));
    let request = Request::put("http://anywhere.test/upsert")
        .body(body)
        .unwrap();
    let response = within("an answer", service.oneshot(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(response);
    let letter = within("a letter", received.recv()).await.unwrap();
    let hosts: Vec<_> = letter
        .attempts
        .iter()
        .map(|attempt| attempt.host.to_string())
        .collect();
    assert_eq!(hosts, [a.addr().to_string(), b.addr().to_string()]);
    let again = letter.request().unwrap();
    assert_eq!(again.uri(), "http://anywhere.test/upsert");
    assert_eq!(again.into_body(), "{\"id\":\"a\"}");
}
