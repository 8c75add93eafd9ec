use std::{future::ready, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::client::conn::{http1, http2};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo},
};
use tests::{
    BoxError,
    circuit::opens_after,
    client::{
        Over::{self, Http1, Http2},
        endpoint, hyper,
    },
    script::{Boxed, Script, boxed, says},
};
use tokio::{
    io::{copy, duplex},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
};
use tower_weir_testkit::fault::{Fault, Server};

use super::{
    contract::Row,
    scenario::{Connect, Scenario, answer, target, to_tonic, with_hyper, with_tonic},
};

/// Long enough for nothing to come by chance, since nothing comes at all.
const SOON: Duration = Duration::from_millis(40);

/// All ways in which an error of the table is provoked.
///
/// # Panics
/// On a row that is not known here.
pub(crate) async fn of(row: &Row) -> Vec<Scenario> {
    match row.what {
        "connect (hyper_util legacy is_connect / tonic ConnectError)" => {
            let mut all = everywhere(Fault::Refused).await;
            all.push(no_such_name());
            all
        }
        "hyper is_canceled (never dispatched)" => never_dispatched(),
        "h2 RST_STREAM REFUSED_STREAM from remote" => {
            over_http2(Fault::ResetStream(Reason::REFUSED_STREAM)).await
        }
        "h2 GOAWAY from remote, on this stream (id > last_stream_id)" => {
            let mut all = Vec::new();
            for reason in [
                Reason::NO_ERROR,
                Reason::INTERNAL_ERROR,
                Reason::ENHANCE_YOUR_CALM,
            ] {
                all.extend(over_http2(Fault::GoAway(reason)).await);
            }
            all
        }
        "hyper is_incomplete_message" => vec![
            faulty(Fault::CloseBeforeResponse, Http1).await,
            // the same, said with a reset, and of a connection of HTTP/2
            faulty(Fault::ResetBeforeResponse, Http1).await,
            faulty(Fault::CloseBeforeResponse, Http2).await,
            faulty(Fault::ResetBeforeResponse, Http2).await,
        ],
        "h2 RST_STREAM CANCEL/INTERNAL/other" => {
            let mut all = Vec::new();
            for reason in [
                Reason::CANCEL,
                Reason::INTERNAL_ERROR,
                Reason::PROTOCOL_ERROR,
                Reason::FLOW_CONTROL_ERROR,
                Reason::STREAM_CLOSED,
            ] {
                all.push(faulty(Fault::ResetStream(reason), Http2).await);
            }
            all
        }
        "h2 RST_STREAM ENHANCE_YOUR_CALM" => {
            vec![faulty(Fault::ResetStream(Reason::ENHANCE_YOUR_CALM), Http2).await]
        }
        "per-attempt timeout" => attempt_timeouts(row).await,
        "total deadline elapsed" => {
            let mut all = everywhere(Fault::Hang).await;
            for scenario in &mut all {
                scenario.deadline = Some(SOON);
            }
            all
        }
        "hyper is_user / error of the request's own body" => own_errors().await,
        "hyper is_parse (the peer sent no HTTP)" => {
            vec![faulty(Fault::GarbageHead, Http1).await]
        }
        "CircuitOpen / limiter shed (local)" => vec![
            circuit_open().await,
            queue_full().await,
            queue_timeout().await,
            load_shed(),
        ],
        "TLS certificate / unsupported scheme" => hopeless(),
        "HTTP/2 connection lost under a gRPC request (io ConnectionReset / BrokenPipe, keep-alive timeout)" =>
        {
            vec![
                called(Fault::CloseBeforeResponse).await,
                called(Fault::ResetBeforeResponse).await,
                faulty(Fault::CloseBeforeResponse, Http2).await.grpc(),
                mute().await,
            ]
        }
        _ => panic!("{row}: unknown"),
    }
}

/// A fault under hyper's client.
async fn faulty(fault: Fault, over: Over) -> Scenario {
    let peer = Server::start(fault).await.unwrap();
    let name = format!("{fault:?} {over:?}");
    Scenario::new(name, peer.url(), peer, with_hyper(over))
}

/// A fault under tonic's channel.
async fn called(fault: Fault) -> Scenario {
    let peer = Server::start(fault).await.unwrap();
    let connect = with_tonic(endpoint(&peer.url()));
    Scenario::new(format!("{fault:?} tonic"), peer.url(), peer, connect).grpc()
}

