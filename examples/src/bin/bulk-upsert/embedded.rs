use std::{io, sync::Arc, sync::mpsc, thread, time::Duration};

use tokio::{runtime, sync::oneshot};
use tower_weir::BoxError;
use tower_weir_testkit::upstream::{ServiceTime, Story, Upstream};

use crate::options::Options;

const SERVICE_TIME: Duration = Duration::from_millis(20);
const SERVICE_VARIATION: f64 = 0.3;

/// An upstream on a thread of its own, so that it has no part in how the
/// client's tasks are scheduled.
pub(crate) struct Embedded {
    pub(crate) upstream: Arc<Upstream>,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Embedded {
    pub(crate) fn start(options: &Options) -> Result<Self, BoxError> {
        let slots = options.slots.get();
        let builder = Upstream::builder()
            .slots(slots)
            .service_time(ServiceTime::log_normal(SERVICE_TIME, SERVICE_VARIATION)?)
            .refusal(options.refuse.refusal(slots))
            .story(Story::open(&options.story, slots)?)
            .seed(options.seed);
        let (started, upstream) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serve = async move {
            match builder.start().await.map(Arc::new) {
                Ok(upstream) => {
                    // without a receiver there is nobody to serve
                    let _ = started.send(Ok(Arc::clone(&upstream)));
                    let _ = stopped.await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        thread::Builder::new()
            .name("upstream".to_owned())
            .spawn(move || runtime.block_on(serve))?;
        let gone = |_| Err(io::Error::other("the upstream's thread has ended"));
        Ok(Self {
            upstream: upstream.recv().unwrap_or_else(gone)?,
            _stop: stop,
        })
    }
}
