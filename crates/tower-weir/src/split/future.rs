use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    Merge, Split,
    layer::{Rules, Shared},
    oversize::Oversize,
    plan::{Fate, Piece, Plan, Said},
    report::Gathered,
};
use crate::{BoxError, outcome::Classify};

pin_project! {
    /// The future of a [`SplitService`](super::SplitService)'s answer. To drop it
    /// drops all parts that are under way, and no other is sent.
    pub struct ResponseFuture<S, Req, C, M>
    where
        S: Service<Req>,
        Req: Split,
    {
        #[pin]
        state: State<S, Req, S::Future>,
        shared: Arc<Shared<C, M>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F>
    where
        S: Service<Req>,
        Req: Split,
    {
        Whole { #[pin] future: F, inner: Option<S>, kept: Option<Req::Kept> },
        // Boxed: most requests never come here, and should not be larger for it.
        Parts { parts: Box<Parts<S, Req>> },
        Done,
    }
}

/// A request that is being sent in parts.
struct Parts<S: Service<Req>, Req: Split> {
    inner: S,
    kept: Req::Kept,
    rules: Arc<Rules>,
    safe: bool,
    plan: Plan,
    next: Option<Piece>,
    flights: Vec<Flight<S::Future>>,
    gathered: Gathered<S::Response>,
}

/// A part that is under way.
struct Flight<F> {
    piece: Piece,
    future: Pin<Box<F>>,
}

impl<S, Req, C, M> ResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
    Req: Split,
{
    pub(super) fn new(
        shared: Arc<Shared<C, M>>,
        inner: S,
        kept: Option<Req::Kept>,
        future: S::Future,
    ) -> Self {
        let state = State::Whole {
            future,
            inner: Some(inner),
            kept,
        };
        Self { state, shared }
    }
}

impl<S, Req, C, M> Future for ResponseFuture<S, Req, C, M>
where
    Req: Split,
    S: Service<Req>,
    S::Response: Send + 'static,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    M: Merge<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Whole {
                    future,
                    inner,
                    kept,
                } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    let (inner, kept) = (inner.take(), kept.take());
                    let parts = inner.zip(kept);
                    let parts = parts.and_then(|(inner, kept)| {
                        Parts::begin(this.shared, inner, kept, result.as_ref())
                    });
                    let Some(parts) = parts else {
                        this.state.set(State::Done);
                        return Poll::Ready(result);
                    };
                    let parts = Box::new(parts);
                    this.state.set(State::Parts { parts });
                }
                StateProj::Parts { parts } => {
                    ready!(parts.poll(this.shared, cx));
                    let gathered = std::mem::take(&mut parts.gathered);
                    this.state.set(State::Done);
                    return Poll::Ready(merged(&this.shared.merge, gathered));
                }
                StateProj::Done => return Poll::Ready(Err(polled_again())),
            }
        }
    }
}

fn merged<Res, M>(merge: &M, gathered: Gathered<Res>) -> Result<Res, BoxError>
where
    Res: Send + 'static,
    M: Merge<Res>,
{
    let answers = match gathered.only() {
        Ok(result) => return result,
        Err(gathered) => gathered.finish()?,
    };
    let merged = merge.merge(answers);
    merged.map_err(|unmerged| Gathered::unmerged(unmerged.answers, unmerged.why).into())
}

