use std::{any::Any, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tests::{
    BoxError,
    client::{
        Over::{self, Http1},
        endpoint, hyper,
    },
    script::{Boxed, Script, boxed, committed, says, trailers_only},
};
use tonic::transport::Endpoint;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::outcome::GrpcCode;

use super::{
    contract::{Health, Row},
    faults,
    run::Target,
};

type Pairs = &'static [(&'static str, &'static str)];

const GRPC: Pairs = &[("content-type", "application/grpc"), ("te", "trailers")];
const KEYED: Pairs = &[("idempotency-key", "7")];

/// One way to provoke what a row speaks of.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Makes a client with no connections.
    pub(crate) connect: Box<dyn Fn() -> Target + Send + Sync>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    /// What the answer's status alone says, for rows that go by it.
    pub(crate) by_status: Option<Health>,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: fn() -> Boxed,
    only_post: bool,
    /// The servers, which stop when they are dropped.
    _peer: Box<dyn Any + Send + Sync>,
}

impl Scenario {
    pub(crate) fn new<S>(name: impl Into<String>, url: String, peer: S, connect: Connect) -> Self
    where
        S: Send + Sync + 'static,
    {
        Self {
            name: name.into(),
            connect,
            attempt_timeout: Some(Duration::from_secs(30)),
            deadline: None,
            by_status: None,
            uri: url,
            headers: Vec::new(),
            body: || boxed(Full::from("0123456789")),
            only_post: false,
            _peer: Box::new(peer),
        }
    }

    fn with(mut self, headers: Pairs) -> Self {
        self.headers.extend(headers);
        self
    }

    pub(crate) fn grpc(mut self) -> Self {
        self.only_post = true;
        // an empty message
        self.body = || boxed(Full::from(&[0; 5][..]));
        self.with(GRPC)
    }

    pub(crate) fn methods(&self, row: &Row) -> Vec<Method> {
        let mut methods = row.methods();
        methods.retain(|method| !self.only_post || method == Method::POST);
        assert!(!methods.is_empty(), "{row}: no method for {}", self.name);
        methods
    }

    pub(crate) fn request(&self, method: &Method) -> Request<Boxed> {
        let mut request = Request::builder().method(method).uri(&self.uri);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        request.body((self.body)()).unwrap()
    }
}

pub(crate) type Connect = Box<dyn Fn() -> Target + Send + Sync>;

pub(crate) fn with_hyper(over: Over) -> Connect {
    Box::new(move || target(hyper(over)))
}

pub(crate) fn with_tonic(endpoint: Endpoint) -> Connect {
    Box::new(move || {
        let channel = endpoint.connect_lazy();
        target(ServiceBuilder::new().map_request(to_tonic).service(channel))
    })
}

pub(crate) fn to_tonic(request: Request<Boxed>) -> Request<tonic::body::Body> {
    request.map(tonic::body::Body::new)
}

/// Puts a client into a box. Its errors stay as they are.
pub(crate) fn target<S, B>(client: S) -> Target
where
    S: Service<Request<Boxed>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    client
        .map_response(|response| response.map(boxed))
        .map_err(Into::into)
        .boxed_clone()
}

/// All ways in which the row is provoked. `rows` are all rows.
///
/// # Panics
/// On a row that is not known here.
pub(crate) async fn of(row: &Row, rows: &[Row]) -> Vec<Scenario> {
    match row.kind {
        "http" => http(row, rows).await,
        "err" => faults::of(row).await,
        "grpc" => vec![grpc(row).await],
        _ => panic!("{row}: unknown kind"),
    }
}

