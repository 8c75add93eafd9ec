//! Getting letters to the sink, off the way of the requests.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::Duration,
};

use http::HeaderName;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Absent, LetterAttempt, LetterBody, Loss, Losses,
    body::{self, within},
    case::{Failed, SECRETS},
    letter::chain,
    losses::{Bulletin, Tell},
    sink::AnySink,
};
use crate::{
    BoxError,
    observe::{Event, Seam},
};

/// So many attempts of a letter weigh nothing: less than the rest of it takes anyway.
const FREE_ATTEMPTS: usize = 16;

/// What a layer may be told of its letters.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    pub(super) strict: bool,
    pub(super) on_cancel: bool,
    pub(super) max_pending: usize,
    pub(super) max_pending_bytes: usize,
    pub(super) max_body: usize,
    pub(super) body_timeout: Duration,
    pub(super) sink_timeout: Duration,
    pub(super) secrets: Arc<[HeaderName]>,
    pub(super) host: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            strict: false,
            on_cancel: false,
            max_pending: 1024,
            max_pending_bytes: 64 << 20,
            max_body: 4 << 20,
            body_timeout: Duration::from_secs(10),
            sink_timeout: Duration::from_secs(30),
            secrets: Arc::new(SECRETS),
            host: None,
        }
    }
}

#[cfg(feature = "config")]
impl Settings {
    /// Takes over what a file says.
    pub(super) fn take(&mut self, said: &crate::config::DeadLetterSettings) {
        self.enabled = said.enabled;
        self.strict = said.strict;
        self.on_cancel = said.on_cancel;
        self.max_pending = said.max_pending;
        self.max_pending_bytes = said.max_pending_bytes;
        self.max_body = said.max_body;
        self.body_timeout = said.body_timeout;
        self.sink_timeout = said.sink_timeout;
    }
}

/// The way of a layer's letters to its sink, and what became of them.
pub(super) struct Post {
    pub(super) sink: Arc<dyn AnySink>,
    /// Read for each request, and once for all of a letter.
    settings: RwLock<Arc<Settings>>,
    pub(super) seam: Seam,
    books: Mutex<Books>,
    /// Told when a letter is settled.
    settled: Notify,
}

#[derive(Default)]
struct Books {
    pending: usize,
    bytes: usize,
    written: u64,
    losses: Losses,
    bulletin: Bulletin,
}

/// What became of a letter, for who waits for it.
pub(super) type Receipt = oneshot::Receiver<Result<(), Loss>>;

/// A letter on its way. It settles when it is dropped; without a result, it is lost.
struct Pending {
    post: Arc<Post>,
    host: String,
    bytes: usize,
    receipt: Option<oneshot::Sender<Result<(), Loss>>>,
    result: Option<Result<(), Loss>>,
    /// What the sink said.
    error: Option<Arc<str>>,
}

