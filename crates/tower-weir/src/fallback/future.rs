use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use super::{Fallen, FellBack, cause::Causes, layer::Rules, service::Record, way::Way};
use crate::{
    BoxError,
    observe::Event,
    outcome::{Classify, Protocol, judge},
};

pin_project! {
    /// The future of a [`Fallback`](super::Fallback) service's answer.
    pub struct ResponseFuture<F, Res, W, C>
    where
        W: Way<Res>,
    {
        #[pin]
        state: State<F, Res, W, W::Answer>,
        rules: Arc<Rules<C>>,
        protocol: Protocol,
        record: Option<Record>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Res, W, A> {
        Own {
            #[pin]
            future: F,
            way: Option<W>,
        },
        Other {
            #[pin]
            answer: A,
            fallen: Fallen,
            // The upstream's, should there be no other; unless it is not whole.
            own: Option<Result<Res, BoxError>>,
        },
        Done,
    }
}

impl<F, Res, W, C> ResponseFuture<F, Res, W, C>
where
    W: Way<Res>,
{
    pub(super) fn new(
        future: F,
        rules: Arc<Rules<C>>,
        protocol: Protocol,
        record: Option<Record>,
        way: W,
    ) -> Self {
        let way = rules.enabled.then_some(way);
        Self {
            state: State::Own { future, way },
            rules,
            protocol,
            record,
        }
    }
}

impl<F, Res, E, W, C> Future for ResponseFuture<F, Res, W, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    W: Way<Res>,
    C: Classify<Res>,
{
    type Output = Result<W::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Own { future, way } => {
                    let own = ready!(future.poll(cx)).map_err(Into::into);
                    let way = way.take();
                    let fallen = way.as_ref().and_then(|_| {
                        fallen(this.rules, *this.protocol, this.record.as_ref(), &own)
                    });
                    let (Some(way), Some(fallen)) = (way, fallen) else {
                        break own.map(W::own);
                    };
                    let whole = own.as_ref().map_or(true, |own| way.keeps(own));
                    match way.answer(fallen) {
                        Ok(answer) => this.state.set(State::Other {
                            answer,
                            fallen,
                            own: whole.then_some(own),
                        }),
                        Err(error) => {
                            in_vain(this.rules, fallen, &error);
                            break own.map(W::own);
                        }
                    }
                }
                StateProj::Other {
                    answer,
                    fallen,
                    own,
                } => match ready!(answer.poll(cx)) {
                    Ok(answered) => {
                        let mark = FellBack {
                            cause: fallen.cause,
                            result: fallen.outcome.cause,
                        };
                        let event = Event::FellBack(mark);
                        this.rules.seam.tell(&this.rules.host, event);
                        break Ok(W::others(answered, mark));
                    }
                    Err(error) => {
                        in_vain(this.rules, *fallen, &error);
                        break match own.take() {
                            Some(own) => own.map(W::own),
                            None => Err(error),
                        };
                    }
                },
                StateProj::Done => {
                    break Err("the future was polled after it had completed".into());
                }
            }
        };
        this.state.set(State::Done);
        *this.record = None;
        Poll::Ready(result)
    }
}

/// What is to be known of a result for which there is another answer.
fn fallen<Res, C: Classify<Res>>(
    rules: &Rules<C>,
    protocol: Protocol,
    record: Option<&Record>,
    own: &Result<Res, BoxError>,
) -> Option<Fallen> {
    let outcome = judge(&rules.classifier, protocol, own.as_ref());
    let recorder = record.map(|record| &record.recorder);
    let ending = recorder.and_then(crate::retry::Recorder::ending);
    let error = own.as_ref().err();
    let held = Causes::held(&outcome, error, ending);
    let recorder = recorder.filter(|recorder| recorder.count() > 0);
    let processed = recorder.map_or(outcome.processed, crate::retry::Recorder::processed);
    // A timeout that is followed by an open circuit may have been processed.
    let cause = rules.cause(held, &outcome.with_processed(processed), error)?;
    Some(Fallen {
        cause,
        outcome,
        processed,
    })
}

fn in_vain<C>(rules: &Rules<C>, fallen: Fallen, error: &BoxError) {
    let event = Event::FallbackFailed {
        cause: fallen.cause,
        error: error.to_string().into(),
    };
    rules.seam.tell(&rules.host, event);
}

impl<F, Res, W: Way<Res>, C> fmt::Debug for ResponseFuture<F, Res, W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
