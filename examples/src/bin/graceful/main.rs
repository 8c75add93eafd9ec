//! A server that takes records and a bulk writer that delivers them, ended
//! together: `graceful --upstream http://host:port [--left FILE]`.
//!
//! On SIGTERM or SIGINT (Ctrl-C) every request that the server has accepted is
//! answered, what is on its way to the upstream gets its grace, and what was not
//! sent is written to a file: nothing is lost, nothing is sent after the end.

mod writer;

use std::{
    future::IntoFuture,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    routing::post,
};
use clap::Parser;
use http::StatusCode;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tower::ServiceBuilder;
use tower_weir::{BoxError, Weir, server::AdmissionLayer, shutdown::Shutdown};

/// How many records wait between the server and the writer.
const BACKLOG: usize = 64;

/// How long the last answers may take at least to leave.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(name = "graceful", version)]
struct Options {
    /// Where to deliver to
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many seconds what is in flight may take to finish
    #[arg(long, default_value_t = 20.0)]
    grace: f64,
    /// Where the ids of records go that were not delivered, one a line
    #[arg(long, value_name = "FILE")]
    left: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let grace = Duration::try_from_secs_f64(options.grace)?;
    let shutdown = Shutdown::new();

    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ServiceBuilder::new()
        .layer(Weir::http().bulk().shutdown(&shutdown))
        .service(client);
    let (records, queue) = mpsc::channel(BACKLOG);
    let (stop, stopped) = oneshot::channel();
    let writer = tokio::spawn(writer::write(client, options.upstream, queue, stopped));

    let router = Router::new()
        .route("/records/{id}", post(accept))
        .layer(AdmissionLayer::new().shutdown(&shutdown))
        .with_state(records);
    let listener = TcpListener::bind(options.listen).await?;
    let signal = signal()?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    let begun = shutdown.clone();
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async move { begun.begun().await })
        .into_future();
    let server = tokio::spawn(server);

    signal.await;
    let end = Instant::now() + grace;
    let drained = shutdown.drain(grace).await;
    // by now every request has its answer, also those that were cut, whose answers
    // leave when nothing is left of the grace; a client that does not read its
    // answer, or keeps its connection, is not waited for any longer
    let end = end.max(Instant::now() + FLUSH);
    if let Ok(served) = timeout_at(end, server).await {
        served??;
    }
    // the writer takes what is in the queue, is refused, and writes it down
    drop(stop);
    let account = writer.await?;
    if let Some(path) = options.left {
        account.save(&path)?;
    }
    writeln!(io::stdout(), "{drained}\n{account}")?;
    Ok(())
}

/// Takes a record. While the queue is full, the caller waits.
async fn accept(State(records): State<mpsc::Sender<String>>, Path(id): Path<String>) -> StatusCode {
    match records.send(id).await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Ready when the process is asked to end. It listens from the call on, not only
/// from the first poll.
#[cfg(unix)]
fn signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
