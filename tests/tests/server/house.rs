use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router, ServiceExt,
    body::Body,
    extract::{Request, State},
    response::IntoResponse,
    routing::post,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tests::wait::until;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tower::ServiceBuilder;
use tower_weir::server::{AdmissionLayer, Delayed};

/// The header of answers to what was delayed.
pub(crate) const LATE: &str = "x-late";

fn late(delayed: Option<Extension<Delayed>>) -> HeaderMap {
    let value = || {
        (
            HeaderName::from_static(LATE),
            HeaderValue::from_static("yes"),
        )
    };
    delayed.map(|_| value()).into_iter().collect()
}

/// What the handlers share: a door that the test opens.
#[derive(Clone)]
pub(crate) struct House {
    door: Arc<Semaphore>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self {
            door: Arc::new(Semaphore::new(0)),
        }
    }

    /// Stays until it is let out.
    pub(crate) async fn stay(&self) {
        if let Ok(permit) = self.door.acquire().await {
            permit.forget();
        }
    }

    pub(crate) fn let_out(&self, guests: usize) {
        self.door.add_permits(guests);
    }

    /// A handler for writes that stays, and one for queries that does not.
    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/a", post(Self::write).get(Self::query).delete(Self::query))
            .route("/b", post(Self::write))
            .with_state(self.clone())
    }

    pub(crate) async fn write(
        State(house): State<Self>,
        delayed: Option<Extension<Delayed>>,
    ) -> impl IntoResponse {
        house.stay().await;
        (late(delayed), "stored")
    }

    async fn query(delayed: Option<Extension<Delayed>>) -> impl IntoResponse {
        (late(delayed), "found")
    }
}

/// A router that is served until this is dropped.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    _task: JoinSet<()>,
}

impl Served {
    pub(crate) async fn new(router: Router) -> Self {
        Self::by(|listener| axum::serve(listener, router).into_future()).await
    }

    /// The same, with the layer around the router and not by `Router::layer`.
    pub(crate) async fn around(router: Router, layer: AdmissionLayer) -> Self {
        let service = ServiceBuilder::new()
            .map_response(|answer: Response<_>| answer.map(Body::new))
            .layer(layer)
            .service(router);
        let service = ServiceExt::<Request>::into_make_service(service);
        Self::by(|listener| axum::serve(listener, service).into_future()).await
    }

    async fn by<F>(serve: impl FnOnce(TcpListener) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        let served = serve(listener);
        task.spawn(async move { served.await.unwrap() });
        Self { addr, _task: task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// How many operations are pending, and how many of them are delayed.
pub(crate) fn pending(layer: &AdmissionLayer) -> (usize, usize) {
    let keys = layer.snapshot();
    keys.first()
        .map_or((0, 0), |key| (key.pending(), key.delayed()))
}

pub(crate) async fn until_pending(layer: &AdmissionLayer, expected: (usize, usize)) {
    let what = format!("{expected:?} operations pending and delayed");
    until(&what, || pending(layer) == expected).await;
}
