use std::sync::Arc;

use super::{Losses, post::Post};
use crate::{BoxError, observe::Subscription};

/// A view into a running [`DeadLetterLayer`](super::DeadLetterLayer), for as long
/// as it is wanted: clones are views of the same.
#[derive(Clone, Debug)]
pub struct DeadLetterHandle(pub(super) Arc<Post>);

impl DeadLetterHandle {
    /// How many letters were kept.
    pub fn written(&self) -> u64 {
        self.0.written()
    }

    /// How many letters were lost, by why.
    pub fn lost(&self) -> Losses {
        self.0.lost()
    }

    /// How many letters are on their way to the sink.
    pub fn pending(&self) -> usize {
        self.0.pending()
    }

    /// Waits until no letter is on its way, then makes the sink keep for good
    /// what it has. The last thing to do before a program ends: letters that are
    /// on their way when the runtime shuts down are lost.
    ///
    /// A letter is on its way for at most the layer's
    /// [`body_timeout`](super::DeadLetterLayer::body_timeout) and
    /// [`sink_timeout`](super::DeadLetterLayer::sink_timeout), and the sink's flush
    /// has the latter once more. But while requests still fail, letters still come.
    ///
    /// # Errors
    ///
    /// Those of the sink's own flush, and when that has not ended in time. A letter
    /// that was lost is none.
    pub async fn flush(&self) -> Result<(), BoxError> {
        self.0.flush().await
    }

    /// Takes over settings that were checked: at once for requests that begin, and
    /// for letters that are not on their way.
    #[cfg(feature = "config")]
    pub(crate) fn take(&self, settings: &crate::config::DeadLetterSettings) {
        self.0.retune(|own| own.take(settings));
    }

    #[cfg(all(test, feature = "config"))]
    pub(crate) fn shown(&self) -> String {
        format!("{:?}", self.0.settings())
    }

    /// Everything that the layer value which the handle was taken from does from
    /// now on.
    pub fn subscribe(&self) -> Subscription {
        self.0.seam.subscribe()
    }
}
