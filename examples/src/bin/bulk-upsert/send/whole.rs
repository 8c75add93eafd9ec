use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Collected, Full, Limited};
use tower::{Service, ServiceExt};
use tower_weir::{
    BoxError,
    outcome::Fault,
    retry::{Ending, Recorder},
};

/// How often a batch is sent whose answer broke off.
const MOST_ANSWERS: u32 = 3;

/// The longest answer that is read: tonic's own limit.
const LONGEST_ANSWER: usize = 4 << 20;

/// A stack whose answers are read to their ends.
///
/// The stack repeats what fails up to the head of the answer. What breaks off after
/// it is the caller's to judge; an upsert may always be repeated. It is done beneath
/// the letters, or an answer that never comes whole would leave none.
#[derive(Clone, Debug)]
pub(super) struct Whole<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for Whole<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    type Response = Response<Collected<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // the stack lets itself be waited for in its calls
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let stack = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let mut answers = 1;
            loop {
                let request = Request::from_parts(head.clone(), Full::from(body.clone()));
                match answer(stack.clone(), request).await {
                    Err(error) if broke_off(&error) && answers < MOST_ANSWERS => answers += 1,
                    Err(error) if broke_off(&error) => {
                        if let Some(recorder) = head.extensions.get::<Recorder>() {
                            recorder.conclude(Ending::Exhausted);
                        }
                        return Err(error);
                    }
                    result => return result,
                }
            }
        })
    }
}

/// Sends a request through the stack and reads the answer.
async fn answer<S, R>(
    stack: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<Collected<Bytes>>, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError>,
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let (mut head, body) = stack.oneshot(request).await?.into_parts();
    let whole = Limited::new(body, LONGEST_ANSWER).collect().await?;
    // the letters go by the head, and the status of a failed call may come last
    if let Some(trailers) = whole.trailers()
        && trailers.get("grpc-status").is_some_and(|code| code != "0")
    {
        head.headers.extend(trailers.clone());
    }
    Ok(Response::from_parts(head, whole))
}

fn broke_off(error: &BoxError) -> bool {
    let fault = Fault::of(error.as_ref());
    matches!(fault, Fault::Closed | Fault::Reset | Fault::StreamReset)
}
