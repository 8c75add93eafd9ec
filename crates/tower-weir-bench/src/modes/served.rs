//! The servers whose admission is measured.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router, ServiceExt,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    routing::post,
};
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::Value;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, util::MapRequestLayer};
use tower_weir::server::{AdmissionLayer, Class, ClassTable};

use super::least::least;

pub(super) const CONNECTIONS: usize = 256;

/// What is around the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// axum alone.
    Bare,
    /// With a layer that does nothing. axum boxes what any layer makes: what that
    /// costs is not the layer's.
    Nothing,
    /// With the least that counts pending operations and times them, by
    /// `Router::layer`.
    Least,
    /// With tower's own limit, which counts requests until their heads, by
    /// `Router::layer`.
    Limit,
    /// With admission, by `Router::layer`.
    Admission,
    /// With admission, by `Router::layer`, where all requests are exempt.
    Exempt,
    /// axum alone, whose connections share one router: `axum::serve` makes each its own
    /// of a router that it is given as such, with its routes and their layers.
    BareShared,
    /// With admission, by `Router::layer`, of such a router.
    AdmissionShared,
    /// With admission around such a router.
    Around,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Handler {
    /// The body is read and not looked at.
    #[default]
    Nothing,
    /// A batch of ten records is parsed, and each put in its place.
    Store,
}

impl Handler {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Store => "store",
        }
    }

    /// A request's body, as JSON.
    pub(super) fn body(self) -> String {
        match self {
            Self::Nothing => "{}".to_owned(),
            Self::Store => Value::from_iter((0..10).map(record)).to_string(),
        }
    }

    fn routes(self) -> Router {
        match self {
            Self::Nothing => Router::new().route("/", post(async |_: Bytes| "stored")),
            Self::Store => Router::new()
                .route("/", post(store))
                .with_state(Index::default()),
        }
    }
}

fn record(id: usize) -> Value {
    serde_json::json!({
        "id": format!("record-{id}"),
        "title": "A title of some words, as a shop has for what it sells",
        "price": 9.5 + id as f64,
        "stock": 100 * id,
        "tags": ["new", "reduced", "for two"],
    })
}

type Index = Arc<Mutex<HashMap<String, Value>>>;

async fn store(State(index): State<Index>, batch: Bytes) -> Result<&'static str, StatusCode> {
    let batch: Vec<Value> = serde_json::from_slice(&batch).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    for record in batch {
        let id = record["id"].as_str().ok_or(StatusCode::BAD_REQUEST)?;
        index.insert(id.to_owned(), record);
    }
    Ok("stored")
}

impl Variant {
    pub(super) const ALL: [Self; 9] = [
        Self::Bare,
        Self::Nothing,
        Self::Least,
        Self::Limit,
        Self::Admission,
        Self::Exempt,
        Self::BareShared,
        Self::AdmissionShared,
        Self::Around,
    ];

    /// What it is compared with: axum alone, served in the same way.
    pub(super) const fn bare(self) -> Self {
        match self {
            Self::BareShared | Self::AdmissionShared | Self::Around => Self::BareShared,
            _ => Self::Bare,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Nothing => "a layer that does nothing",
            Self::Least => "the least admission",
            Self::Limit => "tower GlobalConcurrencyLimit",
            Self::Admission => "weir: admission",
            Self::Exempt => "weir: admission, exempt",
            Self::BareShared => "bare, one router",
            Self::AdmissionShared => "weir: admission, one router",
            Self::Around => "weir: admission around one router",
        }
    }

    /// Serves until the program ends.
    pub(super) async fn serve(self, handler: Handler, listener: TcpListener) -> io::Result<()> {
        let routes = || handler.routes();
        let layer = AdmissionLayer::new().throttle_at(2 * CONNECTIONS);
        match self {
            Self::Bare => axum::serve(listener, routes()).await,
            Self::Nothing => {
                let empty = MapRequestLayer::new(|request: Request| request);
                axum::serve(listener, routes().layer(empty)).await
            }
            Self::Least => axum::serve(listener, routes().layer(least())).await,
            Self::Limit => {
                let limit = GlobalConcurrencyLimitLayer::new(2 * CONNECTIONS);
                axum::serve(listener, routes().layer(limit)).await
            }
            Self::Admission => axum::serve(listener, routes().layer(layer)).await,
            Self::Exempt => {
                let layer = layer.table(ClassTable::new().otherwise(Class::EXEMPT));
                axum::serve(listener, routes().layer(layer)).await
            }
            Self::BareShared => axum::serve(listener, routes().into_make_service()).await,
            Self::AdmissionShared => {
                let routes = routes().layer(layer);
                axum::serve(listener, routes.into_make_service()).await
            }
            Self::Around => {
                let body = |response: http::Response<_>| response.map(Body::new);
                let service = ServiceBuilder::new()
                    .map_response(body)
                    .layer(layer)
                    .service(routes().with_state(()));
                let service = ServiceExt::<Request>::into_make_service(service);
                axum::serve(listener, service).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ten_records_are_stored_and_what_is_none_is_refused() {
        let index = Index::default();
        let stored = store(State(index.clone()), Handler::Store.body().into()).await;
        assert_eq!(stored, Ok("stored"));
        assert_eq!(index.lock().unwrap().len(), 10);
        let refused = store(State(index), Handler::Nothing.body().into()).await;
        assert_eq!(refused, Err(StatusCode::BAD_REQUEST));
    }
}
