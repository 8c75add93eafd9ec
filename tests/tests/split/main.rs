//! Batches that a real server does not take whole: over hyper, over the whole
//! stack, and over tonic's generated client.

use std::{
    collections::BTreeSet,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tests::{
    client::{
        Over::{self, Http1, Http2},
        hyper,
    },
    wait::within,
};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    outcome::Cause,
    retry::{ReplayBody, RetryLayer, backoff::Constant},
    split::{
        PartialFailure, SplitLayer,
        json::{CollectLayer, Items},
    },
};

mod grpc;

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

/// What a server takes, and what it was sent.
#[derive(Clone, Default)]
struct Index {
    bad: Arc<BTreeSet<usize>>,
    seen: Arc<Mutex<Seen>>,
    /// Each body is refused this often before it is looked at.
    refusals: usize,
}

#[derive(Default)]
struct Seen {
    stored: Vec<usize>,
    judged: usize,
    refused: Vec<Vec<usize>>,
    keys: BTreeSet<String>,
}

impl Index {
    fn with(bad: impl IntoIterator<Item = usize>) -> Self {
        Self {
            bad: Arc::new(bad.into_iter().collect()),
            ..Self::default()
        }
    }

    /// 100 records a request, none of them bad.
    async fn upsert(
        State(index): State<Self>,
        headers: HeaderMap,
        Json(ids): Json<Vec<usize>>,
    ) -> Response {
        let mut seen = index.seen.lock().unwrap();
        let before = seen.refused.iter().filter(|refused| **refused == ids);
        if before.count() < index.refusals {
            seen.refused.push(ids);
            return StatusCode::TOO_MANY_REQUESTS.into_response();
        }
        seen.judged += 1;
        if let Some(key) = headers.get("idempotency-key") {
            assert!(
                seen.keys.insert(key.to_str().unwrap().to_owned()),
                "{key:?}"
            );
        }
        if ids.len() > 100 {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        if ids.iter().any(|id| index.bad.contains(id)) {
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        seen.stored.extend(&ids);
        Json(ids).into_response()
    }

    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/upsert", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/upsert", post(Self::upsert))
            .with_state(self.clone());
        // A reply must not wait for the client's word on the one before.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn batch(url: &str, count: usize) -> Request<Items> {
    let ids: Vec<usize> = (0..count).collect();
    Request::post(url)
        .header("content-type", "application/json")
        .header("idempotency-key", "\"batch\"")
        .body(Items::array_of(&ids).unwrap())
        .unwrap()
}

/// Three different places of 512, by a generator of the test's own.
fn placements(count: u64) -> impl Iterator<Item = BTreeSet<usize>> {
    (0..count).map(|seed| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bad = BTreeSet::new();
        while bad.len() < 3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bad.insert((state >> 32) as usize % 512);
        }
        bad
    })
}

/// hyper's client, for many requests one after the other: no part of one waits
/// for the peer's word on the part before.
fn prompt<B>(over: Over) -> Client<HttpConnector, B>
where
    B: Body<Data = Bytes> + Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .http2_only(over == Http2)
        .build(connector)
}

fn json() -> SplitLayer<tower_weir::outcome::HttpClassifier, tower_weir::split::json::JsonArrays> {
    SplitLayer::json().split_on([StatusCode::UNPROCESSABLE_ENTITY])
}

/// All but the bad ones are there once, and it is known which were bad.
async fn delivers<S>(client: S, index: &Index, url: &str) -> usize
where
    S: Service<Request<Items>, Response = http::Response<Bytes>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
{
    let request = client.oneshot(batch(url, 512));
    // A stack is there to be spawned.
    let result = tokio::spawn(within("the batch", request)).await.unwrap();
    let error = result.unwrap_err();
    let partial: Box<PartialFailure> = error.downcast().unwrap();
    assert_eq!(partial.delivered(), 509);
    assert!(partial.failed_items().eq(index.bad.iter().copied()));
    for failure in partial.failures() {
        let cause = Cause::Status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!((failure.items().len(), failure.cause()), (1, Some(cause)));
    }
    let seen = index.take();
    let good: Vec<usize> = (0..512).filter(|id| !index.bad.contains(id)).collect();
    assert_eq!(seen.stored, good);
    let parts = partial.into_parts::<http::Response<Bytes>>().unwrap();
    let answered = parts.delivered.iter().map(|answer| answer.response.body());
    let answered = answered.flat_map(|body| serde_json::from_slice::<Vec<usize>>(body).unwrap());
    assert_eq!(answered.collect::<Vec<_>>(), good);
    seen.judged
}

#[tokio::test]
async fn three_bad_records_of_512_are_told_apart_over_hyper() {
    // Three that have a piece of 64 to themselves take the most.
    let worst = [[0, 64, 128], [63, 127, 511], [31, 288, 480]].map(BTreeSet::from);
    let mut most = 0;
    for (round, bad) in worst.into_iter().chain(placements(60)).enumerate() {
        let index = Index::with(bad);
        let url = index.start().await;
        let over = if round % 2 == 0 { Http1 } else { Http2 };
        let client = ServiceBuilder::new()
            .layer(json())
            .layer(CollectLayer::new(1 << 20))
            .service(prompt(over));
        let took = delivers(client, &index, &url).await;
        assert!(took <= 51, "{took}: {:?}", index.bad);
        most = most.max(took);
    }
    assert_eq!(most, 50);
}

