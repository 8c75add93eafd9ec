use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// One timer for a whole call, made when it is first needed: a call that is
    /// answered at once makes none.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    pub(crate) const fn new() -> Self {
        Self { sleep: None }
    }

    /// Ready once `at` has passed.
    pub(crate) fn poll(self: Pin<&mut Self>, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.project().sleep;
        match sleep.as_mut().as_pin_mut() {
            None => sleep.set(Some(sleep_until(at))),
            Some(sleep) if sleep.deadline() != at => sleep.reset(at),
            Some(_) => {}
        }
        match sleep.as_pin_mut() {
            Some(sleep) => sleep.poll(cx),
            None => Poll::Pending,
        }
    }
}
