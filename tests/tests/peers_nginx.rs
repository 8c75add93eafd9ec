//! A bulk writer against nginx's `limit_req`, which counts requests a second.
//!
//! Runs nginx as `tests::nginx` has it.
#![cfg(feature = "peers")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tests::nginx::Nginx;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt};
use tower_weir::Weir;

#[tokio::test]
async fn a_bulk_run_through_limit_req_loses_nothing_and_takes_what_the_rate_allows() {
    const REQUESTS: usize = 500;
    const CALLERS: usize = 32;
    let nginx = Nginx::start("limit_req zone=all burst=10 nodelay;").await;
    let stack = Weir::http()
        .bulk()
        .layer(Client::builder(TokioExecutor::new()).build_http());
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (stack, next) = (stack.clone(), next.clone());
        let uri = format!("http://{}/index.html", nginx.addr);
        callers.spawn(async move {
            let mut done = 0;
            while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                let request = Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
                let answer = stack.clone().oneshot(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(answer.collect().await.unwrap().to_bytes(), "done");
                done += 1;
            }
            done
        });
    }
    let delivered: usize = callers.join_all().await.into_iter().sum();
    let took = start.elapsed().as_secs_f64();
    let log = nginx.log(REQUESTS).await;
    let served = log.iter().filter(|(_, status)| *status == 200).count();
    let refused = log.iter().filter(|(_, status)| *status == 429).count();
    let connections: BTreeSet<_> = log.iter().map(|(connection, _)| connection).collect();
    assert_eq!((delivered, served), (REQUESTS, REQUESTS));
    assert_eq!(served + refused, log.len());
    assert!(refused > 0, "the rate was never reached");
    let ideal = REQUESTS as f64 / 50.0;
    assert!(took <= 2.0 * ideal, "{took}");
    // A call that waits for a connection begins another; one for each of some
    // hundred refusals would be far more.
    assert!(connections.len() <= 2 * CALLERS, "{}", connections.len());
}
