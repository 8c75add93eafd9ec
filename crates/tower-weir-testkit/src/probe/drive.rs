use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

const MOST_POLLS: usize = 100_000;

/// At which moment a future that has been polled often enough is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropWhen {
    /// At once, while it waits.
    Waiting,
    /// When its task is woken the next time, without being polled: what it
    /// waited for may have been given to it meanwhile.
    Woken,
}

/// Polls a future at most `polls` times, each time its task is woken, and drops
/// it if it has not completed then.
///
/// With [`DropWhen::Woken`] this waits for one more wake, so it never ends if
/// none comes.
pub async fn poll_at_most<F: Future>(future: F, polls: usize, when: DropWhen) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 && when == DropWhen::Waiting => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs a future again and again, and drops it after 0, 1, 2, ... polls until it
/// completes; after every poll but the last both while it waits and when it is
/// woken. `dropped` runs after each drop and is told the polls and the moment:
/// the place to check that nothing leaked. Returns the output of the run that
/// completed and the polls that it took.
///
/// Polls follow wakes, so under paused time the timers in between fire as they
/// would otherwise. A future that nothing wakes makes this wait forever.
///
/// # Panics
/// When the future has not completed after 100,000 polls.
pub async fn drop_everywhere<F: Future>(
    mut make: impl FnMut() -> F,
    mut dropped: impl AsyncFnMut(usize, DropWhen),
) -> (F::Output, usize) {
    for polls in 0..MOST_POLLS {
        if let Some(output) = poll_at_most(make(), polls, DropWhen::Waiting).await {
            return (output, polls);
        }
        dropped(polls, DropWhen::Waiting).await;
        if polls > 0 {
            // a run may complete early where wakes are not the same every time
            match poll_at_most(make(), polls, DropWhen::Woken).await {
                Some(output) => return (output, polls),
                None => dropped(polls, DropWhen::Woken).await,
            }
        }
    }
    panic!("the future has not completed after {MOST_POLLS} polls");
}