#[tokio::test]
async fn each_part_is_retried_by_itself_under_the_whole_stack() {
    for bad in placements(4) {
        let mut index = Index::with(bad);
        index.refusals = 2;
        let url = index.start().await;
        let stack = Weir::http().backoff(AT_ONCE).no_budget();
        let client = ServiceBuilder::new()
            .layer(json())
            .layer(CollectLayer::new(1 << 20))
            .layer(stack.clone())
            .service(hyper(Http1));
        // Neither the refusals nor their retries are seen above: the same number
        // of requests is answered.
        let took = delivers(client, &index, &url).await;
        assert!(took <= 51, "{took}: {:?}", index.bad);
        let host = &stack.snapshot()[0];
        assert_eq!(
            (host.waiting, host.limiter.as_ref().unwrap().in_flight),
            (0, 0)
        );
    }
}

/// Under the keys of its parts an upstream would not know it again.
#[tokio::test(start_paused = true)]
async fn a_batch_that_may_have_been_stored_by_an_earlier_attempt_is_not_split() {
    let (doubtful, refused) = (StatusCode::BAD_GATEWAY, StatusCode::TOO_MANY_REQUESTS);
    let (too_large, named) = (
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNPROCESSABLE_ENTITY,
    );
    for (first, second, safe, split) in [
        (doubtful, refused, false, false),
        (doubtful, too_large, false, false),
        (doubtful, named, false, false),
        (doubtful, refused, true, true),
        (doubtful, too_large, true, true),
        (doubtful, named, true, true),
        (refused, refused, false, true),
        (refused, too_large, false, true),
        (refused, named, false, true),
    ] {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let log = keys.clone();
        let service = service_fn(move |request: Request<ReplayBody<Items>>| {
            let mut keys = log.lock().unwrap();
            keys.push(request.headers()["idempotency-key"].clone());
            let (status, body) = match keys.len() {
                1 => (first, ""),
                2 => (second, ""),
                _ => (StatusCode::OK, "[0]"),
            };
            let answer = axum::http::Response::builder().status(status);
            ready(answer.body(Full::new(Bytes::from(body))))
        });
        let client = ServiceBuilder::new()
            .layer(match safe {
                true => SplitLayer::json().split_on([named]).any_method(),
                false => SplitLayer::json().split_on([named]),
            })
            .layer(CollectLayer::new(100))
            .layer(RetryLayer::http().max_retries(1).backoff(AT_ONCE))
            .service(service);
        let request = Request::post("http://any.test/").header("idempotency-key", "K");
        let request = request.body(Items::array("[1,2]")).unwrap();
        let answer = client.oneshot(request).await.unwrap();
        let expected = if split { StatusCode::OK } else { second };
        assert_eq!(answer.status(), expected, "{first}, {second}, {safe}");
        let whole = ["K", "K", "K-0-1", "K-1-2"];
        assert_eq!(*keys.lock().unwrap(), whole[..if split { 4 } else { 2 }]);
    }
}

#[tokio::test]
async fn a_batch_that_is_good_comes_back_whole() {
    let index = Index::default();
    let url = index.start().await;
    for layer in [json(), json().concurrency(8)] {
        let mut client = ServiceBuilder::new()
            .layer(layer)
            .layer(CollectLayer::new(1 << 20))
            .layer(Weir::http())
            .service(hyper(Http1));
        let ready = client.ready().await.unwrap();
        let response = within("the batch", ready.call(batch(&url, 512))).await;
        let response = response.unwrap();
        let ids: Vec<usize> = serde_json::from_slice(response.body()).unwrap();
        assert!(ids.into_iter().eq(0..512));
        assert_eq!(response.headers()["content-type"], "application/json");
        let mut seen = index.take();
        seen.stored.sort_unstable();
        assert!(seen.stored.into_iter().eq(0..512));
        // Under no key was there more than one body.
        assert_eq!(seen.keys.len(), seen.judged);
        assert!(seen.keys.contains("\"batch\"") && seen.keys.contains("\"batch-0-64\""));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error_and_not_a_piece() {
    let index = Index::default();
    let url = index.start().await;
    let client = ServiceBuilder::new()
        .layer(json())
        .layer(CollectLayer::new(64))
        .service(hyper(Http1));
    let error = within("a long answer", client.clone().oneshot(batch(&url, 100)))
        .await
        .unwrap_err();
    assert!(error.is::<LengthLimitError>(), "{error}");
    assert_eq!(index.take().judged, 1);
    let response = client.oneshot(batch(&url, 10)).await.unwrap();
    assert_eq!(response.body(), "[0,1,2,3,4,5,6,7,8,9]");
}

#[tokio::test]
async fn lines_reach_the_server_as_they_were() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let take = move |body: axum::body::Body| async move {
        let text = body.collect().await.unwrap().to_bytes();
        match text.split(|byte| *byte == b'\n').count() {
            0..=3 => {
                told.lock().unwrap().push(text);
                StatusCode::NO_CONTENT
            }
            _ => StatusCode::PAYLOAD_TOO_LARGE,
        }
    };
    let routes = Router::new().route("/", post(take));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = ServiceBuilder::new()
        .layer(SplitLayer::json())
        .layer(CollectLayer::new(0))
        .layer(Weir::http())
        .service(hyper(Http1));
    let lines = Items::lines("{}\n[2]\n\"3\"\n4\n5\n");
    let request = Request::post(url).body(lines).unwrap();
    let response = within("the lines", client.oneshot(request)).await.unwrap();
    assert_eq!(
        (response.status(), response.body().len()),
        (StatusCode::NO_CONTENT, 0)
    );
    assert_eq!(seen.lock().unwrap()[..], ["{}\n[2]\n", "\"3\"\n", "4\n5\n"]);
}
