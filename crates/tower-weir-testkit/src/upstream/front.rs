//! A connection, and what becomes of its requests.

use std::{convert::Infallible, future, sync::Arc};

use http::{Method, Request, Response, header::CONTENT_TYPE};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use tonic::body::Body;

use super::{cut::MaybeCut, engine::Engine, grpc, http as plain, phase::TroubleKind};

/// Serves a connection to its end, or until a request's trouble closes it.
pub(super) async fn connection<I>(io: I, engine: Arc<Engine>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    engine.connected();
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (engine, cut) = (Arc::clone(&engine), Arc::clone(&cut));
        async move { Ok::<_, Infallible>(answer(engine, cut, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // the slots are the limit, so that more than them can be refused
    builder.http2().max_concurrent_streams(None);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::select! {
        // first the connection, so that it flushes what was written before the cut
        biased;
        // how it ends is the client's to judge
        _ = connection => {}
        () = cut.notified() => {}
    }
}

async fn answer(
    engine: Arc<Engine>,
    cut: Arc<Notify>,
    request: Request<Incoming>,
) -> Response<MaybeCut> {
    if request.method() == Method::GET
        && let Some(response) = side_door(&engine, request.uri().path())
    {
        return response.map(MaybeCut::whole);
    }
    let order = engine.arrive();
    let response = match (&order.trouble, is_grpc(&request)) {
        (Some(TroubleKind::Hang), _) => future::pending().await,
        (Some(TroubleKind::Answer(answer)), true) => grpc::status(answer).into_http(),
        (Some(TroubleKind::Answer(answer)), false) => plain::answer(answer, request).await,
        (_, true) => grpc::call(engine, &order, request).await,
        (_, false) => plain::upsert(&engine, &order, request).await,
    };
    match order.trouble {
        Some(TroubleKind::CloseBeforeResponse) if order.is_processed() => {
            cut.notify_one();
            future::pending().await
        }
        Some(TroubleKind::CloseMidResponse) if order.is_processed() => {
            response.map(|body| MaybeCut::half(body, cut))
        }
        _ => response.map(MaybeCut::whole),
    }
}

/// What is there for people and scripts, and is no attempt.
fn side_door(engine: &Engine, path: &str) -> Option<Response<Body>> {
    match path {
        "/healthz" => Some(plain::json(&"ok")),
        "/stats" => Some(plain::json(&engine.stats())),
        _ => None,
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