async fn http(row: &Row, rows: &[Row]) -> Vec<Scenario> {
    let (status, rest) = row.what.split_once(' ').unwrap_or((row.what, ""));
    let one = match (row.what, row.extra) {
        ("any", "x-should-retry: false") => {
            let said = answers(rows, &[("x-should-retry", "false")], |_| true);
            let mut said = said.await;
            for scenario in &mut said {
                // With a refusal, "do not retry" takes it out of the verdict. A
                // row of its own says so of 429; the row here says nothing of 408
                // and 503 that it does not say of 429 too.
                if matches!(scenario.name.as_str(), "408" | "503") {
                    scenario.by_status = Some(Health::ByStatus);
                }
            }
            said.retain(|scenario| scenario.name != "429");
            return said;
        }
        ("any non-2xx", "x-should-retry: true") => {
            let not_2xx = |status: StatusCode| !status.is_success();
            return answers(rows, &[("x-should-retry", "true")], not_2xx).await;
        }
        (_, "-") if rest.is_empty() => answer(status, &[]).await,
        (_, "Retry-After present") => answer(status, &[("retry-after", "1")]).await,
        (_, "Idempotency-Key on the request") => answer(status, &[]).await.with(KEYED),
        (_, "Idempotency-Key on the request + x-should-retry: true") => {
            let told = answer(status, &[("x-should-retry", "true")]);
            told.await.with(KEYED)
        }
        (_, "x-should-retry: false (storage full)") => {
            answer(status, &[("x-should-retry", "false")]).await
        }
        (_, "-") if rest == "answered to a gRPC request by a proxy (no gRPC content type)" => {
            let status = status_of(status);
            let peer = Script::start(move |_, _| {
                let headers = [("content-type", "text/html")];
                says(status, &headers, "<h1>no server is available</h1>")
            })
            .await;
            let url = peer.url();
            let connect = with_tonic(endpoint(&url));
            Scenario::new("proxy", url, peer, connect).grpc()
        }
        _ => panic!("{row}: unknown"),
    };
    vec![one]
}

fn status_of(status: &str) -> StatusCode {
    StatusCode::from_bytes(status.as_bytes()).unwrap()
}

pub(crate) async fn answer(status: &str, headers: Pairs) -> Scenario {
    let code = status_of(status);
    let peer = Script::start(move |_, _| says(code, headers, "an answer")).await;
    Scenario::new(status, peer.url(), peer, with_hyper(Http1))
}

/// An answer with each status that the table has a row for, and what that row
/// says of it.
async fn answers(
    rows: &[Row],
    headers: Pairs,
    wanted: impl Fn(StatusCode) -> bool,
) -> Vec<Scenario> {
    let mut known: Vec<&Row> = Vec::new();
    for row in rows {
        let plain = row.kind == "http" && row.extra == "-" && row.what.len() == 3;
        if plain && row.what != "any" && known.iter().all(|other| other.what != row.what) {
            known.push(row);
        }
    }
    let mut scenarios = Vec::new();
    for row in known {
        if wanted(status_of(row.what)) {
            let mut scenario = answer(row.what, headers).await;
            scenario.by_status = Some(row.health);
            scenarios.push(scenario);
        }
    }
    scenarios
}

async fn grpc(row: &Row) -> Scenario {
    let code = (0..=16)
        .find(|code| GrpcCode::parse(code.to_string().as_bytes()).as_str() == row.what)
        .unwrap_or_else(|| panic!("{row}: unknown code"));
    let peer = match row.extra {
        "Trailers-Only" => Script::start(move |_, _| trailers_only(code, &[])).await,
        "status in trailers after headers (committed)" => {
            Script::start(move |_, _| committed(&[], code)).await
        }
        "pushback -1" => {
            let pushback = [("grpc-retry-pushback-ms", "-1")];
            Script::start(move |_, _| trailers_only(code, &pushback)).await
        }
        "pushback 100" => {
            let pushback = [("grpc-retry-pushback-ms", "100")];
            Script::start(move |_, _| trailers_only(code, &pushback)).await
        }
        _ => panic!("{row}: unknown"),
    };
    let url = peer.url();
    let connect = with_tonic(endpoint(&url));
    Scenario::new(row.what, url, peer, connect).grpc()
}
