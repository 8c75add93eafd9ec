//! tonic's generated clients over the layers: nothing at the call site says a
//! type.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::StatusCode;
use http_body::Body;
use tests::{
    circuit::opens_after,
    client::channel,
    script::{Script, committed, trailers_only},
    wait::within,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status, client::GrpcService, service::interceptor::InterceptedService,
    transport::Channel,
};
use tower::{Layer, ServiceBuilder};
use tower_weir::{
    BoxError, Deadline, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::CircuitBreakerLayer,
    error::{AttemptTimeout, CircuitOpen, DeadlineExceeded, QueueFull, QueueTimeout},
    outcome::HttpClassifier,
    retry::{Retried, RetryLayer, ToTonic, backoff::Constant},
    weir::WeirService,
};
use tower_weir_testkit::{
    fault::{Fault, Server},
    proto::{
        FetchRequest, QueryRequest, Record, UpsertRequest, vector_index_client::VectorIndexClient,
    },
    upstream::{Answer, Phase, ServiceTime, Trouble, TroubleKind, Upstream},
};

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));
const SOON: Duration = Duration::from_millis(40);

const CALLS: u64 = 64;

/// An upstream that serves all calls of a test at once: it refuses only those
/// that it is told to.
async fn upstream() -> Upstream {
    let upstream = Upstream::builder()
        .service_time(ServiceTime::constant(Duration::ZERO))
        .slots(CALLS as usize);
    upstream.start().await.unwrap()
}

/// The next calls are answered with a status alone.
fn refuse(upstream: &Upstream, calls: u64, code: Code) {
    let answer = Answer {
        grpc: Some(code),
        ..Answer::status(StatusCode::OK)
    };
    let phase = Phase {
        requests: Some(calls),
        troubles: vec![Trouble::always(TroubleKind::Answer(answer))],
        ..Phase::default()
    };
    upstream.set_phase(phase).unwrap();
}

fn batch(ids: &[&str]) -> UpsertRequest {
    let record = |id: &&str| Record {
        id: (*id).to_owned(),
        ..Record::default()
    };
    UpsertRequest {
        records: ids.iter().map(record).collect(),
    }
}

/// Makes a call of each kind, each refused twice at first.
async fn retries_every_kind<S>(upstream: &Upstream, mut client: VectorIndexClient<S>)
where
    S: GrpcService<tonic::body::Body>,
    S::Error: Into<BoxError>,
    S::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as Body>::Error: Into<BoxError> + Send,
{
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Aborted] {
        let before = upstream.stats();

        refuse(upstream, 2, code);
        let stored = client.upsert(batch(&["a", "b"])).await.unwrap();
        assert_eq!(stored.extensions().get::<Retried>().unwrap().attempts, 3);
        assert_eq!(stored.into_inner().accepted, 2);

        refuse(upstream, 2, code);
        let ids = ["b", "a", "z"].map(str::to_owned).to_vec();
        let fetched = client.fetch(FetchRequest { ids }).await.unwrap();
        let fetched: Vec<_> = fetched.into_inner().collect().await;
        let fetched: Vec<_> = fetched
            .into_iter()
            .map(|record| record.unwrap().id)
            .collect();
        assert_eq!(fetched, ["b", "a"]);

        refuse(upstream, 2, code);
        let batches = tokio_stream::iter([batch(&["c"]), batch(&["d", "e"])]);
        let stored = client.upsert_stream(batches).await.unwrap();
        assert_eq!(stored.into_inner().accepted, 3);

        refuse(upstream, 2, code);
        let (batches, stream) = mpsc::channel(1);
        batches.send(batch(&["f"])).await.unwrap();
        let answers = client.sync(ReceiverStream::new(stream)).await.unwrap();
        let mut answers = answers.into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().accepted, 1);
        // the stream lives on: what follows was not there when it was retried
        batches.send(batch(&["g", "h"])).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().accepted, 2);
        drop(batches);
        assert_eq!(answers.message().await.unwrap(), None);

        let after = upstream.stats();
        assert_eq!(after.attempts - before.attempts, 12, "{code}");
        assert_eq!(after.failures - before.failures, 8, "{code}");
    }
    // Each of the three rounds stored each id once.
    for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(upstream.stored(id), 3, "{id}");
    }
}

#[tokio::test]
async fn weir_retries_calls_of_every_kind() {
    let upstream = upstream().await;
    let channel = ServiceBuilder::new()
        .layer(Weir::grpc().backoff(AT_ONCE))
        .service(channel(&upstream.url()));
    let client = VectorIndexClient::new(channel);
    within("four kinds", retries_every_kind(&upstream, client)).await;
}

#[tokio::test]
async fn the_layers_apart_retry_calls_of_every_kind() {
    let upstream = upstream().await;
    let channel = ServiceBuilder::new()
        .layer(RetryLayer::grpc().backoff(AT_ONCE))
        .layer(CircuitBreakerLayer::grpc())
        .layer(AimdConcurrencyLayer::grpc())
        .service(channel(&upstream.url()));
    let client = VectorIndexClient::new(channel);
    within("four kinds", retries_every_kind(&upstream, client)).await;
}

