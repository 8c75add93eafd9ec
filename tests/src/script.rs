//! A server that answers each request as a closure says.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::BoxError;

/// A body whose type does not tell where it comes from.
pub type Boxed = UnsyncBoxBody<Bytes, BoxError>;

/// A server on the loopback for HTTP/1 and HTTP/2. Dropping it stops it and
/// cuts its connections.
#[derive(Debug)]
pub struct Script {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Script {
    /// Starts a server that reads each request whole and answers what `answer`
    /// makes of it and of its number, the first being 1.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start<F>(answer: F) -> Self
    where
        F: Fn(u64, Request<Bytes>) -> Response<Boxed> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port of the loopback");
        let addr = listener.local_addr().expect("the port's address");
        let (requests, connections) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (count, accepted) = (requests.clone(), connections.clone());
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (count, answer) = (count.clone(), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (count, answer) = (count.clone(), answer.clone());
                    async move {
                        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(answer(number, Request::from_parts(head, body)))
                    }
                });
                served.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // what becomes of a connection is the client's to tell
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            addr,
            requests,
            connections,
            _tasks: tasks,
        }
    }

    /// The address as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests whose headers have arrived.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Puts a body into its box.
pub fn boxed<B>(body: B) -> Boxed
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A response with a status, headers and a body.
pub fn says(
    status: StatusCode,
    headers: &[(&'static str, &'static str)],
    body: impl Into<Bytes>,
) -> Response<Boxed> {
    let body = body.into();
    let mut response = Response::new(if body.is_empty() {
        boxed(Empty::new())
    } else {
        boxed(Full::new(body))
    });
    *response.status_mut() = status;
    response.headers_mut().extend(map(headers));
    response
}

/// A gRPC response that is over with its headers: Trailers-Only.
pub fn trailers_only(code: u16, headers: &[(&'static str, &'static str)]) -> Response<Boxed> {
    let mut response = says(
        StatusCode::OK,
        &[("content-type", "application/grpc")],
        Bytes::new(),
    );
    let head = response.headers_mut();
    head.insert("grpc-status", HeaderValue::from(code));
    head.extend(map(headers));
    response
}

/// A gRPC response with headers first, then messages, then the status.
pub fn committed(messages: &[&'static [u8]], code: u16) -> Response<Boxed> {
    let data = messages.iter().map(|message| {
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(*message);
        Frame::data(framed.into())
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    let frames: Vec<_> = data.chain([Frame::trailers(trailers)]).collect();
    let mut response = says(
        StatusCode::OK,
        &[("content-type", "application/grpc")],
        Bytes::new(),
    );
    *response.body_mut() = boxed(stream(frames));
    response
}

/// A body that comes frame by frame, of a length that is not announced.
pub fn stream(frames: Vec<Frame<Bytes>>) -> impl http_body::Body<Data = Bytes, Error = Infallible> {
    StreamBody::new(tokio_stream::iter(frames.into_iter().map(Ok)))
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        let value = HeaderValue::from_static(value);
        (HeaderName::from_static(name), value)
    };
    headers.iter().map(pair).collect()
}
