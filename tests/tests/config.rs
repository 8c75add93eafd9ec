//! Settings from a file over real clients, changed while they run: nothing at the
//! call site says a type.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tests::{
    client::{
        Over::{Http1, Http2},
        channel, hyper,
    },
    script::{Script, says},
    wait::within,
};
use tokio::time::Instant;
use tonic::Code;
use tower::{ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    config::{Running, Settings},
    error::AttemptTimeout,
};
use tower_weir_testkit::{
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::{Answer, Phase, ServiceTime, Trouble, TroubleKind, Upstream},
};

fn settings(text: &str) -> Settings {
    let at_once = "retry.backoff = { base = \"1ms\", cap = \"1ms\" }\n";
    Settings::from_toml(&format!("{at_once}{text}")).unwrap()
}

#[tokio::test]
async fn a_stack_over_hyper_is_changed_while_it_runs() {
    let server = Script::start(|_, _| says(StatusCode::BAD_GATEWAY, &[], "")).await;
    for over in [Http1, Http2] {
        let stack = Weir::http()
            .configured(&settings("retry.max_retries = 2"))
            .unwrap();
        let running = Running::new().with(stack.handle());
        let client = ServiceBuilder::new().layer(stack).service(hyper(over));
        let send = || {
            let request = Request::get(server.url()).body(Full::new(Bytes::new()));
            // A stack is there to be spawned.
            let call = client.clone().oneshot(request.unwrap());
            tokio::spawn(within("an answer", call))
        };
        for (text, attempts) in [
            ("retry.max_retries = 2", 3),
            ("retry.max_retries = 0", 1),
            ("retry.max_retries = 1\nretry.statuses = [502]", 2),
            ("retry.max_retries = 1\nretry.statuses = [503]", 1),
            ("retry.enabled = false", 1),
        ] {
            running.apply(&settings(text)).unwrap();
            let before = server.requests();
            let response = send().await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(server.requests() - before, attempts, "{text}");
        }
    }
}

/// An upstream that takes its time.
async fn slow(time: Duration) -> Upstream {
    let upstream = Upstream::builder().service_time(ServiceTime::constant(time));
    upstream.slots(64).start().await.unwrap()
}

#[tokio::test]
async fn a_stack_over_tonic_is_changed_while_it_runs() {
    let upstream = slow(Duration::ZERO).await;
    let stack = Weir::grpc()
        .configured(&settings("retry.max_retries = 1"))
        .unwrap();
    let running = Running::new().with(stack.handle());
    let service = ServiceBuilder::new()
        .layer(stack)
        .service(channel(&upstream.url()));
    let mut client = VectorIndexClient::new(service);
    let answer = Answer {
        grpc: Some(Code::Unavailable),
        ..Answer::status(StatusCode::OK)
    };
    let phase = Phase {
        troubles: vec![Trouble::always(TroubleKind::Answer(answer))],
        ..Phase::default()
    };
    upstream.set_phase(phase).unwrap();
    for retries in [1, 4, 0] {
        let text = format!("retry.max_retries = {retries}");
        running.apply(&settings(&text)).unwrap();
        let before = upstream.stats().attempts;
        let call = client.query(QueryRequest::default());
        let status = within("an answer", call).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(upstream.stats().attempts - before, retries + 1);
    }
}

#[tokio::test]
async fn the_time_of_an_attempt_is_changed_while_calls_are_made() {
    let upstream = slow(Duration::from_secs(60)).await;
    let none = "retry.max_retries = 0\n";
    let stack = Weir::http().configured(&settings(none)).unwrap();
    let running = Running::new().with(stack.handle());
    let client = ServiceBuilder::new().layer(stack).service(hyper(Http1));
    let soon = format!("{none}calls.attempt_timeout = \"50ms\"");
    running.apply(&settings(&soon)).unwrap();
    let request = Request::post(format!("{}/upsert", upstream.url()));
    let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
    let began = Instant::now();
    let error = within("a timeout", client.oneshot(request))
        .await
        .unwrap_err();
    assert!(error.is::<AttemptTimeout>(), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(50));
}
