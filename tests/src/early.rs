//! A server that answers before it has the whole request.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Channel};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// What comes in the answer's body.
pub const ANSWER: &str = "busy";

/// How a server answers with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Once it has read the request.
    Late,
    /// At once, with a body that comes later.
    Early,
    /// At once, with no body.
    EarlyHead,
}

/// A server on the loopback for HTTP/1 and HTTP/2. Dropping it stops it.
#[derive(Debug)]
pub struct Early {
    /// Where it is.
    pub url: String,
    finish: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Early {
    /// Starts a server.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port of the loopback");
        let addr = listener.local_addr().expect("the port's address");
        let finish = Arc::new(Notify::new());
        let told = finish.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let told = told.clone();
                let service = service_fn(move |request| answer(answers, request, told.clone()));
                served.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no concern of the server's.
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            url: format!("http://{addr}/"),
            finish,
            _tasks: tasks,
        }
    }

    /// Lets it end an answer.
    pub fn finish(&self) {
        self.finish.notify_one();
    }
}

async fn answer(
    answers: Answers,
    request: Request<Incoming>,
    told: Arc<Notify>,
) -> Result<Response<Channel<Bytes>>, Infallible> {
    let mut body = request.into_body();
    if answers == Answers::Late {
        while let Some(Ok(_)) = body.frame().await {}
    }
    let (mut sender, content) = Channel::new(1);
    let mut response = Response::new(content);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    if answers == Answers::EarlyHead {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, 0.into());
        return Ok(response);
    }
    tokio::spawn(async move {
        told.notified().await;
        // The client may have given it up.
        let _ = sender
            .send_data(Bytes::from_static(ANSWER.as_bytes()))
            .await;
        drop(body);
    });
    Ok(response)
}
