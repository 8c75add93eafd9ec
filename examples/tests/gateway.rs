//! The gateway in front of an upstream, as its README has it tried.
#![cfg(unix)]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tests::{
    program::{ended, signal, start},
    wait::within,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::sleep,
};
use tower_weir_testkit::upstream::{Refusal, Upstream};

/// The program while it runs.
struct Gateway {
    child: Child,
    addr: SocketAddr,
}

impl Gateway {
    async fn start(upstream: &Upstream, options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axum-gateway"));
        command
            .args(["--listen", "127.0.0.1:0", "--upstream", &upstream.url()])
            .args(options)
            .env("RUST_LOG", "axum_gateway=info")
            .env("NO_COLOR", "1");
        let mut child = start(command);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let listening = stdout.read_line(&mut line);
        within("the address", listening).await.unwrap();
        let (_, addr) = line.trim().split_once("listening addr=").unwrap();
        let addr = addr.parse().unwrap();
        Self { child, addr }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        send(self.addr, method, path, body).await
    }
}

async fn send(addr: SocketAddr, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{addr}{path}"))
        .body(Full::new(body.into()))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        text: String::from_utf8(body.into()).unwrap(),
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

const RECORDS: &str = "/indexes/books/records";

#[tokio::test]
async fn it_forwards_records_and_says_why_it_rejects() {
    let upstream = Upstream::builder().start().await.unwrap();
    let gateway = Gateway::start(&upstream, &[]).await;
    let stored = gateway.send("POST", RECORDS, r#"{"id": "a"}"#).await;
    assert_eq!(stored.text, r#"{"accepted":1}"#);
    assert_eq!(upstream.stored("a"), 1);
    // Larger than axum's own limit, and not than the gateway's.
    let large = format!(r#"{{"id": "b", "text": "{}"}}"#, "x".repeat(3 << 20));
    let stored = gateway.send("POST", RECORDS, large).await;
    assert_eq!((stored.status, upstream.stored("b")), (StatusCode::OK, 1));
    // It goes by the head.
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let head = format!("POST {RECORDS} HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");

    gateway.send("PUT", "/admin/storage/97", "").await;
    let full = gateway.send("POST", RECORDS, r#"{"id": "c"}"#).await;
    assert_eq!(full.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(full.headers["x-should-retry"], "false");
    assert!(
        full.text.contains(r#""code":"storage-full""#),
        "{}",
        full.text
    );
    assert_eq!(upstream.stored("c"), 0);
    let attempts = upstream.stats().attempts;
    let deleted = gateway.send("DELETE", RECORDS, "").await;
    assert_eq!(deleted.status, StatusCode::OK);
    assert_eq!(upstream.stats().attempts, attempts + 1);
    let state = gateway.send("GET", "/admin/admission", "").await;
    assert!(state.text.contains("storage_full: 1"), "{}", state.text);
}

#[tokio::test]
async fn on_ctrl_c_it_finishes_what_runs() {
    // Who runs waits here, until there is a slot.
    let queue = Refusal {
        queue: 1,
        ..Refusal::default()
    };
    let upstream = Upstream::builder().slots(0).refusal(queue);
    let upstream = upstream.start().await.unwrap();
    let gateway = Gateway::start(&upstream, &["--throttle-at", "1"]).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        calls.spawn(send(gateway.addr, "POST", RECORDS, r#"{"id": "a"}"#));
    }
    let pending = async {
        loop {
            let state = gateway.send("GET", "/admin/admission", "").await;
            if state.text.contains("delayed: 19") && upstream.stats().in_flight == 1 {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    within("one that runs and 19 that are delayed", pending).await;
    signal(&gateway.child, "INT").await;
    for _ in 0..19 {
        let refused = within("a refusal", calls.join_next()).await;
        let refused = refused.unwrap().unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers["retry-after"], "5");
    }
    upstream.set_slots(1);
    let done = within("an answer", calls.join_next()).await;
    assert_eq!(done.unwrap().unwrap().text, r#"{"accepted":1}"#);
    assert!(ended(gateway.child).await.status.success());
}
