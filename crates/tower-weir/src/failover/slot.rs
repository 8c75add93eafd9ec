use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use super::{DownCause, board::Tried, shared::Shared};
use crate::BoxError;

/// The service that one clone of a failover has made ready.
///
/// No more than one is ready, and none waits while another one is: a permit that
/// an idle service holds, or is about to be given, is missing elsewhere.
pub(super) enum Slot<S> {
    Empty,
    Ready(usize, S),
    // Boxed: regions are nearly always ready at once.
    Waiting(Box<Waiting<S>>),
}

/// Regions of which none is ready yet.
pub(super) struct Waiting<S> {
    services: Vec<(usize, S)>,
    /// Another region may be chosen.
    changed: Option<Pin<Box<OwnedNotified>>>,
    /// A region that is down may be probed.
    due: Option<Pin<Box<Sleep>>>,
}

impl<S> Slot<S> {
    /// Gets the first region ready that can be; those before it are given up.
    pub(super) fn poll<C>(
        &mut self,
        shared: &Shared<S, C>,
        cx: &mut Context<'_>,
        poll_ready: impl Fn(&mut S, &mut Context<'_>) -> Poll<Result<(), BoxError>>,
    ) -> Poll<Result<(), BoxError>>
    where
        S: Clone,
    {
        let core = &*shared.core;
        core.look_for_shut(Instant::now());
        let mut waiting = match std::mem::replace(self, Self::Empty) {
            Self::Ready(region, service) if core.board(|board| board.keeps(region)) => {
                *self = Self::Ready(region, service);
                return Poll::Ready(Ok(()));
            }
            Self::Waiting(waiting) => Some(waiting),
            Self::Ready(..) | Self::Empty => None,
        };
        loop {
            let now = Instant::now();
            let (mut tried, mut pending, mut error) = (Tried::default(), Vec::new(), None);
            while let Some(region) = core.candidate(now, tried) {
                tried.add(region);
                let waited = waiting.as_mut().and_then(|waiting| waiting.take(region));
                let mut service = waited.unwrap_or_else(|| shared.service(region));
                match poll_ready(&mut service, cx) {
                    Poll::Ready(Ok(())) => {
                        *self = Self::Ready(region, service);
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(why)) => {
                        core.shut(region, DownCause::NotReady, now);
                        error = Some(why);
                    }
                    Poll::Pending => pending.push((region, service)),
                }
            }
            if let (true, Some(error)) = (pending.is_empty(), error) {
                return Poll::Ready(Err(error));
            }
            let waiting = waiting.get_or_insert_with(Waiting::boxed);
            waiting.services = pending;
            // Looks once more after it has begun to listen, or a change between
            // the two would go unheard.
            let listening = waiting.changed.is_some();
            let changed = waiting
                .changed
                .get_or_insert_with(|| Box::pin(core.changed().clone().notified_owned()));
            if changed.as_mut().poll(cx).is_ready() {
                waiting.changed = None;
                continue;
            }
            if !listening || waiting.poll_due(core.board(|board| board.next_due(now)), cx) {
                continue;
            }
            break;
        }
        if let Some(waiting) = waiting {
            *self = Self::Waiting(waiting);
        }
        Poll::Pending
    }

    /// The region that is ready.
    pub(super) fn region(&self) -> Option<usize> {
        match self {
            Self::Ready(region, _) => Some(*region),
            Self::Waiting(_) | Self::Empty => None,
        }
    }

    /// Takes the region's service, if that is the one that is ready. Any other is
    /// given up.
    pub(super) fn take(&mut self, region: usize) -> Option<S> {
        match std::mem::replace(self, Self::Empty) {
            Self::Ready(ready, service) if ready == region => Some(service),
            _ => None,
        }
    }
}

impl<S> Waiting<S> {
    fn boxed() -> Box<Self> {
        Box::new(Self {
            services: Vec::new(),
            changed: None,
            due: None,
        })
    }

    fn take(&mut self, region: usize) -> Option<S> {
        let mut services = self.services.iter();
        let index = services.position(|(other, _)| *other == region)?;
        Some(self.services.swap_remove(index).1)
    }

    /// Whether the moment has come; else its task is woken when it comes.
    fn poll_due(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(at) = at else {
            return false;
        };
        let due = self.due.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if due.deadline() != at {
            due.as_mut().reset(at);
        }
        due.as_mut().poll(cx).is_ready()
    }
}