#[tokio::test]
async fn the_retry_layer_alone_retries_calls_of_every_kind() {
    let upstream = upstream().await;
    let channel = ServiceBuilder::new()
        .layer(RetryLayer::grpc().backoff(AT_ONCE))
        .service(channel(&upstream.url()));
    let client = VectorIndexClient::new(channel);
    within("four kinds", retries_every_kind(&upstream, client)).await;
}

#[tokio::test]
async fn a_call_whose_headers_have_come_is_not_retried() {
    // a record whose id is "x", and then the status
    let server = Script::start(|_, _| committed(&[b"\x0a\x01x"], 14)).await;
    let weir = Weir::grpc().backoff(AT_ONCE);
    let channel = ServiceBuilder::new()
        .layer(weir.clone())
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(channel);

    let fetched = client.fetch(FetchRequest::default()).await.unwrap();
    let mut fetched = fetched.into_inner();
    assert_eq!(fetched.message().await.unwrap().unwrap().id, "x");
    let status = fetched.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);

    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(server.requests(), 2);
    // the limiter has heard it nevertheless
    let limiter = weir.snapshot()[0].limiter.clone().unwrap();
    assert!(limiter.limit < 10, "{limiter:?}");
}

#[tokio::test]
async fn every_attempt_says_how_many_were_before() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = seen.clone();
    let server = Script::start(move |number, request| {
        let before = request.headers().get("grpc-previous-rpc-attempts");
        let before = before.map(|before| before.to_str().unwrap().to_owned());
        heard.lock().unwrap().push(before);
        match number {
            1..=3 => trailers_only(14, &[]),
            _ => committed(&[b""], 0),
        }
    })
    .await;
    let channel = ServiceBuilder::new()
        .layer(Weir::grpc().backoff(AT_ONCE))
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(channel);
    let answer = client.query(QueryRequest::default()).await.unwrap();
    assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 4);
    let seen = seen.lock().unwrap();
    let seen: Vec<_> = seen.iter().map(Option::as_deref).collect();
    assert_eq!(seen, [None, Some("1"), Some("2"), Some("3")]);
}

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;

/// As a program keeps it.
struct Index {
    client: VectorIndexClient<InterceptedService<WeirService<Channel, ToTonic>, Interceptor>>,
}

impl Index {
    fn new(url: &str, interceptor: Interceptor) -> Self {
        let stack = Weir::grpc().backoff(AT_ONCE).layer(channel(url));
        Self {
            client: VectorIndexClient::with_interceptor(stack, interceptor),
        }
    }
}

#[tokio::test]
async fn an_interceptor_around_the_stack_writes_on_every_attempt() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = seen.clone();
    let server = Script::start(move |number, request| {
        let key = request.headers().get("api-key").cloned();
        heard.lock().unwrap().push(key);
        match number {
            1 | 2 => trailers_only(14, &[]),
            _ => committed(&[b""], 0),
        }
    })
    .await;
    let mut index = Index::new(&server.url(), |mut request| {
        let key = tonic::metadata::MetadataValue::from_static("secret");
        request.metadata_mut().insert("api-key", key);
        Ok(request)
    });
    let answer = index.client.query(QueryRequest::default()).await.unwrap();
    assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 3);
    let secret = http::HeaderValue::from_static("secret");
    assert_eq!(*seen.lock().unwrap(), vec![Some(secret); 3]);
}

