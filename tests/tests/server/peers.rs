//! Rejections as peers see them that are none of ours: grpcio, curl and nginx.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tests::{
    client::{Over, hyper},
    nginx::Nginx,
    python,
    wait::{until, within},
};
use tokio::process::Command;
use tower_weir::server::AdmissionLayer;

use crate::{
    grpc,
    house::{House, Served, until_pending},
};

/// What the command writes to its standard output.
async fn output(mut command: Command) -> String {
    let output = within("the command", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What grpcio gets for a call of Upsert.
async fn grpcio(served: &grpc::Served) -> Value {
    let mut script = python::script("grpcio_client.py");
    script.arg(served.addr.port().to_string());
    serde_json::from_str(&output(script).await).unwrap()
}

#[tokio::test]
async fn grpcio_is_told_why_and_for_how_long() {
    let (layer, house) = (AdmissionLayer::new().reject_at(0), House::new());
    let served = grpc::serve(layer, &house).await;
    let message = "0 operations are pending, of at most 0: too many for one more";
    let expected = json!({
        "code": "RESOURCE_EXHAUSTED",
        "message": message,
        // Trailers-Only: nothing came before the trailers.
        "initial": {},
        "trailing": {"grpc-retry-pushback-ms": "1"},
        "status": [8, message],
        "details": {
            "google.rpc.ErrorInfo": ["TOO_MANY_JOBS", "tower-weir"],
            "google.rpc.RetryInfo": 0.001,
        },
    });
    assert_eq!(grpcio(&served).await, expected);
}

#[tokio::test]
async fn grpcio_is_told_that_a_full_storage_is_not_worth_waiting_for() {
    let (layer, house) = (AdmissionLayer::new(), House::new());
    layer.handle().report_storage(0.97);
    let served = grpc::serve(layer, &house).await;
    let message = "the storage is filled to 97.0%: delete something first";
    let expected = json!({
        "code": "RESOURCE_EXHAUSTED",
        "message": message,
        "initial": {},
        "trailing": {"grpc-retry-pushback-ms": "-1"},
        "status": [8, message],
        "details": {"google.rpc.ErrorInfo": ["STORAGE_FULL", "tower-weir"]},
    });
    assert_eq!(grpcio(&served).await, expected);
}

#[tokio::test]
async fn grpcio_gets_its_answer_after_a_delay() {
    let (layer, house) = (AdmissionLayer::new().throttle_at(0), House::new());
    let served = grpc::serve(layer.clone(), &house).await;
    let delayed = async {
        until_pending(&layer, (1, 1)).await;
        layer
            .handle()
            .update(|config| config.limits.throttle_at = 1);
        house.let_out(1);
    };
    let (answer, ()) = tokio::join!(grpcio(&served), delayed);
    assert_eq!(answer["code"], "OK", "{answer}");
}

/// What curl prints for a POST, with these arguments besides.
async fn curl(served: &Served, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "-X", "POST"]);
    command.args(arguments).arg(served.url("/a"));
    output(command).await
}

#[tokio::test]
async fn curl_shows_the_reason_over_both_versions_of_http() {
    let layer = AdmissionLayer::new().reject_at(0);
    let served = Served::new(House::new().routes().layer(layer)).await;
    // Over HTTP/2 without a body: hyper resets one that nobody reads, as
    // RFC 9113 8.1 has it, and curl 7 then has no answer at all, also from
    // handlers that have no layer in front.
    for (arguments, line) in [
        (
            &["-i", "--http1.1", "-d", "{}"][..],
            "HTTP/1.1 429 Too Many Requests",
        ),
        (&["-i", "--http2-prior-knowledge"], "HTTP/2 429 "),
    ] {
        let answer = curl(&served, arguments).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        assert_eq!(lines.next(), Some(line));
        let rest: Vec<_> = lines.collect();
        for line in ["retry-after: 1", "content-type: application/problem+json"] {
            assert!(rest.contains(&line), "{line} in {rest:?}");
        }
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&problem["status"], &problem["code"], &problem["class"]),
            (&json!(429), &json!("too-many-jobs"), &json!("record"))
        );
    }
}

#[tokio::test]
async fn curl_comes_again_when_it_is_told_to() {
    let layer = AdmissionLayer::new().reject_at(0);
    let house = House::new();
    house.let_out(1);
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let room = async {
        let rejected = || {
            let keys = layer.snapshot();
            keys.iter().any(|key| key.classes[0].rejected.total() > 0)
        };
        until("a rejection", rejected).await;
        layer.handle().update(|config| config.limits.reject_at = 1);
    };
    let (answer, ()) = tokio::join!(curl(&served, &["--retry", "5"]), room);
    assert!(answer.ends_with("stored"), "{answer}");
    let rejected = layer.snapshot()[0].classes[0].rejected;
    assert!((1..=5).contains(&rejected.too_many_jobs), "{rejected:?}");
    assert_eq!(rejected.total(), rejected.too_many_jobs);
}

/// The answer to a POST of so many bytes, but for what a proxy has to change.
async fn posted(url: String, bytes: usize) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::post(url).body(Body::from(vec![0; bytes]));
    let client = hyper(Over::Http1);
    let answer = within("an answer", client.request(request.unwrap())).await;
    let (mut head, body) = answer.unwrap().into_parts();
    for name in [header::DATE, header::SERVER, header::CONNECTION] {
        head.headers.remove(name);
    }
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, body)
}

#[tokio::test]
async fn nginx_passes_rejections_on_as_they_are() {
    let layer = AdmissionLayer::new().reject_at(0).rate_limit_headers(true);
    let served = Served::new(House::new().routes().layer(layer.clone())).await;
    let to = format!("proxy_pass http://{};", served.addr);
    for rules in [
        "",
        "proxy_http_version 1.1; proxy_set_header Connection '';",
        "proxy_http_version 1.1; proxy_request_buffering off;",
    ] {
        let rules = format!("client_max_body_size 16m; {to} {rules}");
        let nginx = Nginx::start(&rules).await;
        for bytes in [0, 5, 1 << 20, 4 << 20] {
            let direct = posted(served.url("/a"), 5).await;
            assert_eq!(direct.0, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(direct.1[header::RETRY_AFTER], "1");
            assert_eq!(direct.1[header::CONTENT_TYPE], "application/problem+json");
            let through = posted(format!("http://{}/a", nginx.addr), bytes).await;
            assert_eq!(through, direct, "{bytes} bytes, {rules}");
        }
    }
}
