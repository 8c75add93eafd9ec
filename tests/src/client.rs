//! The clients under the layers.

use bytes::Bytes;
use http_body::Body;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::transport::{Channel, Endpoint};

use crate::BoxError;

/// Which version of HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge.
    Http2,
}

/// hyper-util's client, with a pool of its own.
pub fn hyper<B>(over: Over) -> Client<HttpConnector, B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    Client::builder(TokioExecutor::new())
        .http2_only(over == Over::Http2)
        .build_http()
}

/// tonic's channel; it connects with the first call.
///
/// # Panics
/// If `url` is none.
pub fn channel(url: &str) -> Channel {
    endpoint(url).connect_lazy()
}

/// What a channel is made from, for those with settings of their own.
///
/// # Panics
/// If `url` is none.
pub fn endpoint(url: &str) -> Endpoint {
    Endpoint::from_shared(url.to_owned()).expect("a URL")
}
