use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tests::{
    client::{Over, hyper},
    wait::within,
};
use tokio::{task::JoinSet, time::sleep};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{Weir, server::AdmissionLayer};

use crate::house::{Served, pending};

const WRITERS: usize = 64;
const WRITES: usize = 3000;
const CAPACITY: usize = 8;

type Store = Arc<Mutex<HashMap<Bytes, u32>>>;

async fn store(State(store): State<Store>, id: Bytes) -> &'static str {
    sleep(Duration::from_millis(5)).await;
    *store.lock().unwrap().entry(id).or_default() += 1;
    "stored"
}

/// Writes everything through our own client stack; returns how many were
/// rejected on the way.
async fn write_all(layer: AdmissionLayer) -> u64 {
    let stored = Store::default();
    let routes = Router::new().route("/", post(store));
    let served = Served::new(routes.with_state(stored.clone()).layer(layer.clone())).await;
    let url = served.url("/");
    let client = ServiceBuilder::new()
        .layer(Weir::http().bulk().ceiling(WRITERS).seed(1))
        .service(hyper(Over::Http1));
    let next = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (mut client, url, next) = (client.clone(), url.clone(), next.clone());
        writers.spawn(async move {
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= WRITES {
                    return;
                }
                let body = Full::new(Bytes::from(id.to_string()));
                let request = Request::post(&url).body(body).unwrap();
                let answer = client.ready().await.unwrap().call(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap();
            }
        });
    }
    within("the writers", writers.join_all()).await;
    let stored = stored.lock().unwrap();
    assert_eq!(stored.len(), WRITES, "everything is delivered");
    assert!(stored.values().all(|times| *times == 1), "nothing twice");
    assert_eq!(pending(&layer), (0, 0));
    layer.snapshot()[0]
        .class("record")
        .unwrap()
        .rejected
        .total()
}

#[tokio::test]
async fn our_client_delivers_all_once_with_few_rejections() {
    let layer = AdmissionLayer::new()
        .throttle_at(CAPACITY)
        .reject_at(2 * CAPACITY);
    let rejected = write_all(layer).await;
    assert!(rejected * 100 <= 3 * WRITES as u64, "{rejected}");
}

#[tokio::test]
async fn also_where_the_server_never_delays() {
    let layer = AdmissionLayer::new()
        .throttle_at(CAPACITY)
        .reject_at(CAPACITY);
    let rejected = write_all(layer).await;
    assert!(rejected * 100 <= 3 * WRITES as u64, "{rejected}");
}
