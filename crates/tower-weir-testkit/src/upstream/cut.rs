use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tonic::{Status, body::Body};

/// A body that is sent whole, or only as far as the half of its first piece,
/// after which the connection is told to close.
#[derive(Debug)]
pub(super) struct MaybeCut {
    inner: Body,
    cut: Option<Arc<Notify>>,
    sent: bool,
}

impl MaybeCut {
    pub(super) const fn whole(inner: Body) -> Self {
        Self {
            inner,
            cut: None,
            sent: false,
        }
    }

    pub(super) const fn half(inner: Body, cut: Arc<Notify>) -> Self {
        Self {
            inner,
            cut: Some(cut),
            sent: false,
        }
    }
}

impl http_body::Body for MaybeCut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(cut) = &this.cut else {
            return Pin::new(&mut this.inner).poll_frame(cx);
        };
        if !this.sent {
            let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
            this.sent = true;
            if let Some(Ok(frame)) = frame
                && let Ok(mut data) = frame.into_data()
            {
                data.truncate(data.len() / 2);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        // pending lets the connection flush what it has before it closes
        cut.notify_one();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
