//! What the tests of the servers share: real clients, and a look into errors.

use std::{error::Error, io};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::transport::{Channel, Endpoint};

use crate::proto::vector_index_client::VectorIndexClient;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Over {
    Http1,
    Http2,
}

pub(crate) type HyperClient = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn hyper_client(over: Over) -> HyperClient {
    Client::builder(TokioExecutor::new())
        .http2_only(over == Over::Http2)
        .build_http()
}

pub(crate) fn grpc_client(url: String) -> VectorIndexClient<Channel> {
    VectorIndexClient::new(Endpoint::from_shared(url).unwrap().connect_lazy())
}

pub(crate) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref())
}

pub(crate) fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    find::<io::Error>(error).map(io::Error::kind)
}

pub(crate) fn is(error: &(dyn Error + 'static), of: fn(&hyper::Error) -> bool) -> bool {
    find::<hyper::Error>(error).is_some_and(of)
}

pub(crate) fn is_lost_connection(error: &(dyn Error + 'static)) -> bool {
    matches!(
        io_kind(error),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    )
}
