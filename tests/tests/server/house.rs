use std::{net::SocketAddr, sync::Arc};

use axum::{Extension, Router, extract::State, response::IntoResponse, routing::post};
use http::{HeaderMap, HeaderName, HeaderValue};
use tests::wait::until;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
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
