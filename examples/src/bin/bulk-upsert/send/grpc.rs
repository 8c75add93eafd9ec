use http::{HeaderValue, Response, Uri};
use prost::Message;
use tonic::{
    Request,
    body::Body,
    client::GrpcService,
    transport::{Channel, Endpoint},
};
use tower::ServiceBuilder;
use tower_weir::{BoxError, Weir, retry::IdempotencyKey, shutdown::Shutdown};
use tower_weir_testkit::proto::{Record, UpsertRequest, vector_index_client::VectorIndexClient};

use super::{Gauge, KEY, KEY_VERSION, Tally, Upsert, whole::Whole};
use crate::{letters::Letters, options::Options, source::Batch, tuning::Tuning};

/// The stack over tonic's channel.
pub(crate) fn grpc(
    url: &Uri,
    options: &Options,
    tuning: &Tuning,
    letters: &Letters,
) -> Result<(impl Upsert + use<>, Gauge), BoxError> {
    let host = url.authority().map_or("", |host| host.as_str());
    let shutdown = Shutdown::new();
    let weir = tuning
        .apply(Weir::grpc())?
        .for_host(host)
        .seed(options.seed)
        .shutdown(&shutdown);
    let tally = Tally::default();
    let channel: Channel = Endpoint::from(url.clone()).connect_lazy();
    let service = ServiceBuilder::new()
        .layer(letters.layer.clone())
        .layer_fn(Whole)
        .layer(weir.clone())
        .map_request(tally.clone().attempt())
        .map_response(tally.clone().answer(rejects))
        .service(channel);
    let gauge = Gauge {
        handle: weir.handle(),
        shutdown,
        tally,
    };
    let grpc = Grpc {
        client: VectorIndexClient::new(service),
        keyed: letters.are_wanted(),
    };
    Ok((grpc, gauge))
}

/// Whether the answer is RESOURCE_EXHAUSTED or UNAVAILABLE, Trailers-Only, or
/// the refusal of a proxy that speaks HTTP.
fn rejects<B>(response: &Response<B>) -> bool {
    let code = response.headers().get("grpc-status");
    matches!(code.map(HeaderValue::as_bytes), Some(b"8" | b"14"))
        || matches!(response.status().as_u16(), 429 | 503)
}

#[derive(Clone)]
struct Grpc<S> {
    client: VectorIndexClient<S>,
    keyed: bool,
}

impl<S> Upsert for Grpc<S>
where
    S: GrpcService<Body, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    async fn upsert(&self, batch: &Batch) -> Result<(), BoxError> {
        let records = batch.records.iter().map(|record| Record {
            id: record.id.clone(),
            vector: record.vector.clone(),
            metadata: record.metadata.clone(),
        });
        let message = UpsertRequest {
            records: records.collect(),
        };
        let key = self.keyed.then(|| message.encode_to_vec());
        let mut request = Request::new(message);
        if let Some(content) = key {
            let key = IdempotencyKey::of_content(KEY_VERSION, &content);
            request.metadata_mut().insert(KEY, key.to_str()?.parse()?);
        }
        self.client.clone().upsert(request).await?;
        Ok(())
    }
}
