use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::{Request, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::alarm::Alarm;

/// How much is read of a rejected request. A connection whose caller sends more
/// is cheaper to lose than to read on.
const MOST: u64 = 8 << 20;

/// How long that takes at most.
const LONGEST: Duration = Duration::from_secs(5);

/// How long nothing may come: whoever sends at full speed is silent for a round
/// trip at most, and who does not can read the answer meanwhile.
const LULL: Duration = Duration::from_millis(500);

pin_project! {
    /// What is still to come of a rejected HTTP/1 request, which is read and thrown
    /// away before the answer.
    ///
    /// HTTP/1 has no way to tell a caller to stop. A connection that is closed under
    /// one that sends is reset, and whoever writes into it need not find the answer:
    /// nginx makes a 502 of it.
    pub(super) struct Linger<B> {
        #[pin]
        body: B,
        #[pin]
        alarm: Alarm,
        left: u64,
        until: Option<Instant>,
        // Until when something has to come.
        lull: Option<Instant>,
    }
}

impl<B: Body> Linger<B> {
    /// `None` where there is nothing to read or no use in it.
    pub(super) fn over(request: Request<B>) -> Option<Pin<Box<Self>>> {
        let can_stop = request.version() >= Version::HTTP_2;
        // It has not been told to go on, and reading would tell it.
        let waits = request.headers().contains_key(header::EXPECT);
        let body = request.into_body();
        if can_stop || waits || body.is_end_stream() || body.size_hint().lower() > MOST {
            return None;
        }
        Some(Box::pin(Self {
            body,
            alarm: Alarm::new(),
            left: MOST,
            until: None,
            lull: None,
        }))
    }

    /// Ready when the answer may go.
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let now = Instant::now();
        let until = *this.until.get_or_insert(now + LONGEST);
        let lull = this.lull.get_or_insert(now + LULL);
        while let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) {
            let Some(Ok(frame)) = frame else {
                return Poll::Ready(());
            };
            let read = frame.data_ref().map_or(0, |data| data.remaining() as u64);
            match this.left.checked_sub(read) {
                Some(left) if now < until => *this.left = left,
                _ => return Poll::Ready(()),
            }
            *lull = now + LULL;
        }
        this.alarm.poll(until.min(*lull), cx)
    }
}