#[tokio::test]
async fn what_an_interceptor_refuses_is_not_sent() {
    let server = Script::start(|_, _| committed(&[b""], 0)).await;
    let mut index = Index::new(&server.url(), |_| Err(Status::unauthenticated("no key")));
    let status = index.client.query(QueryRequest::default()).await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "no key")
    );
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_pushback_is_waited_for() {
    let server = Script::start(|number, _| match number {
        1 => trailers_only(14, &[("grpc-retry-pushback-ms", "120")]),
        _ => committed(&[b""], 0),
    })
    .await;
    let channel = ServiceBuilder::new()
        .layer(Weir::grpc().backoff(AT_ONCE))
        .service(channel(&server.url()));
    let start = tokio::time::Instant::now();
    let mut client = VectorIndexClient::new(channel);
    client.query(QueryRequest::default()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn the_first_refused_stream_costs_no_retry() {
    for fault in [
        Fault::ResetStream(Reason::REFUSED_STREAM),
        Fault::GoAway(Reason::NO_ERROR),
    ] {
        let server = Server::start_for(fault, 2).await.unwrap();
        let channel = ServiceBuilder::new()
            .layer(Weir::grpc().max_retries(1).backoff(AT_ONCE))
            .service(channel(&server.url()));
        let mut client = VectorIndexClient::new(channel);
        let answer = client.upsert(batch(&["a"])).await.unwrap();
        assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 3);
        assert_eq!(server.requests(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn many_large_calls_refused_at_once_are_all_retried() {
    let upstream = upstream().await;
    refuse(&upstream, CALLS, Code::Unavailable);
    // One call may be refused more than once, when the others are slow to come.
    let retry = RetryLayer::grpc().max_retries(CALLS as u32);
    let channel = ServiceBuilder::new()
        .layer(retry.backoff(AT_ONCE))
        .service(channel(&upstream.url()));
    let client = VectorIndexClient::new(channel);
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let mut client = client.clone();
        calls.spawn(async move {
            let records = vec![Record {
                id: number.to_string(),
                metadata: HashMap::from([(String::new(), "x".repeat(1 << 20))]),
                ..Record::default()
            }];
            client.upsert(UpsertRequest { records }).await
        });
    }
    for stored in within("all calls", calls.join_all()).await {
        assert_eq!(stored.unwrap().into_inner().accepted, 1);
    }
    let stats = upstream.stats();
    assert_eq!((stats.failures, stats.distinct_ids), (CALLS, CALLS));
    assert_eq!(stats.duplicate_ids, 0);
}

fn find<T: Error + 'static>(status: &Status) -> Option<&T> {
    let links = std::iter::successors(Some(status as &(dyn Error + 'static)), |&link| {
        link.source()
    });
    links.into_iter().find_map(|link| link.downcast_ref())
}

#[tokio::test]
async fn an_open_circuit_is_unavailable() {
    let server = Script::start(|_, _| trailers_only(13, &[])).await;
    let weir = Weir::grpc().breaker(|_| opens_after(1));
    let channel = ServiceBuilder::new()
        .layer(weir.clone().for_host("index"))
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(channel);
    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);

    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(find::<CircuitOpen>(&status).unwrap().host(), "index");
    assert_eq!(server.requests(), 1);
    // the value with the name has state of its own
    assert!(weir.snapshot().is_empty());
}

/// The attempts that settled, and those of them that failed.
fn failed_calls(weir: &Weir<HttpClassifier, ToTonic>) -> (u64, u64) {
    let counts = weir.snapshot()[0].circuit.unwrap().counts;
    (counts.calls, counts.failed)
}

/// A client of an upstream that hangs, which has one call under way.
macro_rules! busy_client {
    ($server:ident, $layer:expr, $calls:ident) => {{
        let channel = ServiceBuilder::new()
            .layer($layer)
            .service(channel(&$server.url()));
        let client = VectorIndexClient::new(channel);
        let mut first = client.clone();
        $calls.spawn(async move { first.query(QueryRequest::default()).await });
        $server.requests_reach(1).await;
        client
    }};
}

#[tokio::test]
async fn a_full_queue_is_resource_exhausted() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let mut calls = JoinSet::new();
    let weir = Weir::grpc().ceiling(1).max_waiting(0);
    let mut client = busy_client!(server, weir, calls);
    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(find::<QueueFull>(&status).unwrap().limit(), Some(1));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_queue_that_takes_too_long_is_resource_exhausted() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let mut calls = JoinSet::new();
    let weir = Weir::grpc().ceiling(1).queue_timeout(SOON);
    let mut client = busy_client!(server, weir, calls);
    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(find::<QueueTimeout>(&status).unwrap().waited() >= SOON);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_deadline_is_deadline_exceeded_in_the_queue_too() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let mut calls = JoinSet::new();
    let mut client = busy_client!(server, Weir::grpc().ceiling(1), calls);
    let mut query = Request::new(QueryRequest::default());
    query.extensions_mut().insert(Deadline::after(SOON));
    let status = client.query(query).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(find::<DeadlineExceeded>(&status).is_some());
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_deadline_is_deadline_exceeded_at_the_upstream() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let weir = Weir::grpc().deadline(SOON);
    let channel = ServiceBuilder::new()
        .layer(weir.clone())
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(channel);
    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(find::<DeadlineExceeded>(&status).is_some());
    assert_eq!(failed_calls(&weir), (1, 1));
}

#[tokio::test]
async fn an_attempts_timeout_is_deadline_exceeded_and_is_not_retried() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let weir = Weir::grpc().attempt_timeout(SOON).backoff(AT_ONCE);
    let channel = ServiceBuilder::new()
        .layer(weir.clone())
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(channel);
    let status = client.query(QueryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(find::<AttemptTimeout>(&status).unwrap().after() >= SOON);
    assert_eq!(failed_calls(&weir), (1, 1));
}

#[tokio::test]
async fn one_layer_value_on_two_channels_is_one_limiter() {
    let upstreams = [upstream().await, upstream().await];
    let weir = Weir::grpc();
    for upstream in &upstreams {
        let channel = ServiceBuilder::new()
            .layer(weir.clone())
            .service(channel(&upstream.url()));
        let mut client = VectorIndexClient::new(channel);
        client.query(QueryRequest::default()).await.unwrap();
    }
    let hosts = weir.snapshot();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].host.as_ref(), "");
    assert_eq!(hosts[0].circuit.unwrap().counts.calls, 2);
}
