use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tower::{ServiceExt, util::BoxCloneService};
use tower_service::Service;

use super::Region;
use crate::BoxError;

/// A region's stack whose type does not show: made by [`Region::boxed`].
///
/// It is tower's `BoxCloneService` with its error fixed. Where that error is a
/// parameter of the type, the compiler finds a task that is spawned with such a
/// service "not general enough".
pub struct BoxStack<Req, Res>(BoxCloneService<Req, Res, BoxError>);

impl<S> Region<S> {
    /// The same region, in a box: for regions whose stacks have different types.
    /// All must take one type of request; see
    /// [`Failover::map_body`](super::Failover::map_body).
    #[must_use]
    pub fn boxed<Req>(self) -> Region<BoxStack<Req, S::Response>>
    where
        S: Service<Req> + Clone + Send + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Send + 'static,
    {
        Region {
            service: BoxStack(BoxCloneService::new(self.service.map_err(Into::into))),
            place: self.place,
        }
    }
}

impl<Req, Res> Service<Req> for BoxStack<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Res, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.0.call(request)
    }
}

impl<Req, Res> Clone for BoxStack<Req, Res> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Req, Res> fmt::Debug for BoxStack<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxStack").finish_non_exhaustive()
    }
}
