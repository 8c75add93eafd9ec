//! gRFC A6 against grpcio, a server that is none of ours.
//!
//! Runs Python as `tests::python` has it.
#![cfg(feature = "peers")]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin},
    time::Instant,
};
use tonic::{Code, Request, Response, Status, transport::Channel};
use tower::{Layer, ServiceBuilder};
use tower_weir::{
    Weir,
    outcome::{Cause, GrpcCode, HttpClassifier},
    retry::{Retried, Retry, RetryLayer, ToTonic, backoff::Constant},
};
use tower_weir_testkit::proto::{
    FetchRequest, QueryRequest, Record, UpsertRequest, vector_index_client::VectorIndexClient,
};

type Client = VectorIndexClient<Retry<Channel, HttpClassifier, ToTonic>>;

/// The server's process; it ends when its standard input does.
struct Grpcio {
    channel: Channel,
    _process: (Child, ChildStdin),
}

/// What the server saw of a call, a value for each attempt.
#[derive(Debug)]
struct Seen {
    before: Vec<String>,
    at: Vec<u64>,
    left: Vec<String>,
    messages: Vec<u64>,
}

impl Grpcio {
    async fn start() -> Self {
        let mut script = tests::python::script("grpcio_server.py");
        let mut process = script
            .spawn()
            .unwrap_or_else(|error| panic!("{script:?}: {error}"));
        let stdin = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap();
        let port = port.unwrap_or_else(|| panic!("no port from {script:?}: is grpcio there?"));
        let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        Self {
            channel: endpoint.connect().await.unwrap(),
            _process: (process, stdin),
        }
    }

    fn client(&self) -> Client {
        let layer = RetryLayer::grpc().backoff(Constant::new(Duration::from_millis(20)));
        VectorIndexClient::new(layer.layer(self.channel.clone()))
    }

    async fn seen(&self, call: &str) -> Seen {
        let mut request = Request::new(QueryRequest::default());
        request
            .metadata_mut()
            .insert("x-call", call.parse().unwrap());
        let mut plain = VectorIndexClient::new(self.channel.clone());
        let answer = plain.query(request).await.unwrap();
        let line = |name| -> Vec<String> {
            let line = answer.metadata().get(name).unwrap().to_str().unwrap();
            line.split(',').map(str::to_owned).collect()
        };
        let numbers = |name| line(name).iter().map(|n| n.parse().unwrap()).collect();
        Seen {
            before: line("x-before"),
            at: numbers("x-at"),
            left: line("x-left"),
            messages: numbers("x-messages"),
        }
    }
}

/// A request that the server answers by `plan`, and the name of its call.
fn planned<T>(message: T, plan: &str) -> (Request<T>, String) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed).to_string();
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-call", call.parse().unwrap());
    metadata.insert("x-plan", plan.parse().unwrap());
    (request, call)
}

fn batch() -> UpsertRequest {
    let record = Record {
        id: "one".to_owned(),
        vector: vec![0.5; 100],
        ..Record::default()
    };
    UpsertRequest {
        records: vec![record; 20],
    }
}

fn batches() -> impl tokio_stream::Stream<Item = UpsertRequest> + Send {
    tokio_stream::iter(vec![batch(); 5])
}

fn code<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn a_unary_call_is_repeated_until_it_is_answered() {
    let server = Grpcio::start().await;
    let plan = "UNAVAILABLE,RESOURCE_EXHAUSTED,ABORTED,OK";
    let (request, call) = planned(batch(), plan);
    let answer = server.client().upsert(request).await.unwrap();
    let retried = answer.extensions().get::<Retried>().unwrap();
    let reason = Cause::Code(GrpcCode::Aborted);
    assert_eq!((retried.attempts, retried.reason), (4, reason));
    let seen = server.seen(&call).await;
    assert_eq!(seen.before, ["-", "1", "2", "3"]);
    assert_eq!(
        seen.left, ["-"; 4],
        "no deadline was set, and none is made up"
    );
}

#[tokio::test]
async fn five_retries_are_made_and_the_last_status_is_the_callers() {
    let server = Grpcio::start().await;
    let (request, call) = planned(batch(), "UNAVAILABLE");
    let status = server.client().upsert(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "as planned")
    );
    assert_eq!(server.seen(&call).await.before.len(), 6);
}

#[tokio::test]
async fn a_status_that_is_no_refusal_is_not_repeated() {
    let server = Grpcio::start().await;
    for (plan, expected) in [
        ("INVALID_ARGUMENT", Code::InvalidArgument),
        ("INTERNAL", Code::Internal),
        ("UNKNOWN", Code::Unknown),
        ("DEADLINE_EXCEEDED", Code::DeadlineExceeded),
    ] {
        let (request, call) = planned(batch(), plan);
        assert_eq!(code(server.client().upsert(request).await), expected);
        assert_eq!(server.seen(&call).await.before, ["-"], "{plan}");
    }
}

