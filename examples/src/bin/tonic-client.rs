//! A tonic client with retries, a circuit breaker and a concurrency limit:
//! `tonic-client http://host:port`. Without a URL it starts an upstream that
//! takes two calls at a time and refuses the rest.

use std::io::{self, Write};

use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tower::ServiceBuilder;
use tower_weir::{BoxError, Weir};
use tower_weir_testkit::{
    proto::{Record, UpsertRequest, vector_index_client::VectorIndexClient},
    upstream::Upstream,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let upstream = Upstream::builder().slots(2).start().await?;
    let url = std::env::args().nth(1).unwrap_or_else(|| upstream.url());

    let channel = Endpoint::from_shared(url)?.connect_lazy();
    let channel = ServiceBuilder::new()
        .layer(Weir::grpc().ceiling(16).any_method())
        .service(channel);
    let client = VectorIndexClient::new(channel);

    let mut calls = JoinSet::new();
    for id in 0..20 {
        let mut client = client.clone();
        let records = vec![Record {
            id: id.to_string(),
            vector: vec![0.5],
            ..Record::default()
        }];
        calls.spawn(async move { client.upsert(UpsertRequest { records }).await });
    }
    while let Some(answer) = calls.join_next().await {
        let accepted = answer??.into_inner().accepted;
        writeln!(io::stdout(), "accepted {accepted}")?;
    }
    Ok(())
}
