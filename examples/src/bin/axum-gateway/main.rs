//! A gateway in front of a vector index: admission on its server's side, and
//! retries, a circuit breaker and a concurrency limit on its client's.
//!
//! `axum-gateway [--listen 127.0.0.1:8080] [--upstream http://host:port]`. Without
//! an upstream it starts one that takes eight requests at a time. See the README
//! of the examples for what to try.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::{net::TcpListener, signal, time};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tower_weir::{
    BoxError, Weir,
    error::CircuitOpen,
    outcome::Idempotent,
    server::{AdmissionHandle, AdmissionLayer, Class, ClassTable},
};
use tower_weir_testkit::upstream::{RefuseMode, ServiceTime, Upstream};

type Index = BoxCloneSyncService<Request<Full<Bytes>>, Response, BoxError>;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The index to write to; one is started where none is named.
    #[arg(long)]
    upstream: Option<String>,
    /// How many operations run at once.
    #[arg(long, default_value_t = 100)]
    throttle_at: usize,
    /// How many operations are pending at most.
    #[arg(long, default_value_t = 5000)]
    reject_at: usize,
    /// How many seconds an operation is delayed at most.
    #[arg(long, default_value_t = 30.0)]
    max_delay: f64,
    /// Find by itself how many operations can run at once.
    #[arg(long)]
    adaptive: bool,
    /// Let everything through, for comparison.
    #[arg(long)]
    no_admission: bool,
}

#[derive(Clone)]
struct Gateway {
    index: Index,
    url: String,
    admission: AdmissionHandle,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let options = Options::parse();
    let upstream = Upstream::builder()
        .slots(8)
        .service_time(ServiceTime::constant(Duration::from_millis(50)))
        .refusal(RefuseMode::Queue.refusal(8))
        .start()
        .await?;
    let url = options.upstream.unwrap_or_else(|| upstream.url());

    let client = Client::builder(TokioExecutor::new()).build_http();
    let index = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(Weir::http())
        .service(client);

    let classes = ClassTable::new()
        .on(Method::POST, "/indexes/{index}/query", Class::EXEMPT)?
        .on(
            Method::POST,
            "/indexes/{index}/clear",
            Class::STRUCTURAL.freeing(),
        )?;
    let mut admission = AdmissionLayer::new()
        .table(classes)
        .throttle_at(options.throttle_at)
        .reject_at(options.reject_at)
        .max_delay(Duration::try_from_secs_f64(options.max_delay)?)
        .enabled(!options.no_admission);
    if options.adaptive {
        admission = admission.adaptive();
    }
    let handle = admission.handle();

    // Trace sees all, rejections too. What is too large is told so before it
    // waits. The timeout is for the work alone: outside of the admission it would
    // cut off those who wait for their turn.
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(RequestBodyLimitLayer::new(8 << 20))
        .layer(admission)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(20),
        ));
    let gateway = Gateway {
        index: BoxCloneSyncService::new(index),
        url,
        admission: handle.clone(),
    };
    let router = Router::new()
        .route("/indexes/{index}/records", post(forward).delete(forward))
        .route("/indexes/{index}/query", post(forward))
        .route("/indexes/{index}/clear", post(work))
        .route("/work", post(work))
        .route("/nothing", post(async || "done"))
        .layer(stack)
        .route("/admin/admission", get(admission_state))
        .route("/admin/storage/{percent}", put(report_storage))
        .with_state(gateway);

    let listener = TcpListener::bind(options.listen).await?;
    tracing::info!(addr = %listener.local_addr()?, "listening");
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            let _ = signal::ctrl_c().await;
            handle.drain().await;
        })
        .await?;
    Ok(())
}

/// Hands a request on to the index. Records are stored by their ids, so that to
/// repeat one does no harm.
async fn forward(
    State(gateway): State<Gateway>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut request = Request::builder()
        .method(method)
        .uri(&gateway.url)
        .extension(Idempotent);
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let answer = match request.body(Full::from(body)) {
        Ok(request) => gateway.index.oneshot(request).await,
        Err(error) => Err(error.into()),
    };
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

async fn admission_state(State(gateway): State<Gateway>) -> Json<Value> {
    let keys = gateway.admission.snapshot().into_iter().map(|key| {
        let classes = key.classes.iter().map(|class| {
            json!({
                "class": class.class,
                "pending": class.pending,
                "delayed": class.delayed,
                "rejected": class.rejected.total(),
                "oldest_ms": class.oldest.map(|age| age.as_millis()),
            })
        });
        json!({"limit": key.limit, "classes": classes.collect::<Vec<_>>()})
    });
    Json(keys.collect())
}