impl<S, Req> Parts<S, Req>
where
    Req: Split,
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    /// Splits a request after what became of it as a whole, if that helps.
    fn begin<C, M>(
        shared: &Shared<C, M>,
        inner: S,
        mut kept: Req::Kept,
        result: Result<&S::Response, &BoxError>,
    ) -> Option<Self>
    where
        C: Classify<S::Response>,
    {
        let rules = shared.rules();
        let outcome = shared.judge(&rules, result);
        let safe = Req::is_safe(&kept);
        let mut count = None;
        let oversize = result.err().and_then(Oversize::of);
        let said = rules.said(&outcome, oversize, safe, || {
            let count = *count.insert(Req::count(&mut kept));
            Req::encoded_len(&kept, 0..count)
        });
        if matches!(said, Said::Delivered | Said::Failed) {
            return None;
        }
        let count = count.unwrap_or_else(|| Req::count(&mut kept));
        if count < 2 {
            return None;
        }
        let mut plan = Plan::new(rules.refusals);
        if plan.settle(&Piece::whole(count), said) == Fate::Settled {
            return None;
        }
        tracing::debug!(items = count, cause = %outcome.cause, "split");
        Some(Self {
            inner,
            kept,
            rules,
            safe,
            plan,
            next: None,
            flights: Vec::new(),
            gathered: Gathered::default(),
        })
    }

    /// Ready when every item has been settled.
    fn poll<C, M>(&mut self, shared: &Shared<C, M>, cx: &mut Context<'_>) -> Poll<()>
    where
        C: Classify<S::Response>,
    {
        loop {
            let full = self.send(self.rules.concurrency.get(), cx);
            let landed = self.land(shared, cx);
            if self.flights.is_empty() && self.next.is_none() && self.plan.is_empty() {
                return Poll::Ready(());
            }
            // What has landed may have made room, and pieces.
            if !landed || full.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Sends pieces while there is room. Pending if the service is not ready.
    fn send(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<()> {
        while self.flights.len() < room {
            // Readiness is taken only where there is something to send.
            let Some(piece) = self.next.take().or_else(|| self.plan.next()) else {
                break;
            };
            match self.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.break_off(piece, error.into());
                    break;
                }
                Poll::Pending => {
                    self.next = Some(piece);
                    return Poll::Pending;
                }
            }
            let request = Req::part(&self.kept, piece.items.clone());
            let future = Box::pin(self.inner.call(request));
            self.flights.push(Flight { piece, future });
        }
        Poll::Ready(())
    }

    /// Takes in what has ended. Whether anything has.
    fn land<C, M>(&mut self, shared: &Shared<C, M>, cx: &mut Context<'_>) -> bool
    where
        C: Classify<S::Response>,
    {
        let before = self.flights.len();
        let mut at = 0;
        while let Some(flight) = self.flights.get_mut(at) {
            let Poll::Ready(result) = flight.future.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let piece = self.flights.remove(at).piece;
            self.settle(shared, &piece, result.map_err(Into::into));
        }
        self.flights.len() < before
    }

    fn settle<C, M>(
        &mut self,
        shared: &Shared<C, M>,
        piece: &Piece,
        result: Result<S::Response, BoxError>,
    ) where
        C: Classify<S::Response>,
    {
        let outcome = shared.judge(&self.rules, result.as_ref());
        let items = piece.items.clone();
        let oversize = result.as_ref().err().and_then(Oversize::of);
        let said = self.rules.said(&outcome, oversize, self.safe, || {
            Req::encoded_len(&self.kept, items.clone())
        });
        tracing::trace!(?items, cause = %outcome.cause, "part");
        if self.plan.settle(piece, said) == Fate::Again {
            return;
        }
        match result {
            Ok(response) if said == Said::Delivered => self.gathered.deliver(items, response),
            result => self.gathered.fail(items, outcome.cause, result),
        }
        if self.plan.is_over() {
            self.give_up();
        }
    }

    /// The service beneath has failed for good.
    fn break_off(&mut self, piece: Piece, error: BoxError) {
        let cause = crate::outcome::Fault::of(error.as_ref());
        let cause = crate::outcome::Cause::Fault(cause);
        self.gathered.fail(piece.items, cause, Err(error));
        self.give_up();
    }

    fn give_up(&mut self) {
        let next = self.next.take().map(|piece| piece.items);
        for items in next.into_iter().chain(self.plan.give_up()) {
            self.gathered.not_sent(items);
        }
    }
}

#[cold]
fn polled_again() -> BoxError {
    "the future was polled after it had completed".into()
}

impl<S, Req, C, M> fmt::Debug for ResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
    Req: Split,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
