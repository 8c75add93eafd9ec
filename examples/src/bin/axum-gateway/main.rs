//! A gateway in front of a vector index: admission on its server's side, and
//! retries, a circuit breaker and a concurrency limit on its client's.
//!
//! The README of the examples says what to try.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, signal, time};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tower_weir::{
    BoxError, Weir,
    error::CircuitOpen,
    outcome::Idempotent,
    server::{AdmissionHandle, AdmissionLayer, Class, ClassTable},
};
use tower_weir_testkit::upstream::{RefuseMode, Upstream};

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The index to write to; one of eight slots is started where none is named.
    #[arg(long)]
    upstream: Option<Uri>,
    /// How many operations run at once.
    #[arg(long, default_value_t = 100)]
    throttle_at: usize,
    /// How many operations are pending at most.
    #[arg(long, default_value_t = 5000)]
    reject_at: usize,
    /// How many seconds an operation is delayed at most.
    #[arg(long, default_value_t = 30.0)]
    max_delay: f64,
}

/// What the handlers share.
#[derive(Clone)]
struct Gateway {
    index: BoxCloneSyncService<Request<Full<Bytes>>, Response, BoxError>,
    uri: Uri,
    admission: AdmissionHandle,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let options = Options::parse();
    let refusal = RefuseMode::Measured.refusal(8);
    let upstream = Upstream::builder()
        .slots(8)
        .refusal(refusal)
        .start()
        .await?;

    // The client's side.
    let index = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(Weir::http())
        .service(Client::builder(TokioExecutor::new()).build_http());

    // The server's side.
    let clear = Class::STRUCTURAL.freeing();
    let classes = ClassTable::new()
        .on(Method::POST, "/indexes/{index}/query", Class::EXEMPT)?
        .on(Method::POST, "/indexes/{index}/clear", clear)?;
    let admission = AdmissionLayer::new()
        .table(classes)
        .throttle_at(options.throttle_at)
        .reject_at(options.reject_at)
        .max_delay(Duration::try_from_secs_f64(options.max_delay)?);
    let handle = admission.handle();
    let gateway = Gateway {
        index: BoxCloneSyncService::new(index),
        uri: options.upstream.unwrap_or(upstream.url().parse()?),
        admission: handle.clone(),
    };

    // Trace sees all, rejections too. What is too large is told so before it
    // waits. The timeout is for the work alone: outside of the admission it would
    // cut off those who wait for their turn.
    let timeout = Duration::from_secs(20);
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(RequestBodyLimitLayer::new(8 << 20))
        .layer(admission)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            timeout,
        ));
    let router = Router::new()
        .route("/indexes/{index}/records", post(forward).delete(forward))
        .route("/indexes/{index}/query", post(forward))
        .route("/indexes/{index}/clear", post(work))
        .route("/work", post(work))
        // axum's own limit, of 2 MiB, would be found out after the wait.
        .layer(DefaultBodyLimit::disable())
        .layer(stack)
        .route("/admin/admission", get(admission_state))
        .route("/admin/storage/{percent}", put(report_storage))
        .with_state(gateway);

    let listener = TcpListener::bind(options.listen).await?;
    tracing::info!(addr = %listener.local_addr()?, "listening");
    let drained = async move {
        let _ = signal::ctrl_c().await;
        handle.drain().await;
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(drained)
        .await?;
    Ok(())
}

/// Hands a request on to the index. Records are stored by their ids, so that to
/// repeat one does no harm.
async fn forward(
    State(gateway): State<Gateway>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut to = gateway.uri.into_parts();
    to.path_and_query = uri.path_and_query().cloned();
    let to = match Uri::from_parts(to) {
        Ok(to) => to,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = to;
    request.extensions_mut().insert(Idempotent);
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    let answer = gateway.index.oneshot(request).await;
    answer.unwrap_or_else(|error| {
        let status = match error.is::<CircuitOpen>() {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::BAD_GATEWAY,
        };
        (status, error.to_string()).into_response()
    })
}

/// Takes its time, as expensive operations do.
async fn work() -> &'static str {
    time::sleep(Duration::from_millis(100)).await;
    "done"
}

async fn report_storage(State(gateway): State<Gateway>, Path(percent): Path<f64>) {
    gateway.admission.report_storage(percent / 100.0);
}

async fn admission_state(State(gateway): State<Gateway>) -> String {
    format!("{:#?}\n", gateway.admission.snapshot())
}
