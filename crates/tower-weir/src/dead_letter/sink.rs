//! Where letters go.

use std::{fmt, future::Future, pin::Pin};

use tokio::sync::mpsc;

use super::Letter;
use crate::BoxError;

/// Takes the letters of a [`DeadLetterLayer`](super::DeadLetterLayer).
///
/// The layer calls it on a task of its own, never on that of the request, for
/// several letters at once; what it may take is bounded by the layer.
///
/// [`JsonlFile`](super::file::JsonlFile) appends them to a file,
/// [`ChannelSink`] sends them to another task, and [`sink_fn`] makes a sink of
/// an async closure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a sink for dead letters",
    label = "this does not implement `DeadLetterSink`",
    note = "wrap an async closure in `sink_fn(|letter| async move {{ .. }})`, a channel's sender in `ChannelSink::new`"
)]
pub trait DeadLetterSink: Send + Sync + 'static {
    /// Keeps a letter. It is kept when the future is ready with `Ok`. It runs on
    /// the requests' runtime, so it must not block the thread.
    ///
    /// # Errors
    ///
    /// When it could not be kept. The layer counts it as lost.
    fn deliver(&self, letter: Letter) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Makes what was kept durable. The default does nothing.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn flush(&self) -> impl Future<Output = Result<(), BoxError>> + Send {
        async { Ok(()) }
    }
}

pub(super) type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

/// A sink whose type does not show in the layer's.
pub(super) trait AnySink: Send + Sync {
    fn deliver(&self, letter: Letter) -> Kept<'_>;
    fn flush(&self) -> Kept<'_>;
}

impl<T: DeadLetterSink> AnySink for T {
    fn deliver(&self, letter: Letter) -> Kept<'_> {
        Box::pin(DeadLetterSink::deliver(self, letter))
    }

    fn flush(&self) -> Kept<'_> {
        Box::pin(DeadLetterSink::flush(self))
    }
}

/// Makes a sink of an async closure.
///
/// ```
/// use tower_weir::dead_letter::{DeadLetterLayer, sink_fn};
///
/// let layer = DeadLetterLayer::new(sink_fn(|letter| async move {
///     println!("{} {} failed", letter.method, letter.uri);
///     Ok(())
/// }));
/// # let _ = layer;
/// ```
pub fn sink_fn<F, Fut>(f: F) -> SinkFn<F>
where
    F: Fn(Letter) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    SinkFn(f)
}

/// A sink made by [`sink_fn`].
#[derive(Clone, Copy)]
pub struct SinkFn<F>(F);

impl<F, Fut> DeadLetterSink for SinkFn<F>
where
    F: Fn(Letter) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    fn deliver(&self, letter: Letter) -> impl Future<Output = Result<(), BoxError>> + Send {
        (self.0)(letter)
    }
}

impl<F> fmt::Debug for SinkFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SinkFn")
    }
}

/// A sink that sends letters to whoever receives them: a bounded channel.
///
/// While the channel is full, letters wait, as many as the
/// [layer](super::DeadLetterLayer::max_pending) lets wait.
///
/// ```
/// use tower_weir::dead_letter::{ChannelSink, DeadLetterLayer};
///
/// let (letters, mut received) = tokio::sync::mpsc::channel(64);
/// let layer = DeadLetterLayer::new(ChannelSink::new(letters));
/// # let _ = (layer, received.try_recv());
/// ```
#[derive(Clone, Debug)]
pub struct ChannelSink(mpsc::Sender<Letter>);

impl ChannelSink {
    /// Sends letters to `letters`. A letter is kept when the channel has it, and
    /// lost when its receiver is gone.
    pub const fn new(letters: mpsc::Sender<Letter>) -> Self {
        Self(letters)
    }
}

impl DeadLetterSink for ChannelSink {
    async fn deliver(&self, letter: Letter) -> Result<(), BoxError> {
        let sent = self.0.send(letter).await;
        sent.map_err(|_| "the letters' receiver is gone".into())
    }
}
