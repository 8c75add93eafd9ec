use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Door, Presence, Shutdown, Tally, poll_cut};
use crate::{BoxError, error::ShuttingDown};

/// A layer that counts the requests of a stack for a [`Shutdown`], refuses new
/// ones once that has begun, and cuts what is in flight when its grace is over.
///
/// It goes outermost, over services of whatever kind; its errors are
/// [`BoxError`]s. It is of no use over a [`Weir`](crate::Weir) or a
/// [`RetryLayer`](crate::retry::RetryLayer) that has the same handle: they count
/// already, and each request would be two.
///
/// ```
/// use std::time::Duration;
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_weir::{BoxError, error::ShuttingDown, shutdown::Shutdown};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let shutdown = Shutdown::new();
/// let mut service = ServiceBuilder::new()
///     .layer(shutdown.layer())
///     .concurrency_limit(8)
///     .service(service_fn(|n: u32| async move { Ok::<_, BoxError>(n + 1) }));
/// assert_eq!(service.ready().await?.call(1).await?, 2);
///
/// shutdown.drain(Duration::from_secs(20)).await;
/// let refused = service.ready().await?.call(1).await.unwrap_err();
/// assert!(refused.is::<ShuttingDown>());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ShutdownLayer {
    shutdown: Shutdown,
}

/// The service that [`ShutdownLayer`] makes.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    door: Door,
}

pin_project! {
    /// The future of a [`Counted`] service's answer.
    pub struct CountedFuture<F> {
        // None once it is over, and from the beginning for one that is refused.
        #[pin]
        future: Option<F>,
        presence: Option<Presence>,
    }
}

impl ShutdownLayer {
    pub(super) fn new(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
        }
    }
}

impl<S> Layer<S> for ShutdownLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            door: Door::new(&self.shutdown),
        }
    }
}

impl<S, Req> Service<Req> for Counted<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CountedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let inner = &mut self.inner;
        let ready = self.door.poll_ready(cx, |cx| inner.poll_ready(cx));
        ready.map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let presence = self.door.enter();
        CountedFuture {
            future: presence.is_some().then(|| self.inner.call(request)),
            presence,
        }
    }
}

impl<F, T, E> Future for CountedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (Some(future), Some(presence)) =
            (this.future.as_mut().as_pin_mut(), this.presence.as_ref())
        else {
            return Poll::Ready(Err(ShuttingDown::unsent("".into()).into()));
        };
        // What has been counted as cut must not come to an end of its own.
        let result = if presence.is_cut() {
            None
        } else {
            match future.poll(cx) {
                Poll::Ready(result) => Some(result.map_err(Into::into)),
                Poll::Pending if poll_cut(this.presence, cx).is_ready() => None,
                Poll::Pending => return Poll::Pending,
            }
        };
        this.future.set(None);
        let result = result.unwrap_or_else(|| Err(ShuttingDown::cut("".into(), 1, None).into()));
        if let Some(presence) = this.presence.take() {
            presence.leave(Tally::of(&result));
        }
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for CountedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedFuture").finish_non_exhaustive()
    }
}
