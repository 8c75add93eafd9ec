//! What is left of the requests that a shutdown has ended.
#![cfg(feature = "dead-letter")]

use std::{collections::BTreeMap, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    dead_letter::{ChannelSink, DeadLetterLayer, LetterBody, LetterResult},
    outcome::Processed,
    retry::ReplayBody,
    shutdown::Shutdown,
};

use crate::rig::{SECOND, settle};

#[tokio::test(start_paused = true)]
async fn each_has_its_body_and_says_whether_it_may_have_been_processed() {
    let shutdown = Shutdown::new();
    let (sink, mut letters) = mpsc::channel(9);
    let dead = DeadLetterLayer::new(ChannelSink::new(sink));
    let handle = dead.handle();
    let never = Instant::now() + 3600 * SECOND;
    // `/500` fails, `/hang` is not answered.
    let upstream = service_fn(move |request: Request<ReplayBody<String>>| async move {
        let failed = request.uri().path() == "/500";
        request.into_body().collect().await?;
        if !failed {
            sleep_until(never).await;
        }
        Ok::<_, BoxError>(Response::builder().status(500).body(String::new())?)
    });
    let stack = ServiceBuilder::new()
        .layer(dead)
        .layer(
            Weir::http()
                .shutdown(&shutdown)
                .any_method()
                .backoff(tower_weir::retry::backoff::Constant::new(60 * SECOND))
                .limiter(|law| {
                    law.initial = 1;
                    law.max = 1;
                }),
        )
        .service(upstream);
    let call = |path: &str| {
        let request = Request::post(format!("http://a.test/{path}"));
        let request = request.body(format!("the body of {path}")).unwrap();
        tokio::spawn(stack.clone().oneshot(request))
    };
    let mut calls = Vec::new();
    for path in ["500", "hang", "queued"] {
        calls.push(call(path));
        settle().await;
    }
    let drained = shutdown.drain(SECOND).await;
    assert_eq!((drained.backoffs, drained.queued, drained.cut), (1, 1, 1));
    calls.push(call("new"));
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    handle.flush().await.unwrap();
    let mut told = BTreeMap::new();
    while let Ok(letter) = letters.try_recv() {
        let path = letter.uri.path()[1..].to_owned();
        let body = format!("the body of {path}");
        assert_eq!(letter.body, LetterBody::Whole(body.into()), "{path}");
        assert_eq!(letter.ending.as_deref(), Some("the stack was shut down"));
        let LetterResult::Error { fault, .. } = letter.result else {
            panic!("{:?}", letter.result);
        };
        told.insert(path, (fault, letter.processed, letter.attempts.len()));
    }
    let told: Vec<_> = told
        .iter()
        .map(|(path, (f, p, n))| (&**path, &**f, *p, *n))
        .collect();
    let (no, maybe) = (Processed::No, Processed::Maybe);
    assert_eq!(
        told,
        [
            ("500", "cut", maybe, 1),
            ("hang", "cut", maybe, 1),
            ("new", "shutting_down", no, 0),
            ("queued", "shutting_down", no, 1),
        ]
    );
    assert_eq!(shutdown.drain(Duration::ZERO).await.refused, 1);
}
