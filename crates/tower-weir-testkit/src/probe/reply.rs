use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time;

use super::BoxError;

/// What becomes of a call.
pub struct Reply<Res>(Pin<Box<dyn Future<Output = Result<Res, BoxError>> + Send>>);

impl<Res: Send + 'static> Reply<Res> {
    /// This response.
    pub fn ok(response: Res) -> Self {
        Self::from_future(future::ready(Ok(response)))
    }

    /// This error.
    pub fn fail(error: impl Into<BoxError>) -> Self {
        Self::from_future(future::ready(Err(error.into())))
    }

    /// Nothing, ever.
    pub fn hang() -> Self {
        Self::from_future(future::pending())
    }

    /// A panic when it is polled.
    pub fn panic(message: &'static str) -> Self {
        Self::from_future(async move { panic!("{message}") })
    }

    /// What this future gives: of a channel, for instance, that the test holds
    /// the other end of.
    pub fn from_future(
        future: impl Future<Output = Result<Res, BoxError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(future))
    }

    /// The same, this long after its first poll.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::from_future(async move {
            time::sleep(delay).await;
            self.await
        })
    }
}

impl<Res> Future for Reply<Res> {
    type Output = Result<Res, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<Res> fmt::Debug for Reply<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").finish_non_exhaustive()
    }
}
