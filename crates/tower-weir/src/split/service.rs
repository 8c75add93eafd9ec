use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{Merge, ResponseFuture, Split, layer::Shared};
use crate::{BoxError, outcome::Classify};

/// The service that [`SplitLayer`](super::SplitLayer) makes.
pub struct SplitService<S, C, M> {
    inner: S,
    shared: Arc<Shared<C, M>>,
}

impl<S, C, M> SplitService<S, C, M> {
    pub(super) fn new(inner: S, shared: Arc<Shared<C, M>>) -> Self {
        Self { inner, shared }
    }
}

impl<S, Req, C, M> Service<Req> for SplitService<S, C, M>
where
    Req: Split,
    S: Service<Req> + Clone,
    S::Response: Send + 'static,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    M: Merge<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, M>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let kept = self.shared.rules().enabled.then(|| request.keep());
        // The service that was polled ready is called, and kept for the parts.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let future = inner.call(request);
        ResponseFuture::new(self.shared.clone(), inner, kept, future)
    }
}

impl<S: Clone, C, M> Clone for SplitService<S, C, M> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S: fmt::Debug, C, M> fmt::Debug for SplitService<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
