//! The ways from a request that has failed to another answer.

use std::{fmt, marker::PhantomData};

use http::{Request, Response, request::Parts};
use http_body::Body;
use http_body_util::Either;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    FallbackCause, Fallen, FellBack,
    answer::{Answer, Asking},
};
use crate::{
    BoxError, Deadline,
    retry::{MapReplay, ReplayHandle, grpc_timeout, is_head_only},
};

/// What is kept of a request while its own answer may still come.
pub trait Way<Res> {
    /// What the caller gets.
    type Response;
    #[doc(hidden)]
    type Answered;
    #[doc(hidden)]
    type Answer: Future<Output = Result<Self::Answered, BoxError>>;

    #[doc(hidden)]
    fn own(response: Res) -> Self::Response;

    #[doc(hidden)]
    fn others(answered: Self::Answered, mark: FellBack) -> Self::Response;

    /// Whether what the upstream answered stays whole while another answer is had.
    #[doc(hidden)]
    fn keeps(&self, own: &Res) -> bool {
        let _ = own;
        true
    }

    #[doc(hidden)]
    fn answer(self, fallen: Fallen) -> Result<Self::Answer, BoxError>;
}

/// A closure answers an HTTP request.
pub struct HttpSays<A>(pub(super) A);

impl<A, ResB, B> Way<Response<ResB>> for HttpSays<A>
where
    A: Answer<Response = Response<B>>,
{
    type Response = Response<Either<ResB, B>>;
    type Answered = Response<B>;
    type Answer = A::Future;

    fn own(response: Response<ResB>) -> Self::Response {
        response.map(Either::Left)
    }

    fn others(answered: Response<B>, mark: FellBack) -> Self::Response {
        marked(answered, mark)
    }

    fn answer(self, fallen: Fallen) -> Result<Self::Answer, BoxError> {
        Ok(self.0.answer(fallen))
    }
}

/// Another service answers an HTTP request.
pub struct HttpAsks<T, B, M> {
    pub(super) service: T,
    pub(super) head: Parts,
    pub(super) body: ReplayHandle,
    /// When the time is up that a gRPC request gives itself.
    pub(super) until: Option<Instant>,
    pub(super) map: M,
    pub(super) kind: PhantomData<fn() -> B>,
}

impl<T, B, M, ResB, OtherB> Way<Response<ResB>> for HttpAsks<T, B, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B>,
    T: Service<Request<M::Out>, Response = Response<OtherB>>,
    T::Error: Into<BoxError>,
{
    type Response = Response<Either<ResB, OtherB>>;
    type Answered = Response<OtherB>;
    type Answer = Asking<T, Request<M::Out>>;

    fn own(response: Response<ResB>) -> Self::Response {
        response.map(Either::Left)
    }

    fn others(answered: Response<OtherB>, mark: FellBack) -> Self::Response {
        marked(answered, mark)
    }

    fn keeps(&self, own: &Response<ResB>) -> bool {
        // Of an early answer the upstream may not send the rest, without its request.
        self.body.is_idle() || is_head_only(own)
    }

    fn answer(mut self, fallen: Fallen) -> Result<Self::Answer, BoxError> {
        if fallen.cause == FallbackCause::Deadline {
            // It is for the case that the time was not enough.
            self.head.extensions.remove::<Deadline>();
        } else if let Some(until) = self.until {
            let given = self.head.extensions.get::<Deadline>().copied();
            let until = given.into_iter().fold(Deadline(until), Deadline::min);
            self.head.extensions.insert(until);
            let left = until.0.saturating_duration_since(Instant::now());
            let left = grpc_timeout::write(left);
            self.head.headers.insert(grpc_timeout::NAME, left);
        }
        let body = self.map.map(self.body.take_over()?);
        let request = Request::from_parts(self.head, body);
        Ok(Asking::new(self.service, request))
    }
}

fn marked<L, R>(response: Response<R>, mark: FellBack) -> Response<Either<L, R>> {
    let mut response = response.map(Either::Right);
    response.extensions_mut().insert(mark);
    response
}

/// A closure answers any request.
pub struct PlainSays<A>(pub(super) A);

impl<A: Answer> Way<A::Response> for PlainSays<A> {
    type Response = A::Response;
    type Answered = A::Response;
    type Answer = A::Future;

    fn own(response: A::Response) -> A::Response {
        response
    }

    fn others(answered: A::Response, _: FellBack) -> A::Response {
        answered
    }

    fn answer(self, fallen: Fallen) -> Result<Self::Answer, BoxError> {
        Ok(self.0.answer(fallen))
    }
}

/// Another service answers a request that was cloned.
pub struct PlainAsks<T, Req> {
    pub(super) service: T,
    pub(super) request: Req,
}

impl<T, Req> Way<T::Response> for PlainAsks<T, Req>
where
    T: Service<Req>,
    T::Error: Into<BoxError>,
{
    type Response = T::Response;
    type Answered = T::Response;
    type Answer = Asking<T, Req>;

    fn own(response: T::Response) -> T::Response {
        response
    }

    fn others(answered: T::Response, _: FellBack) -> T::Response {
        answered
    }

    fn answer(self, _: Fallen) -> Result<Self::Answer, BoxError> {
        Ok(Asking::new(self.service, self.request))
    }
}

macro_rules! opaque {
    ($($way:ident<$($parameter:ident),*>)*) => {$(
        impl<$($parameter),*> fmt::Debug for $way<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($way)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(HttpSays<A> HttpAsks<T, B, M> PlainSays<A> PlainAsks<T, Req>);