async fn over_http2(fault: Fault) -> Vec<Scenario> {
    vec![faulty(fault, Http2).await, called(fault).await]
}

async fn everywhere(fault: Fault) -> Vec<Scenario> {
    let mut all = over_http2(fault).await;
    all.push(faulty(fault, Http1).await);
    all
}

/// A name that is not known. The machine's own resolver would be asked for long,
/// where its server is away, and some know every name.
fn no_such_name() -> Scenario {
    let url = "http://upstream.invalid".to_owned();
    let unknown = service_fn(|_: Name| {
        let error = io::Error::other("no such name");
        ready(Err::<std::iter::Empty<SocketAddr>, _>(error))
    });
    let connector = HttpConnector::new_with_resolver(unknown);
    let connect: Connect = Box::new(move || {
        let builder = Client::builder(TokioExecutor::new());
        target(builder.build(connector.clone()))
    });
    Scenario::new("no such name", url, (), connect)
}

/// Connections that end between being made and being used. A peer that resets
/// them would do, were it always noticed before the request is written.
fn never_dispatched() -> Vec<Scenario> {
    let url = || "http://upstream.test".to_owned();
    let http1: Connect = Box::new(|| {
        target(service_fn(async |request: Request<Boxed>| {
            let (stream, _peer) = duplex(1024);
            let stream = TokioIo::new(stream);
            let (mut sender, connection) = http1::handshake(stream).await?;
            drop(connection);
            sender.send_request(request).await
        }))
    });
    let http2: Connect = Box::new(|| {
        target(service_fn(async |request: Request<Boxed>| {
            let (stream, _peer) = duplex(1024);
            let (executor, stream) = (TokioExecutor::new(), TokioIo::new(stream));
            let (mut sender, connection) = http2::handshake(executor, stream).await?;
            drop(connection);
            sender.send_request(request).await
        }))
    });
    vec![
        Scenario::new("Http1", url(), (), http1),
        Scenario::new("Http2", url(), (), http2),
    ]
}

async fn attempt_timeouts(row: &Row) -> Vec<Scenario> {
    let mut ours = vec![
        faulty(Fault::Hang, Http1).await,
        faulty(Fault::Hang, Http2).await,
    ];
    for scenario in &mut ours {
        scenario.attempt_timeout = Some(SOON);
    }
    let peer = Server::start(Fault::Hang).await.unwrap();
    let connect: Connect = Box::new(|| {
        let client = ServiceBuilder::new().timeout(SOON).service(hyper(Http1));
        target(client)
    });
    ours.push(Scenario::new("tower", peer.url(), peer, connect));
    if row.methods().contains(&Method::POST) {
        let peer = Server::start(Fault::Hang).await.unwrap();
        let connect = with_tonic(endpoint(&peer.url()).timeout(SOON));
        ours.push(Scenario::new("tonic", peer.url(), peer, connect).grpc());
    }
    ours
}

async fn own_errors() -> Vec<Scenario> {
    let reader = || Script::start(|_, _| says(StatusCode::OK, &[], "read"));
    let mut all = Vec::new();
    for over in [Http1, Http2] {
        let peer = reader().await;
        let name = format!("body {over:?}");
        all.push(Scenario::new(name, peer.url(), peer, with_hyper(over)));
    }
    let peer = reader().await;
    let connect = with_tonic(endpoint(&peer.url()));
    all.push(Scenario::new("body tonic", peer.url(), peer, connect).grpc());
    for scenario in &mut all {
        scenario.body = breaks_off;
        // without it, a GET over HTTP/1 is sent as one that has no body
        scenario.headers.push(("content-length", "10"));
    }
    let relative = "/no/authority".to_owned();
    all.push(Scenario::new("relative", relative, (), with_hyper(Http1)));
    all
}

/// A body that fails after its first frame.
fn breaks_off() -> Boxed {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"01234"))),
        Err(io::Error::other("the file is gone")),
    ];
    boxed(StreamBody::new(tokio_stream::iter(frames)))
}

