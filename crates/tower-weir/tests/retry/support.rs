//! A scripted upstream, and what it saw.

use std::{
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use tower_weir::{
    BoxError,
    observe::Event,
    outcome::{Cause, HttpClassifier},
    retry::{Retry, RetryLayer, Same},
};

pub(crate) type Sent = Request<Full<Bytes>>;
pub(crate) type Answer = Response<String>;
pub(crate) type Stack = Retry<Upstream, HttpClassifier, Same>;

/// Attempts, in the order in which they came.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<(Instant, Parts)>>>);

impl Upstream {
    pub(crate) fn seen(&self) -> Seen {
        self.seen.clone()
    }
}

impl Seen {
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn times(&self) -> Vec<Instant> {
        self.0.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// A header of every attempt; "-" where there is none.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        self.each(|head| match head.headers.get(name) {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => "-".to_owned(),
        })
    }

    pub(crate) fn each<T>(&self, f: impl Fn(&Parts) -> T) -> Vec<T> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, head)| f(head))
            .collect()
    }

    pub(crate) fn take(&self) -> usize {
        std::mem::take(&mut *self.0.lock().unwrap()).len()
    }
}

/// An upstream that answers its `n`th attempt, from 0, with `answer(n)`.
#[derive(Clone)]
pub(crate) struct Upstream {
    answer: Arc<dyn Fn(usize) -> Answer + Send + Sync>,
    seen: Seen,
}

impl<B> Service<Request<B>> for Upstream {
    type Response = Answer;
    type Error = BoxError;
    type Future = Ready<Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut log = self.seen.0.lock().unwrap();
        log.push((Instant::now(), request.into_parts().0));
        ready(Ok((self.answer)(log.len() - 1)))
    }
}

pub(crate) fn upstream(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Upstream {
    Upstream {
        answer: Arc::new(answer),
        seen: Seen::default(),
    }
}

/// `layer` over such an upstream, and what that sees.
pub(crate) fn stack(
    layer: &RetryLayer,
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> (Stack, Seen) {
    let upstream = upstream(answer);
    let seen = upstream.seen.clone();
    (layer.layer(upstream), seen)
}

pub(crate) fn status(status: u16) -> Answer {
    Response::builder()
        .status(status)
        .body(String::new())
        .unwrap()
}

/// A Trailers-Only answer.
pub(crate) fn grpc_status(code: u8, pushback: Option<&str>) -> Answer {
    let mut answer = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", u16::from(code));
    if let Some(pushback) = pushback {
        answer = answer.header("grpc-retry-pushback-ms", pushback);
    }
    answer.body(String::new()).unwrap()
}

pub(crate) fn get(uri: &str) -> Sent {
    Request::get(uri).body(Full::default()).unwrap()
}

pub(crate) fn grpc() -> Sent {
    Request::post("http://grpc.test/a.B/C")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap()
}

pub(crate) async fn call(stack: &Stack, request: Sent) -> Result<Answer, BoxError> {
    stack.clone().oneshot(request).await
}

pub(crate) async fn status_of(stack: &Stack, request: Sent) -> u16 {
    call(stack, request).await.unwrap().status().as_u16()
}

/// What a layer told of itself.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<(Instant, String, Event)>>>);

impl Told {
    pub(crate) fn by(&self) -> impl Fn(&str, &Event) + Send + Sync + 'static {
        let told = self.0.clone();
        move |host, event| {
            let entry = (Instant::now(), host.to_owned(), event.clone());
            told.lock().unwrap().push(entry);
        }
    }

    pub(crate) fn all(&self) -> Vec<(Instant, String, Event)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.all().iter().filter(|(_, _, event)| is(event)).count()
    }
}

pub(crate) fn budget_empty(event: &Event) -> bool {
    matches!(event, Event::BudgetEmpty { .. })
}

pub(crate) fn status_cause(status: u16) -> Cause {
    Cause::Status(http::StatusCode::from_u16(status).unwrap())
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
