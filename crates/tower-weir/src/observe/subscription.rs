use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Event;

/// An [`Event`], and the host it happened to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Notice {
    /// The host; empty where requests name none.
    pub host: Arc<str>,
    /// What happened.
    pub event: Event,
}

/// A subscription to a layer's events, from the moment it was made.
///
/// Whoever falls behind by more than 256 events misses the oldest of them: a
/// slow subscriber holds nobody up.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Notice>,
    missed: u64,
}

impl Subscription {
    pub(super) fn new(receiver: Receiver<Notice>) -> Self {
        Self {
            receiver,
            missed: 0,
        }
    }

    /// The next event; `None` when the layer and all its services are gone.
    ///
    /// It is cancel safe: dropped before it is ready, it has taken nothing.
    pub async fn recv(&mut self) -> Option<Notice> {
        loop {
            match self.receiver.recv().await {
                Ok(notice) => return Some(notice),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many events this subscription has missed.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
