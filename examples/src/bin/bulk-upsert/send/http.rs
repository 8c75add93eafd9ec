use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{Collected, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{BoxError, Weir, retry::IdempotencyKey, shutdown::Shutdown};

use super::{Gauge, KEY, KEY_VERSION, Tally, Upsert, whole::Whole};
use crate::{
    letters::Letters,
    options::Options,
    source::{Batch, Record},
    tuning::Tuning,
};

/// How much of an answer is shown that was no success.
const SHOWN: usize = 200;

/// The stack over hyper-util's client.
pub(crate) fn http(
    url: &Uri,
    options: &Options,
    tuning: &Tuning,
    letters: &Letters,
) -> Result<(impl Upsert + use<>, Gauge), BoxError> {
    let shutdown = Shutdown::new();
    let weir = tuning
        .apply(Weir::http())?
        .seed(options.seed)
        .shutdown(&shutdown);
    let tally = Tally::default();
    let mut connector = HttpConnector::new();
    // the last piece of a batch is not to wait for the acknowledgement of the rest
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(letters.layer.clone())
        .layer_fn(Whole)
        .layer(weir.clone())
        .map_request(tally.clone().attempt())
        .map_response(tally.clone().answer(rejects))
        .service(client);
    let gauge = Gauge {
        handle: weir.handle(),
        shutdown,
        tally,
    };
    let http = Http {
        url: url.clone(),
        service,
        keyed: letters.are_wanted(),
    };
    Ok((http, gauge))
}

fn rejects<B>(response: &Response<B>) -> bool {
    matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

#[derive(Clone)]
struct Http<S> {
    url: Uri,
    service: S,
    /// Whether a letter may be sent again one day, and so needs its key.
    keyed: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    records: &'a [Record],
}

impl<S> Upsert for Http<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Collected<Bytes>>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    async fn upsert(&self, batch: &Batch) -> Result<(), BoxError> {
        let records = &batch.records;
        let document = serde_json::to_vec(&Document { records })?;
        let mut request = Request::post(&self.url).header(header::CONTENT_TYPE, "application/json");
        if self.keyed {
            request = request.header(KEY, IdempotencyKey::of_content(KEY_VERSION, &document));
        }
        let request = request.body(Full::from(document))?;
        let response = self.service.clone().oneshot(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let said = response.into_body().to_bytes();
        let shown = &said[..said.len().min(SHOWN)];
        Err(format!("{status}: {}", String::from_utf8_lossy(shown)).into())
    }
}