impl Post {
    pub(super) fn new(sink: Arc<dyn AnySink>, settings: Settings, seam: Seam) -> Self {
        Self {
            sink,
            settings: RwLock::new(Arc::new(settings)),
            seam,
            books: Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// What holds for the letters to come.
    pub(super) fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(feature = "config")]
    pub(super) fn retune(&self, change: impl FnOnce(&mut Settings)) {
        let settings = self.settings.write();
        let mut settings = settings.unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut settings));
    }

    /// Sends a letter off. It returns at once.
    pub(super) fn send(self: &Arc<Self>, settings: Arc<Settings>, failed: Failed) -> Receipt {
        let (sender, receipt) = oneshot::channel();
        let host = match &settings.host {
            Some(host) => host.to_string(),
            None => failed.case.host(),
        };
        // A patient writer's letter may have a thousand.
        let counted = failed.case.recorder.count().saturating_sub(FREE_ATTEMPTS);
        let bytes = counted * mem::size_of::<LetterAttempt>();
        let full = {
            let mut books = self.books();
            // Those who wait for their letters bound themselves.
            let full = books.pending >= settings.max_pending && !settings.strict;
            books.pending += 1;
            books.bytes += bytes;
            full
        };
        let mut pending = Pending {
            post: Arc::clone(self),
            host,
            bytes,
            receipt: Some(sender),
            result: None,
            error: None,
        };
        if full {
            failed.case.close();
            pending.result = Some(Err(Loss::Full));
        } else if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(deliver(settings, failed, pending));
        }
        receipt
    }

    pub(super) fn written(&self) -> u64 {
        self.books().written
    }

    pub(super) fn lost(&self) -> Losses {
        self.books().losses
    }

    pub(super) fn pending(&self) -> usize {
        self.books().pending
    }

    /// Waits until no letter is pending, and flushes the sink, for as long as a
    /// letter may take.
    pub(super) async fn flush(&self) -> Result<(), BoxError> {
        loop {
            let settled = self.settled.notified();
            if self.pending() == 0 {
                break;
            }
            settled.await;
        }
        let flushed = within(self.settings().sink_timeout, self.sink.flush()).await;
        flushed.unwrap_or_else(|| Err("the sink was not flushed in time".into()))
    }

    /// Enters what became of a letter in the books; what is to be told of it.
    fn account_for(
        &self,
        result: Result<(), Loss>,
        error: Option<Arc<str>>,
        bytes: usize,
    ) -> Option<Tell> {
        let mut books = self.books();
        books.pending -= 1;
        books.bytes -= bytes;
        match result {
            Ok(()) => {
                books.written += 1;
                None
            }
            Err(why) => {
                books.losses.count(why);
                Some(books.bulletin.lost(why, error, Instant::now()))
            }
        }
    }

    fn tell(self: &Arc<Self>, host: &str, tell: Tell) {
        match tell {
            Tell::Now(why, letters, error) => {
                let event = Event::LettersLost {
                    why,
                    letters,
                    error,
                };
                self.seam.tell(host, event);
            }
            Tell::At(when) => {
                let Ok(runtime) = Handle::try_current() else {
                    return;
                };
                let (post, host) = (Arc::clone(self), host.to_owned());
                runtime.spawn(async move {
                    sleep_until(when).await;
                    let due = post.books().bulletin.due(Instant::now());
                    post.tell(&host, due);
                });
            }
            Tell::Later => {}
        }
    }

    /// Takes room for a body, if there is any.
    fn make_room(&self, bytes: usize, of: usize) -> bool {
        let mut books = self.books();
        let room = of.checked_sub(books.bytes);
        let fits = room.is_some_and(|room| bytes <= room);
        if fits {
            books.bytes += bytes;
        }
        fits
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn deliver(settings: Arc<Settings>, failed: Failed, mut pending: Pending) {
    let post = Arc::clone(&pending.post);
    let recorder = &failed.case.recorder;
    let read = body::read(recorder, settings.max_body, settings.body_timeout).await;
    let body = match read {
        Ok(body) if pending.weigh(body.len(), settings.max_pending_bytes) => {
            LetterBody::Whole(body)
        }
        Ok(_) => LetterBody::Absent(Absent::NoRoom),
        Err(why) => LetterBody::Absent(why),
    };
    let (cause, ending) = (recorder.outcome().map(|one| one.cause), recorder.ending());
    let recorder = recorder.clone();
    let ours = failed.case.is_ours();
    let letter = failed.letter(body, &settings.secrets);
    if ours {
        recorder.close();
    }
    let kept = within(settings.sink_timeout, post.sink.deliver(letter)).await;
    let result = match kept {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            pending.error = Some(chain(&error).into());
            Err(Loss::Failed)
        }
        None => Err(Loss::TimedOut),
    };
    pending.result = Some(result);
    if result.is_ok() {
        let event = Event::DeadLetter { cause, ending };
        post.seam.tell(&pending.host, event);
    }
}

impl Pending {
    fn weigh(&mut self, bytes: usize, of: usize) -> bool {
        let fits = self.post.make_room(bytes, of);
        if fits {
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let panicking = thread::panicking();
        let result = self.result.unwrap_or(Err(match panicking {
            true => Loss::Failed,
            false => Loss::ShutDown,
        }));
        let lost = panicking && self.result.is_none();
        let error = self
            .error
            .take()
            .or(lost.then(|| "the sink panicked".into()));
        let tell = self.post.account_for(result, error, self.bytes);
        // An observer may panic, and those who wait for the letter wait all the
        // same. If it was the observer that panicked a second panic would end the
        // process.
        let told = catch_unwind(AssertUnwindSafe(|| {
            if let Some(tell) = tell {
                self.post.tell(&self.host, tell);
            }
        }));
        if let Some(receipt) = self.receipt.take() {
            // The caller may have gone away.
            let _ = receipt.send(result);
        }
        self.post.settled.notify_waiters();
        if let (Err(panic), false) = (told, panicking) {
            resume_unwind(panic);
        }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.books();
        f.debug_struct("Post")
            .field("pending", &books.pending)
            .field("written", &books.written)
            .field("losses", &books.losses)
            .finish_non_exhaustive()
    }
}
