use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_layer::Layer;
use tower_weir::server::{AdmissionBody, AdmissionLayer, Class, ClassTable};

pub(crate) type Answer = Response<AdmissionBody<Full<Bytes>>>;
pub(crate) type Server = BoxCloneSyncService<Request<String>, Answer, Infallible>;

pub(crate) const SERVICE: Duration = Duration::from_millis(100);

/// Counts how often its task is woken.
#[derive(Default)]
pub(crate) struct Wakes(pub(crate) AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A server whose every request takes 100 ms; its body says when that began.
pub(crate) fn server(layer: &AdmissionLayer) -> Server {
    let start = Instant::now();
    BoxCloneSyncService::new(
        layer.layer(service_fn(move |_: Request<String>| async move {
            let began = start.elapsed().as_millis().to_string();
            sleep(SERVICE).await;
            Ok(Response::new(Full::from(began)))
        })),
    )
}

pub(crate) fn post(path: &str) -> Request<String> {
    Request::post(path).body(String::new()).unwrap()
}

pub(crate) fn grpc() -> Request<String> {
    let mut request = post("/index.Index/Upsert");
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc+proto".parse().unwrap());
    request
}

pub(crate) async fn send(server: &Server, request: Request<String>) -> Answer {
    let Ok(answer) = server.clone().oneshot(request).await;
    answer
}

/// Sends a request that is on its way when this returns.
pub(crate) async fn begin(server: &Server, request: Request<String>) -> JoinHandle<Answer> {
    let server = server.clone();
    let task = tokio::spawn(async move { send(&server, request).await });
    yield_now().await;
    task
}

/// Sends a request and reads the answer; tells when the server began with it.
pub(crate) fn serve(server: &Server, request: Request<String>) -> JoinHandle<u64> {
    let answer = server.clone().call(request);
    tokio::spawn(async move {
        let Ok(answer) = answer.await;
        text(answer).await.parse().unwrap()
    })
}

pub(crate) async fn text(answer: Answer) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

pub(crate) fn classes() -> ClassTable {
    ClassTable::new()
        .on(Method::POST, "/query", Class::EXEMPT)
        .unwrap()
        .on(Method::POST, "/clear", Class::STRUCTURAL.freeing())
        .unwrap()
        .on(Method::POST, "/move", Class::STRUCTURAL)
        .unwrap()
}

/// How many operations are pending, and how many of them are delayed.
pub(crate) fn pending(layer: &AdmissionLayer) -> (usize, usize) {
    let keys = layer.snapshot();
    keys.first()
        .map_or((0, 0), |key| (key.pending(), key.delayed()))
}