#[tokio::test]
async fn initial_metadata_commits_the_call() {
    let server = Grpcio::start().await;
    let (request, call) = planned(batch(), "headers:UNAVAILABLE,OK");
    assert_eq!(
        code(server.client().upsert(request).await),
        Code::Unavailable
    );
    assert_eq!(server.seen(&call).await.before, ["-"]);

    let (request, call) = planned(FetchRequest::default(), "headers:UNAVAILABLE,OK");
    let mut stream = server.client().fetch(request).await.unwrap().into_inner();
    assert_eq!(
        stream.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.seen(&call).await.before, ["-"]);
}

#[tokio::test]
async fn a_stream_is_repeated_before_its_first_message_and_not_after() {
    let server = Grpcio::start().await;
    let (request, call) = planned(FetchRequest::default(), "UNAVAILABLE,OK");
    let mut stream = server.client().fetch(request).await.unwrap().into_inner();
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!((messages, server.seen(&call).await.before.len()), (2, 2));

    let (request, call) = planned(FetchRequest::default(), "message:UNAVAILABLE,OK");
    let mut stream = server.client().fetch(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(
        stream.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.seen(&call).await.before, ["-"]);
}

#[tokio::test]
async fn a_clients_stream_is_sent_again_whole() {
    let server = Grpcio::start().await;
    let (request, call) = planned(batches(), "UNAVAILABLE,OK");
    server.client().upsert_stream(request).await.unwrap();
    assert_eq!(server.seen(&call).await.messages, [5, 5]);
}

#[tokio::test]
async fn a_stream_both_ways_is_sent_again_though_it_was_refused_at_its_beginning() {
    let server = Grpcio::start().await;
    let (request, call) = planned(batches(), "UNAVAILABLE,OK");
    let mut answers = server.client().sync(request).await.unwrap().into_inner();
    let mut messages = 0;
    while answers.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 5);
    assert_eq!(server.seen(&call).await.messages, [0, 5]);
}

#[tokio::test]
async fn a_pushback_is_kept_to_exactly() {
    let server = Grpcio::start().await;
    // Ours would be a minute, and does not matter.
    let layer = RetryLayer::grpc().backoff(Constant::new(Duration::from_secs(60)));
    let mut client = VectorIndexClient::new(layer.layer(server.channel.clone()));
    let (request, call) = planned(batch(), "UNAVAILABLE@300,UNAVAILABLE@0,OK");
    client.upsert(request).await.unwrap();
    let at = server.seen(&call).await.at;
    assert!((300..30_000).contains(&at[1]), "{at:?}");
    assert!((0..30_000).contains(&(at[2] - at[1])), "{at:?}");
}

#[tokio::test]
async fn a_pushback_that_forbids_a_retry_is_heard() {
    let server = Grpcio::start().await;
    for pushback in ["-1", "soon", "99999999999"] {
        let (request, call) = planned(batch(), &format!("UNAVAILABLE@{pushback},OK"));
        assert_eq!(
            code(server.client().upsert(request).await),
            Code::Unavailable
        );
        assert_eq!(server.seen(&call).await.before, ["-"], "{pushback}");
    }
}

#[tokio::test]
async fn the_server_is_told_what_is_left_and_the_call_ends_at_its_deadline() {
    let server = Grpcio::start().await;
    let (mut request, call) = planned(batch(), "UNAVAILABLE@300,UNAVAILABLE@200,HANG");
    request.set_timeout(Duration::from_secs(5));
    let start = Instant::now();
    let status = server.client().upsert(request).await.unwrap_err();
    let took = start.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // The server would hang for 30 s.
    assert!((4_990..25_000).contains(&took.as_millis()), "{took:?}");
    let seen = server.seen(&call).await;
    let left: Vec<u64> = seen.left.iter().map(|left| left.parse().unwrap()).collect();
    assert!(
        left[0] <= 5_000 && left[1] <= 4_700 && left[2] <= 4_500,
        "{left:?}"
    );
}

#[tokio::test]
async fn a_wait_that_would_pass_the_deadline_leaves_the_servers_own_status() {
    let server = Grpcio::start().await;
    let (mut request, call) = planned(batch(), "UNAVAILABLE@20000,OK");
    request.set_timeout(Duration::from_secs(10));
    assert_eq!(
        code(server.client().upsert(request).await),
        Code::Unavailable
    );
    assert_eq!(server.seen(&call).await.before, ["-"]);
}

#[tokio::test]
async fn the_whole_stack_does_the_same() {
    let server = Grpcio::start().await;
    let stack = ServiceBuilder::new()
        .layer(Weir::grpc().backoff(Constant::new(Duration::from_millis(20))))
        .service(server.channel.clone());
    let mut client = VectorIndexClient::new(stack);
    let (request, call) = planned(batch(), "UNAVAILABLE@0,ABORTED,OK");
    client.upsert(request).await.unwrap();
    assert_eq!(server.seen(&call).await.before, ["-", "1", "2"]);
    let (mut request, _) = planned(batch(), "HANG");
    request.set_timeout(Duration::from_millis(300));
    assert_eq!(code(client.upsert(request).await), Code::DeadlineExceeded);
}
