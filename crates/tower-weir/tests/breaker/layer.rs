//! What a layer value is: its hosts, its classifier, its errors.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    circuit_breaker::{CircuitBreakerLayer, Control, FailureRun, State, WhenOpen},
    error::CircuitOpen,
    outcome::HttpClassifier,
};

use crate::rig::{Act, both, config, pass};

#[tokio::test(start_paused = true)]
async fn the_error_says_what_one_wants_to_know() {
    both(config(), WhenOpen::Refuse, |rig| async move {
        rig.trip().await;
        pass(Duration::from_millis(250)).await;
        assert_eq!(
            rig.refused().await.to_string(),
            "circuit open for index.test (failure_run): come again in 0.750 s"
        );
        rig.control(Control::ForcedOpen);
        let held = rig.refused().await;
        assert_eq!(
            held.to_string(),
            "circuit open for index.test (manual): held open"
        );
        assert_eq!(
            format!("{held:?}"),
            "CircuitOpen { host: \"index.test\", retry_after: None, open_for: 250ms, \
             cause: Manual }"
        );
    })
    .await;
}

#[cfg(feature = "tonic")]
#[tokio::test(start_paused = true)]
async fn the_error_has_a_status_for_tonic() {
    both(config(), WhenOpen::Refuse, |rig| async move {
        rig.trip().await;
        let open: tower_weir::BoxError = rig.refused().await.into();
        let status = tonic::Status::from_error(open);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(
            status.message(),
            "circuit open for index.test (failure_run): come again in 1.000 s"
        );
    })
    .await;
}

/// An upstream that answers INTERNAL, in a response without a body.
async fn internal(_: Request<String>) -> Result<Response<Empty<&'static [u8]>>, Infallible> {
    let response = Response::builder().header("grpc-status", 13);
    Ok(response.body(Empty::new()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_layer_for_grpc_stays_one_with_another_classifier() {
    let layer = CircuitBreakerLayer::grpc().config(config());
    let layer = layer.classify(HttpClassifier::new());
    let service = layer.layer(service_fn(internal));
    for _ in 0..3 {
        let request = Request::new(String::new());
        service.clone().oneshot(request).await.unwrap();
    }
    let request = Request::new(String::new());
    let error = service.oneshot(request).await.unwrap_err();
    assert!(error.is::<CircuitOpen>());
}

#[test]
fn the_one_host_can_be_held_before_its_first_call() {
    let handle = CircuitBreakerLayer::http().for_host("a").handle();
    assert!(handle.force_open("a"));
    assert!(!handle.force_open("b"));
    let hosts = handle.snapshot();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].1.control, Control::ForcedOpen);
}

/// An upstream of which one host is down.
async fn half_down(request: Request<String>) -> Result<Response<Empty<&'static [u8]>>, Infallible> {
    let status = match request.uri().host() {
        Some("down.test") => 500,
        _ => 200,
    };
    Ok(Response::builder()
        .status(status)
        .body(Empty::new())
        .unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_host_has_a_circuit_of_its_own() {
    let layer = CircuitBreakerLayer::http().config(config());
    let service = layer.layer(service_fn(half_down));
    for n in 0..10 {
        for (host, well) in [("down.test", n < 3), ("up.test", true)] {
            let request = Request::get(format!("http://{host}/")).body(String::new());
            let answer = service.clone().oneshot(request.unwrap()).await;
            assert_eq!(answer.is_ok(), well, "{host}");
        }
    }
    let hosts = layer.snapshot().into_iter();
    let hosts: Vec<_> = hosts
        .map(|(host, it)| (host.to_string(), it.state, it.counts.calls))
        .collect();
    assert_eq!(
        hosts,
        [
            ("down.test".to_owned(), State::Open, 3),
            ("up.test".to_owned(), State::Closed, 10),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn thresholds_are_raised_and_lowered_while_it_runs() {
    both(config(), WhenOpen::Refuse, |rig| async move {
        let run = |failures| FailureRun::new(failures, Duration::ZERO);
        rig.sent(Act::Status(500)).await;
        (rig.update)(&|config| config.failure_run(run(10)));
        for _ in 0..7 {
            rig.sent(Act::Status(500)).await;
        }
        assert_eq!(rig.state(), State::Closed);
        // What it counted is kept; it is judged with the next call.
        (rig.update)(&|config| config.failure_run(run(3)));
        assert_eq!(rig.state(), State::Closed);
        rig.sent(Act::Status(500)).await;
        assert_eq!(rig.state(), State::Open);
        assert_eq!(rig.snapshot().failure_run, 9);
    })
    .await;
}
