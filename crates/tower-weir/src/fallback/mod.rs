//! Another answer for what has failed.
//!
//! ```
//! # #[cfg(all(feature = "weir", feature = "fallback"))]
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use bytes::Bytes;
//! use http::Response;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir::{Weir, fallback::{FallbackLayer, FellBack}};
//!
//! let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! let mut client = ServiceBuilder::new()
//!     .layer(FallbackLayer::http().answer(|_| Response::new(Full::new(Bytes::from_static(b"[]")))))
//!     .layer(Weir::http())
//!     .service(client);
//!
//! let request = http::Request::get("http://index.internal/query").body(Full::<Bytes>::default())?;
//! let response = client.ready().await?.call(request).await?;
//! if let Some(fell_back) = response.extensions().get::<FellBack>() {
//!     println!("not the upstream's answer: {}", fell_back.cause);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The other answer comes from a [closure](FallbackLayer::answer), from an
//! [asynchronous one](FallbackLayer::answer_async), or from
//! [another service](FallbackLayer::service), which gets the request with its
//! body: a cheaper model, say, or a cache.
//!
//! ```
//! # #[cfg(all(feature = "weir", feature = "fallback"))]
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # use tower::{Layer, Service, ServiceBuilder, ServiceExt};
//! # use tower_weir::{Weir, fallback::{FallbackCause, FallbackLayer}};
//! # let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
//! let cheaper = tower::util::MapRequest::new(
//!     Weir::http().layer(client.clone()),
//!     |mut request: http::Request<_>| {
//!         *request.uri_mut() = http::Uri::from_static("http://small.internal/complete");
//!         request
//!     },
//! );
//! let mut client = ServiceBuilder::new()
//!     .layer(FallbackLayer::http().on([FallbackCause::Failed]).service(cheaper))
//!     .layer(Weir::http())
//!     .service(client);
//! # let request = http::Request::post("http://large.internal/complete").body(Full::<Bytes>::default())?;
//! let response = client.ready().await?.call(request).await?;
//! # drop(response);
//! # Ok(())
//! # }
//! ```
//!
//! # When
//!
//! By [cause](FallbackLayer::on), all but [`Failed`](FallbackCause::Failed) by
//! default, or by a [closure](FallbackLayer::when) of your own. Why the retries ended,
//! and whether one of the attempts may have been processed, is known from their
//! [`Recorder`](crate::retry::Recorder), of which a request carries one.
//!
//! # What the caller gets
//!
//! The other answer, with a [`FellBack`] extension; whatever its status, for it
//! is an answer. If there is none, because the closure or the service failed or
//! because the request's body could not be had again, the caller gets the
//! upstream's own result unchanged, be it a response or an error: that is what
//! failed first, and what has to be mended. What became of the fallback is told
//! by an [event](crate::observe::Event::FallbackFailed), at WARN.
//!
//! There is one exception: an answer that came while the request was still being
//! sent. The other service has the request's body then, and the rest of that answer
//! may not come, so the caller gets the other service's error.
//!
//! The response's body is `Either` the upstream's or the other one.
//!
//! # Time
//!
//! The deadline of the request holds for the other service too, unless it is what
//! the request failed by: then the other service has its own. A gRPC request's
//! `grpc-timeout` is written anew, as what is left of it.

mod answer;
mod cause;
mod future;
mod layer;
mod service;
mod way;

pub use self::{
    answer::{Answer, Asking, Does, Doing, Other, Says, Unset},
    cause::{FallbackCause, Fallen, FellBack},
    future::ResponseFuture,
    layer::FallbackLayer,
    service::Fallback,
    way::{HttpAsks, HttpSays, PlainAsks, PlainSays, Way},
};
