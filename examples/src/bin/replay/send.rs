use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{CONTENT_LENGTH, HOST},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_weir::{
    BoxError, Weir,
    dead_letter::{DeadLetterLayer, DeadLetterSink, Letter, NotKept, file::JsonlFile, has_failed},
    outcome::Protocol,
};

use crate::options::{Options, Target};

type Stack = BoxCloneSyncService<Request<Full<Bytes>>, Answer, BoxError>;
type Answer = http::Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The stack that letters are sent through, and the file for those that fail
/// again.
#[derive(Clone)]
pub(crate) struct Sender {
    http: Stack,
    grpc: Stack,
    again: JsonlFile,
    to: Option<Target>,
    headers: Vec<(HeaderName, HeaderValue)>,
    bodiless: bool,
    silence: Duration,
}

/// What came of a letter that was sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Sent {
    Delivered,
    /// With what, once more. Its letter is in the file.
    Failed(String),
}

impl Sender {
    pub(crate) fn new(options: &Options, again: JsonlFile) -> Self {
        // A letter that fails again must be in the file before it counts as sent.
        let dead_letters = DeadLetterLayer::new(again.clone()).strict(true);
        let weir = Weir::http()
            .bulk()
            // It may be sent at most once, and the upstream can tell only those
            // repetitions that have a key.
            .retry(|policy| policy.any_method(false))
            .ceiling(options.max_concurrency.get());
        let stack = |http2: bool| {
            let client: Client<HttpConnector, _> = Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http();
            let service = ServiceBuilder::new()
                .layer(dead_letters.clone())
                .layer(weir.clone())
                .service(client)
                .map_response(|answer| answer.map(|body| body.map_err(Into::into).boxed_unsync()));
            BoxCloneSyncService::new(service)
        };
        Self {
            http: stack(false),
            grpc: stack(true),
            again,
            to: options.to.clone(),
            headers: options.headers.clone(),
            bodiless: options.without_body,
            silence: options.answer_timeout,
        }
    }

    /// # Errors
    /// When it failed again and its letter could not be kept.
    pub(crate) async fn send(self, letter: Letter) -> Result<Sent, BoxError> {
        let request = self.request(&letter)?;
        let stack = match Protocol::of(request.headers()) {
            Protocol::Grpc => self.grpc,
            _ => self.http,
        };
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head.clone(), body);
        let answer = match stack.oneshot(request).await {
            Err(error) if error.is::<NotKept>() => return Err(error),
            Err(error) => return Ok(Sent::Failed(error.to_string())),
            Ok(answer) => answer,
        };
        let (said, body) = answer.into_parts();
        if has_failed(&head, Ok(&said)) {
            return Ok(Sent::Failed(said.status.to_string()));
        }
        let why = match trailers(body, self.silence).await {
            Ok(trailers) => match trailers.as_ref().and_then(bad_status) {
                None => return Ok(Sent::Delivered),
                Some(status) => format!("grpc-status {status}"),
            },
            Err(error) => error.to_string(),
        };
        // The layer knows only how an answer begins.
        self.again.deliver(letter).await?;
        Ok(Sent::Failed(why))
    }

    /// Whether there is an address to send it to, in the one scheme spoken here.
    /// What is not tried keeps its key for a replay that can.
    pub(crate) fn can_reach(&self, letter: &Letter) -> bool {
        self.to.is_some() || letter.uri.scheme() == Some(&Scheme::HTTP)
    }

    fn request(&self, letter: &Letter) -> Result<Request<Full<Bytes>>, BoxError> {
        let mut request = match letter.request() {
            Err(_) if self.bodiless => {
                let mut request = letter.request_with(Bytes::new());
                request.headers_mut().remove(CONTENT_LENGTH);
                request
            }
            request => request?,
        };
        if let Some(to) = &self.to {
            let mut uri = request.uri().clone().into_parts();
            uri.scheme = Some(to.scheme.clone());
            uri.authority = Some(to.authority.clone());
            *request.uri_mut() = Uri::from_parts(uri)?;
            // It names where the request went.
            request.headers_mut().remove(HOST);
        }
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request.map(Full::new))
    }
}

/// Reads an answer to its end, as long as there is something to read.
async fn trailers(
    mut body: UnsyncBoxBody<Bytes, BoxError>,
    silence: Duration,
) -> Result<Option<HeaderMap>, BoxError> {
    let mut trailers = None;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sleep(silence) => {
                return Err(format!("nothing more of the answer came for {silence:?}").into());
            }
        };
        match frame {
            Some(frame) => trailers = frame?.into_trailers().ok().or(trailers),
            None => return Ok(trailers),
        }
    }
}

fn bad_status(trailers: &HeaderMap) -> Option<String> {
    let status = trailers.get("grpc-status")?;
    (status != "0").then(|| String::from_utf8_lossy(status.as_bytes()).into_owned())
}
