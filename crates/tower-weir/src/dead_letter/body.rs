//! Getting the body of a request that has failed.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::Absent;
use crate::{
    BoxError,
    alarm::Alarm,
    deadline::far,
    retry::{Recorder, ReplayBody, ReplayHandle},
};

/// Reads the body to its end, up to `most` bytes, once no attempt needs it.
pub(super) async fn read(
    recorder: &Recorder,
    most: usize,
    limit: Duration,
) -> Result<Bytes, Absent> {
    let handle = recorder.body().ok_or(Absent::NotRecorded)?;
    let whole = async {
        let body = poll_fn(|cx| handle.poll_take_idle(cx)).await?;
        collect(&handle, body, most).await
    };
    within(limit, whole).await.unwrap_or(Err(Absent::TimedOut))
}

async fn collect(
    handle: &ReplayHandle,
    mut body: ReplayBody<()>,
    most: usize,
) -> Result<Bytes, Absent> {
    if body.size_hint().lower() > most as u64 {
        return Err(Absent::TooLong);
    }
    let (mut pieces, mut length) = (Vec::new(), 0);
    while let Some(frame) = next(&mut body).await {
        // Beyond the cap there is no record, and no reason to read on.
        handle.not_replayable().map_or(Ok(()), Err)?;
        let Ok(data) = frame.map_err(|_| Absent::Failed)?.into_data() else {
            continue;
        };
        length += data.len();
        if length > most {
            return Err(Absent::TooLong);
        }
        pieces.push(data);
    }
    Ok(joined(pieces, length))
}

async fn next(body: &mut ReplayBody<()>) -> Option<Result<Frame<Bytes>, BoxError>> {
    poll_fn(|cx| {
        let mut poll = || Pin::new(&mut *body).poll_frame(cx);
        // A caller's body that panics is no reason to lose all of the letter.
        catch_unwind(AssertUnwindSafe(&mut poll))
            .unwrap_or_else(|_| Poll::Ready(Some(Err("the body panicked".into()))))
    })
    .await
}

fn joined(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(length);
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    whole.freeze()
}

/// What `future` comes to, or `None` when it has not by the end of `limit`.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let end = far(Instant::now(), limit);
    let (mut future, mut alarm) = (pin!(future), pin!(Alarm::new()));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => alarm.as_mut().poll(end, cx).map(|()| None),
    })
    .await
}
