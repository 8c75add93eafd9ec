//! The default limits, reached over real connections.

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tests::{
    client::{Over, hyper},
    wait::within,
};
use tokio::task::JoinSet;
use tonic::Code;
use tower_weir::server::AdmissionLayer;
use tower_weir_testkit::proto::{
    QueryRequest, UpsertRequest, vector_index_client::VectorIndexClient,
};

use crate::{
    grpc,
    house::{House, LATE, Served, until_pending},
};

/// How a server deals with an operation.
#[derive(Debug, PartialEq, Eq)]
enum Dealt {
    AtOnce,
    Late,
    Rejected(String),
}

impl Dealt {
    fn served(late: bool) -> Self {
        if late { Self::Late } else { Self::AtOnce }
    }
}

/// Connections of 200 streams each, which is as many as the servers allow.
const STREAMS: usize = 200;

async fn reach<W, S>(
    layer: &AdmissionLayer,
    house: &House,
    write: impl Fn(usize) -> W,
    search: impl Fn() -> S,
) where
    W: Future<Output = Dealt> + Send + 'static,
    S: Future<Output = Dealt>,
{
    let mut writes = JoinSet::new();
    for (until, delayed) in [(100, 0), (101, 1), (5000, 4900)] {
        for n in writes.len()..until {
            writes.spawn(write(n));
        }
        until_pending(layer, (until, delayed)).await;
        // However many writes are held, a search is answered, undelayed.
        assert_eq!(within("a search", search()).await, Dealt::AtOnce);
    }
    let refused = within("a rejection", write(5000)).await;
    let words = "5000 operations are pending, of at most 5000: too many for one more";
    assert_eq!(refused, Dealt::Rejected(words.to_owned()));
    assert_eq!(within("a search", search()).await, Dealt::AtOnce);

    house.let_out(5000);
    let dealt = within("the writes", writes.join_all()).await;
    let count = |what| dealt.iter().filter(|dealt| **dealt == what).count();
    assert_eq!((count(Dealt::AtOnce), count(Dealt::Late)), (100, 4900));
    until_pending(layer, (0, 0)).await;
}

#[tokio::test]
async fn axum_runs_a_hundred_delays_the_rest_and_rejects_the_5001st() {
    let (layer, house) = (AdmissionLayer::new(), House::new());
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let clients: Vec<_> = (0..=5000 / STREAMS)
        .map(|_| hyper::<Body>(Over::Http2))
        .collect();
    let send = |client: usize, method: &str| {
        let request = Request::builder().method(method).uri(served.url("/a"));
        let answer = clients[client].request(request.body(Body::empty()).unwrap());
        async move {
            let (head, body) = answer.await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if head.status == StatusCode::TOO_MANY_REQUESTS {
                let after = head.headers["retry-after"].to_str().unwrap();
                assert!(after.parse::<u64>().unwrap() >= 1);
                let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(problem["code"], "too-many-jobs");
                return Dealt::Rejected(problem["detail"].as_str().unwrap().to_owned());
            }
            assert_eq!(head.status, StatusCode::OK);
            Dealt::served(head.headers.contains_key(LATE))
        }
    };
    let write = |n: usize| send(n / STREAMS, "POST");
    let search = || send(5000 / STREAMS, "GET");
    reach(&layer, &house, write, search).await;
}

#[tokio::test]
async fn tonic_does_the_same() {
    let (layer, house) = (grpc::layer(), House::new());
    let served = grpc::serve(layer.clone(), &house).await;
    let clients: Vec<_> = (0..=5000 / STREAMS)
        .map(|_| VectorIndexClient::new(served.channel()))
        .collect();
    let write = |n: usize| {
        let mut client = clients[n / STREAMS].clone();
        async move {
            match client.upsert(UpsertRequest::default()).await {
                Ok(answer) => Dealt::served(answer.metadata().contains_key(LATE)),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
                    Dealt::Rejected(status.message().to_owned())
                }
            }
        }
    };
    let search = || {
        let mut client = clients[5000 / STREAMS].clone();
        async move {
            let answer = client.query(QueryRequest::default()).await.unwrap();
            Dealt::served(answer.metadata().contains_key(LATE))
        }
    };
    reach(&layer, &house, write, search).await;
}
