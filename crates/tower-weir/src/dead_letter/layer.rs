use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, request, response};
use tower_layer::Layer;

use super::{
    DeadLetter, DeadLetterHandle, DeadLetterSink,
    failed::{Judge, has_failed},
    post::{Post, Settings},
};
use crate::{
    BoxError,
    observe::{Event, Seam, Subscription},
};

/// Keeps a letter of every request that has finally failed. See the
/// [module](super).
///
/// The layer value owns the counts and what is pending: its clones, and all
/// services made from it, share them. A setter makes a new value with fresh ones,
/// over the same sink.
#[derive(Clone)]
pub struct DeadLetterLayer {
    post: Arc<Post>,
    judge: Judge,
}

impl DeadLetterLayer {
    /// Gives the letters to `sink`.
    pub fn new(sink: impl DeadLetterSink) -> Self {
        let post = Post::new(Arc::new(sink), Settings::default(), Seam::default());
        Self {
            post: Arc::new(post),
            judge: Arc::new(has_failed),
        }
    }

    fn edit(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::clone(&self.post.settings());
        change(&mut settings);
        let seam = self.post.seam.fresh();
        self.anew(settings, seam)
    }

    fn anew(self, settings: Settings, seam: Seam) -> Self {
        let post = Post::new(Arc::clone(&self.post.sink), settings, seam);
        Self {
            post: Arc::new(post),
            judge: self.judge,
        }
    }

    /// The layer with what a file says of it.
    #[cfg(feature = "config")]
    pub(crate) fn taking(self, settings: &crate::config::DeadLetterSettings) -> Self {
        self.edit(|own| own.take(settings))
    }

    /// A view into the layer while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> DeadLetterHandle {
        DeadLetterHandle(Arc::clone(&self.post))
    }

    /// Which requests have failed, by their head and by what came of them.
    /// Default: [`has_failed`].
    #[must_use]
    pub fn failed<F>(self, failed: F) -> Self
    where
        F: Fn(&request::Parts, Result<&response::Parts, &BoxError>) -> bool + Send + Sync + 'static,
    {
        Self {
            judge: Arc::new(failed),
            ..self.edit(|_| {})
        }
    }

    /// Whether a request whose caller goes away leaves a letter. Default: no,
    /// since whoever gives up has seldom finally failed.
    ///
    /// With it, dropping the future hands the letter on to a task; it needs a
    /// tokio runtime around it.
    #[must_use]
    pub fn on_cancel(self, letters: bool) -> Self {
        self.edit(|settings| settings.on_cancel = letters)
    }

    /// Whether a caller waits until its letter is kept, and gets a
    /// [`NotKept`](super::NotKept) if it cannot be. Default: no: a sink that is
    /// slow, hangs or fails does nothing to the requests.
    ///
    /// The wait is up to [`body_timeout`](Self::body_timeout) and
    /// [`sink_timeout`](Self::sink_timeout) together. Whoever waits is not
    /// counted against [`max_pending`](Self::max_pending).
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        self.edit(|settings| settings.strict = strict)
    }

    /// How many letters may be on their way to the sink. One more is lost.
    /// Default 1,024: a second of a busy service's failures.
    #[must_use]
    pub fn max_pending(self, letters: usize) -> Self {
        self.edit(|settings| settings.max_pending = letters)
    }

    /// How many bytes the bodies of letters on their way may hold together;
    /// letters beyond that go without their bodies. Lists of more than 16 attempts
    /// count too, and take the room of bodies. Default 64 MiB.
    #[must_use]
    pub fn max_pending_bytes(self, bytes: usize) -> Self {
        self.edit(|settings| settings.max_pending_bytes = bytes)
    }

    /// The longest body, in bytes, that a letter holds. Default 4 MiB, which is
    /// what the retries record ([`Account::PER_REQUEST`]); to keep more, change
    /// that too.
    ///
    /// [`Account::PER_REQUEST`]: crate::retry::Account::PER_REQUEST
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        self.edit(|settings| settings.max_body = bytes)
    }

    /// How long the letter waits for what the attempts have not read of the
    /// body: for an attempt that still sends it, and for the caller who gives it.
    /// Then the letter goes without. Default 10 s.
    #[must_use]
    pub fn body_timeout(self, limit: Duration) -> Self {
        self.edit(|settings| settings.body_timeout = limit)
    }

    /// How long the sink may take for a letter; then it counts as lost. Default
    /// 30 s.
    #[must_use]
    pub fn sink_timeout(self, limit: Duration) -> Self {
        self.edit(|settings| settings.sink_timeout = limit)
    }

    /// The headers that letters have only the names of, beside those whose values
    /// are [marked](http::HeaderValue::is_sensitive). Default: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`, `x-api-key`. This replaces
    /// them.
    #[must_use]
    pub fn leave_out(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.edit(|settings| settings.secrets = headers.into_iter().collect())
    }

    /// The name of the one host in events, for requests whose URI names none.
    #[must_use]
    pub fn for_host(self, name: impl Into<Arc<str>>) -> Self {
        self.edit(|settings| settings.host = Some(name.into()))
    }

    /// Whether the layer does anything. Default: yes.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.edit(|settings| settings.enabled = enabled)
    }

    /// Tells `observer` what the layer does, as it happens: it is called with the
    /// host and the [`Event`] on the task that caused it, so it must be quick and
    /// must not block.
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        let seam = self.post.seam.with(observer);
        let settings = Settings::clone(&self.post.settings());
        self.anew(settings, seam)
    }

    /// Everything that the layer does from now on.
    ///
    /// Set first, then subscribe: after a setter the events go elsewhere.
    pub fn subscribe(&self) -> Subscription {
        self.post.seam.subscribe()
    }
}

impl fmt::Debug for DeadLetterLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterLayer")
            .field("post", &self.post)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DeadLetterLayer {
    type Service = DeadLetter<S>;

    fn layer(&self, inner: S) -> DeadLetter<S> {
        DeadLetter {
            inner,
            post: Arc::clone(&self.post),
            judge: Arc::clone(&self.judge),
        }
    }
}
