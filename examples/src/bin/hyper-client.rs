//! hyper-util's client with retries, a circuit breaker and a concurrency limit:
//! `hyper-client http://host:port/path`. Without a URL it starts an upstream
//! that takes two requests at a time and refuses the rest.

use std::io::{self, Write};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};
use tower_weir::{BoxError, Weir, outcome::Idempotent, retry::Retried};
use tower_weir_testkit::upstream::Upstream;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let upstream = Upstream::builder().slots(2).start().await?;
    let url = std::env::args().nth(1).unwrap_or_else(|| upstream.url());

    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ServiceBuilder::new()
        .layer(Weir::http().ceiling(16).max_retries(5))
        .service(client);

    let mut calls = JoinSet::new();
    for id in 0..20 {
        let record = format!(r#"{{"id": "{id}", "vector": [0.5]}}"#);
        let request = Request::post(&url)
            .header("content-type", "application/json")
            // a POST is not repeated once the upstream may have acted on it,
            // unless its caller says that this does no harm
            .extension(Idempotent)
            .body(Full::<Bytes>::from(record))?;
        calls.spawn(client.clone().oneshot(request));
    }
    while let Some(response) = calls.join_next().await {
        let response = response??;
        let (status, retried) = (response.status(), response.extensions().get::<Retried>());
        let attempts = retried.map_or(1, |retried| retried.attempts);
        let body = response.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body);
        writeln!(io::stdout(), "{status} after {attempts}: {body}")?;
    }
    Ok(())
}
