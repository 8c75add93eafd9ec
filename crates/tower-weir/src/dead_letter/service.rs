use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    LetterResult, Loss, NotKept,
    case::{Case, Failed},
    failed::Judge,
    post::{Post, Receipt, Settings},
};
use crate::{BoxError, outcome::Fault};

/// The service that [`DeadLetterLayer`](super::DeadLetterLayer) makes.
pub struct DeadLetter<S> {
    pub(super) inner: S,
    pub(super) post: Arc<Post>,
    pub(super) judge: Judge,
}

impl<S, B, R> Service<Request<B>> for DeadLetter<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let case = self
            .post
            .settings()
            .enabled
            .then(|| Case::open(&mut request));
        let watch = Watch {
            case,
            post: Arc::clone(&self.post),
            judge: Arc::clone(&self.judge),
        };
        ResponseFuture {
            state: State::Calling {
                future: self.inner.call(request),
            },
            watch,
        }
    }
}

pin_project! {
    /// The future of a [`DeadLetter`] service's answer.
    pub struct ResponseFuture<F, R> {
        // Before the watch, so that the attempt has ended when a letter is
        // written of it.
        #[pin]
        state: State<F, R>,
        watch: Watch,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R> {
        Calling { #[pin] future: F },
        // Only where the caller waits for the letter.
        Keeping { receipt: Receipt, result: Option<Result<Response<R>, BoxError>> },
    }
}

/// Sees to a request until its result is known, or its caller has gone.
struct Watch {
    case: Option<Box<Case>>,
    post: Arc<Post>,
    judge: Judge,
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    let (result, receipt) = this.watch.end(result);
                    let Some(receipt) = receipt else {
                        return Poll::Ready(result);
                    };
                    let result = Some(result);
                    this.state.set(State::Keeping { receipt, result });
                }
                StateProj::Keeping { receipt, result } => {
                    let kept = ready!(Pin::new(receipt).poll(cx));
                    let Some(result) = result.take() else {
                        let error = "the future was polled after it had completed";
                        return Poll::Ready(Err(error.into()));
                    };
                    return Poll::Ready(match kept.unwrap_or(Err(Loss::ShutDown)) {
                        Ok(()) => result,
                        Err(why) => Err(NotKept::of(why, result).into()),
                    });
                }
            }
        }
    }
}

impl Watch {
    /// Judges the result, and sends a letter if it is bad. The receipt is for
    /// those who wait for it.
    fn end<R>(
        &mut self,
        result: Result<Response<R>, BoxError>,
    ) -> (Result<Response<R>, BoxError>, Option<Receipt>) {
        match result {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let receipt = self.judge(Ok(&head));
                (Ok(Response::from_parts(head, body)), receipt)
            }
            Err(error) => {
                let receipt = self.judge(Err(&error));
                (Err(error), receipt)
            }
        }
    }

    fn judge(&mut self, result: Result<&http::response::Parts, &BoxError>) -> Option<Receipt> {
        // It stays where it is meanwhile: what the user's code panics over is closed
        // as what nobody waits for any more.
        let failed = (self.judge)(&self.case.as_ref()?.head, result);
        let mut case = self.case.take()?;
        if !failed {
            case.close();
            return None;
        }
        // The judge was the last to see them; what they keep alive may be large.
        case.head.extensions.clear();
        let fault = result.err().map(|error| Fault::of(error.as_ref()));
        let told = LetterResult::of(&case.head, result);
        let settings = self.post.settings();
        let strict = settings.strict;
        let receipt = self.send(settings, case, told, fault);
        strict.then_some(receipt)
    }

    fn send(
        &self,
        settings: Arc<Settings>,
        case: Box<Case>,
        result: LetterResult,
        fault: Option<Fault>,
    ) -> Receipt {
        let processed = case.processed(fault);
        let failed = Failed {
            case,
            result,
            processed,
            at: (Instant::now(), SystemTime::now()),
        };
        self.post.send(settings, failed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(case) = self.case.take() else {
            return;
        };
        let settings = self.post.settings();
        if settings.on_cancel {
            self.send(settings, case, LetterResult::Cancelled, None);
        } else {
            case.close();
        }
    }
}

impl<S: Clone> Clone for DeadLetter<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            post: Arc::clone(&self.post),
            judge: Arc::clone(&self.judge),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for DeadLetter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("inner", &self.inner)
            .field("post", &self.post)
            .finish()
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
