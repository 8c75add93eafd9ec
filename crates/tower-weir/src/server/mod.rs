//! Admission for servers: delay first, then reject with the reason.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::Method;
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, service_fn};
//! use tower_weir::server::{AdmissionLayer, Class, ClassTable};
//!
//! let classes = ClassTable::new()
//!     .on(Method::POST, "/indexes/{index}/query", Class::EXEMPT)?
//!     .on(Method::POST, "/indexes/{index}/clear", Class::STRUCTURAL.freeing())?;
//! let admission = AdmissionLayer::new().table(classes).throttle_at(100);
//! let handle = admission.handle();
//!
//! // Or axum's `Router::layer`, or `tonic::transport::Server::layer`.
//! let service = ServiceBuilder::new()
//!     .layer(admission)
//!     .service(service_fn(|_: http::Request<Full<bytes::Bytes>>| async {
//!         Ok::<_, Infallible>(http::Response::new(Full::<bytes::Bytes>::from("stored")))
//!     }));
//! assert!(handle.snapshot().is_empty());
//! # drop(service);
//! # Ok::<(), tower_weir::server::InvalidPattern>(())
//! ```
//!
//! # Why
//!
//! A server that takes on all it is sent gets slower for everybody, until its
//! callers give up, and send again. This layer lets as many operations run as it
//! can do well. A burst above that is delayed: it is short, and nobody notices.
//! A queue that goes on growing is rejected early, with the reason in words and
//! as a code, and with the time after which it will have drained, so that a
//! client can do something about it.
//!
//! Not all requests are alike. A [`Class`] says what one counts for: queries are
//! exempt and never touched, cheap writes go ahead of expensive ones, and those
//! that make room go through when the storage is full.
//!
//! # What happens to a request
//!
//! | | pending operations of its key | |
//! |---|---|---|
//! | runs | up to [`throttle_at`](Limits::throttle_at), 100 | |
//! | is delayed | up to [`reject_at`](Limits::reject_at), 5,000 | in turn within its class, light classes first, at most [`max_delay`](Limits::max_delay) |
//! | is rejected | above | 429, or RESOURCE_EXHAUSTED |
//!
//! Among the delayed, the one that has waited the longest is passed over eight
//! times in a row at most, so that no class starves another. A class can have
//! lower limits of its own ([`ClassLimits`]): then it waits for itself, and others
//! pass it.
//!
//! An operation is pending from its head's arrival to the end of its response's
//! body, or until [`max_hold`](AdmissionLayer::max_hold) after that one's head: a
//! stream that goes on for longer is pending no more. While it is delayed, its
//! body is not read. Once its turn has come it is pending however slowly its body
//! arrives: a timeout inside of the layer bounds that.
//!
//! # What a rejection says
//!
//! Over HTTP: 429 with `Retry-After` in whole seconds, and a problem
//! (RFC 9457) as the body:
//!
//! ```text
//! {"type":"about:blank","title":"Too Many Requests","status":429,
//!  "detail":"5000 operations are pending, of at most 5000: too many for one more",
//!  "code":"too-many-jobs","class":"record"}
//! ```
//!
//! Over gRPC: RESOURCE_EXHAUSTED, Trailers-Only, with `grpc-retry-pushback-ms`,
//! `google.rpc.RetryInfo` and `google.rpc.ErrorInfo`. The [`Rejected`] is among
//! the response's extensions.
//!
//! Over HTTP/1 what is still to come of the request's body is read before the
//! answer, within bounds: proxies would make a 502 of one whose connection was
//! closed under them.
//!
//! `Retry-After` comes from how fast operations got done while some were delayed.
//! With a full storage there is none: 429 with `x-should-retry: false`, or a
//! pushback of -1, says that waiting is of no use.
//!
//! # What to watch
//!
//! [`AdmissionLayer::snapshot`], and the events `Delaying` (at most once a second
//! and key) and `Rejected` of [`observe`](crate::observe).
//!
//! Over HTTP/1 a caller that goes away is noticed once the server has read all of
//! its request. One with a large body that is delayed stays in the queue until
//! its turn or `max_delay`.

mod answer;
mod attended;
mod body;
mod class;
mod config;
mod drain;
mod future;
mod gate;
mod grpc;
mod handle;
mod layer;
mod linger;
mod pass;
mod places;
mod rejection;
mod service;
mod slots;
mod table;

#[cfg(all(test, weir_loom))]
pub(crate) use self::pass::{Goes, Pass, Terms};
pub use self::{
    body::AdmissionBody,
    class::Class,
    config::{AdmissionConfig, ClassLimits, Limits},
    future::{Delayed, ResponseFuture},
    gate::ServerGate,
    handle::{AdmissionHandle, ClassSnapshot, KeySnapshot, Rejections},
    layer::AdmissionLayer,
    rejection::{Reason, Rejected},
    service::Admission,
    table::{ClassTable, InvalidPattern},
};
