use std::{
    fmt,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll, ready as try_ready},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::Fallen;
use crate::BoxError;

/// What answers in place of the upstream without seeing the request.
pub trait Answer {
    /// The answer.
    type Response;
    #[doc(hidden)]
    type Future: Future<Output = Result<Self::Response, BoxError>>;

    #[doc(hidden)]
    fn answer(&self, fallen: Fallen) -> Self::Future;
}

/// Nothing yet: see [`FallbackLayer`](super::FallbackLayer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unset;

/// Answers with what a closure gives.
#[derive(Clone, Copy)]
pub struct Says<F>(pub(super) F);

/// Answers with what an asynchronous closure gives.
#[derive(Clone, Copy)]
pub struct Does<F>(pub(super) F);

/// Answers with what another service gives.
#[derive(Clone, Copy, Debug)]
pub struct Other<T>(pub(super) T);

impl<F, Res> Answer for Says<F>
where
    F: Fn(Fallen) -> Res,
{
    type Response = Res;
    type Future = Ready<Result<Res, BoxError>>;

    fn answer(&self, fallen: Fallen) -> Self::Future {
        ready(Ok((self.0)(fallen)))
    }
}

impl<F, Fut, Res, E> Answer for Does<F>
where
    F: Fn(Fallen) -> Fut,
    Fut: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Response = Res;
    type Future = Doing<Fut>;

    fn answer(&self, fallen: Fallen) -> Self::Future {
        Doing {
            future: (self.0)(fallen),
        }
    }
}

pin_project! {
    /// The future of an asynchronous closure's answer.
    pub struct Doing<F> {
        #[pin]
        future: F,
    }
}

impl<F, Res, E> Future for Doing<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map_err(Into::into)
    }
}

pin_project! {
    /// The future of another service's answer.
    pub struct Asking<T, Req>
    where
        T: Service<Req>,
    {
        service: T,
        request: Option<Req>,
        #[pin]
        asked: Option<T::Future>,
    }
}

impl<T: Service<Req>, Req> Asking<T, Req> {
    pub(super) fn new(service: T, request: Req) -> Self {
        Self {
            service,
            request: Some(request),
            asked: None,
        }
    }
}

impl<T, Req> Future for Asking<T, Req>
where
    T: Service<Req>,
    T::Error: Into<BoxError>,
{
    type Output = Result<T::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.request.is_some() {
            try_ready!(this.service.poll_ready(cx)).map_err(Into::into)?;
            if let Some(request) = this.request.take() {
                this.asked.set(Some(this.service.call(request)));
            }
        }
        match this.asked.as_pin_mut() {
            Some(future) => future.poll(cx).map_err(Into::into),
            None => Poll::Pending,
        }
    }
}

impl<F> fmt::Debug for Says<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Says")
    }
}

impl<F> fmt::Debug for Does<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Does")
    }
}

impl<F> fmt::Debug for Doing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doing").finish_non_exhaustive()
    }
}

impl<T: Service<Req>, Req> fmt::Debug for Asking<T, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}