async fn circuit_open() -> Scenario {
    let failing = answer("500", &[]).await;
    let layer = CircuitBreakerLayer::http().config(opens_after(1));
    let (inner, uri) = ((failing.connect)(), failing.uri.clone());
    let first = ServiceBuilder::new().layer(layer.clone()).service(inner);
    let opened = first.oneshot(failing.request(&Method::GET)).await.unwrap();
    assert_eq!(opened.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(layer.snapshot()[0].1.state, State::Open);
    let connect: Connect = Box::new(move || {
        target(
            ServiceBuilder::new()
                .layer(layer.clone())
                .service(hyper(Http1)),
        )
    });
    Scenario::new("circuit open", uri, failing, connect)
}

/// A layer with one slot, which a call that hangs has taken.
async fn taken(layer: AimdConcurrencyLayer) -> (Server, JoinSet<()>, Connect) {
    let layer = layer.fixed(1);
    let peer = Server::start(Fault::Hang).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .service(hyper(Http1));
    let request = Request::get(peer.url()).body(Full::<Bytes>::default());
    let mut hung = JoinSet::new();
    hung.spawn(async move {
        let answer = service.oneshot(request.unwrap()).await;
        panic!("{answer:?}");
    });
    peer.requests_reach(1).await;
    let connect: Connect = Box::new(move || {
        target(
            ServiceBuilder::new()
                .layer(layer.clone())
                .service(hyper(Http1)),
        )
    });
    (peer, hung, connect)
}

async fn queue_full() -> Scenario {
    let (peer, hung, connect) = taken(AimdConcurrencyLayer::http().max_waiting(0)).await;
    Scenario::new("queue full", peer.url(), (peer, hung), connect)
}

async fn queue_timeout() -> Scenario {
    let layer = AimdConcurrencyLayer::http().queue_timeout(Duration::from_millis(5));
    let (peer, hung, connect) = taken(layer).await;
    Scenario::new("queue timeout", peer.url(), (peer, hung), connect)
}

/// tower's own refusal: a service that is never ready, behind `LoadShed`.
fn load_shed() -> Scenario {
    let connect: Connect = Box::new(|| {
        let full = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(0)
            .service(hyper(Http1));
        target(full)
    });
    let url = "http://127.0.0.1".to_owned();
    Scenario::new("load shed", url, (), connect)
}

/// Connections that no further attempt will make.
fn hopeless() -> Vec<Scenario> {
    // What TLS stacks make of a certificate that they do not trust.
    let untrusted = || {
        service_fn(|_: Uri| {
            let why = "invalid peer certificate: UnknownIssuer";
            let error = io::Error::new(io::ErrorKind::InvalidData, why);
            ready(Err::<TokioIo<TcpStream>, _>(error))
        })
    };
    let url = || "https://127.0.0.1:1".to_owned();
    let distrusts: Connect = Box::new(move || {
        let client = Client::builder(TokioExecutor::new()).build(untrusted());
        target(client)
    });
    let tonic_distrusts: Connect = Box::new(move || {
        let channel = endpoint("http://127.0.0.1:1").connect_with_connector_lazy(untrusted());
        target(ServiceBuilder::new().map_request(to_tonic).service(channel))
    });
    // What tonic's connector says when it was built with TLS and has no
    // configuration for it; there is no type for it.
    let no_tls: Connect = Box::new(move || {
        let connector = service_fn(|_: Uri| {
            let why = "Connecting to HTTPS without TLS enabled";
            ready(Err::<TokioIo<TcpStream>, _>(BoxError::from(why)))
        });
        let channel = endpoint("http://127.0.0.1:1").connect_with_connector_lazy(connector);
        target(ServiceBuilder::new().map_request(to_tonic).service(channel))
    });
    vec![
        Scenario::new("https", url(), (), with_hyper(Http1)),
        Scenario::new("certificate hyper", url(), (), distrusts),
        Scenario::new("certificate tonic", url(), (), tonic_distrusts).grpc(),
        Scenario::new("https tonic", url(), (), no_tls).grpc(),
    ]
}

/// A peer that reads and never says anything, not even to a ping.
async fn mute() -> Scenario {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut peer = JoinSet::new();
    peer.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                let _ = copy(&mut stream, &mut tokio::io::sink()).await;
                drop(stream);
            });
        }
    });
    let endpoint = endpoint(&url)
        // else hyper, hearing nothing, does not come to look at its timer
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(SOON)
        .keep_alive_timeout(SOON);
    Scenario::new("mute", url, peer, with_tonic(endpoint)).grpc()
}
