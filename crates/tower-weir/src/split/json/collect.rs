use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, response};
use http_body::Body;
use http_body_util::Limited;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::BoxError;

/// A layer that reads answers to their end, so that they can be merged: a
/// `Response<Bytes>` comes out for a response of any body.
///
/// Trailers are dropped. It goes right beneath [`SplitLayer`](crate::split::SplitLayer),
/// outside of the retries: an answer that breaks off is an error, and is not
/// repeated, since the upstream has acted on the request. Of one whose status is
/// 400 or more there is what could be read: a 413 is a 413 also if the server has
/// closed the connection under it.
#[derive(Clone, Copy, Debug)]
pub struct CollectLayer {
    max_bytes: usize,
}

impl CollectLayer {
    /// Reads up to so many bytes an answer; a longer one is an error
    /// ([`LengthLimitError`](http_body_util::LengthLimitError)), or is cut short if
    /// its status is 400 or more.
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes }
    }
}

impl<S> Layer<S> for CollectLayer {
    type Service = Collect<S>;

    fn layer(&self, inner: S) -> Collect<S> {
        Collect {
            inner,
            max_bytes: self.max_bytes,
        }
    }
}

/// The service that [`CollectLayer`] makes.
#[derive(Clone, Debug)]
pub struct Collect<S> {
    inner: S,
    max_bytes: usize,
}

impl<S, Req, B> Service<Req> for Collect<S>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<Bytes>;
    type Error = BoxError;
    type Future = CollectFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        CollectFuture {
            state: State::Head {
                future: self.inner.call(request),
            },
            max_bytes: self.max_bytes,
        }
    }
}

pin_project! {
    /// The future of a [`Collect`] service's answer.
    pub struct CollectFuture<F, B> {
        #[pin]
        state: State<F, B>,
        max_bytes: usize,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Head { #[pin] future: F },
        Body { head: Option<response::Parts>, #[pin] body: Limited<B>, text: BytesMut },
    }
}

impl<F, B, E> Future for CollectFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Bytes>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Head { future } => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    let (head, body) = response.into_parts();
                    this.state.set(State::Body {
                        head: Some(head),
                        body: Limited::new(body, *this.max_bytes),
                        text: BytesMut::new(),
                    });
                }
                StateProj::Body { head, body, text } => {
                    // What was not done is told by the status: a server that
                    // refuses a body often closes the connection at once.
                    let failed = head
                        .as_ref()
                        .is_some_and(|head| head.status.as_u16() >= 400);
                    match ready!(body.poll_frame(cx)) {
                        Some(Err(_)) if failed => {}
                        Some(frame) => {
                            if let Ok(data) = frame?.into_data() {
                                text.put(data);
                            }
                            continue;
                        }
                        None => {}
                    }
                    let Some(head) = head.take() else {
                        let again = "the future was polled after it had completed";
                        return Poll::Ready(Err(again.into()));
                    };
                    let text = std::mem::take(text).freeze();
                    return Poll::Ready(Ok(Response::from_parts(head, text)));
                }
            }
        }
    }
}

impl<F, B> fmt::Debug for CollectFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectFuture").finish_non_exhaustive()
    }
}
