//! A plain admission: it counts the operations that are pending, under a lock, and knows
//! how long they took. About what an admission costs at the least.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tower::{Layer, Service, layer::layer_fn};

#[derive(Default)]
struct Count {
    pending: usize,
    took: Duration,
}

/// A layer of which all services count together.
pub(super) fn least<S>() -> impl Layer<S, Service = Least<S>> + Clone {
    let count = Arc::default();
    layer_fn(move |inner| Least {
        inner,
        count: Arc::clone(&count),
    })
}

#[derive(Clone)]
pub(super) struct Least<S> {
    inner: S,
    count: Arc<Mutex<Count>>,
}

impl<S: Service<Request, Response = Response<Body>>> Service<Request> for Least<S> {
    type Response = Response<LeastBody>;
    type Error = S::Error;
    type Future = LeastFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.pending += 1;
        drop(count);
        let pending = Pending {
            count: self.count.clone(),
            since: now,
        };
        LeastFuture {
            future: self.inner.call(request),
            pending: Some(pending),
        }
    }
}

struct Pending {
    count: Arc<Mutex<Count>>,
    since: Instant,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.pending -= 1;
        count.took += took;
    }
}

pin_project_lite::pin_project! {
    pub(super) struct LeastFuture<F> {
        #[pin]
        future: F,
        pending: Option<Pending>,
    }
}

impl<E, F: Future<Output = Result<Response<Body>, E>>> Future for LeastFuture<F> {
    type Output = Result<Response<LeastBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        let pending = this.pending.take();
        Poll::Ready(result.map(|response| response.map(|body| LeastBody { body, pending })))
    }
}

/// A body whose operation is pending until it ends.
pub(super) struct LeastBody {
    body: Body,
    pending: Option<Pending>,
}

impl http_body::Body for LeastBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.pending = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
