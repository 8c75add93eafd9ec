//! An upstream that throttles, slows down and dies, as its story says.
//!
//! An [`Upstream`] is a real server on the loopback. It speaks HTTP/1, HTTP/2
//! (by prior knowledge) and gRPC (the [`VectorIndex`](crate::proto) service) on
//! one port, and serves as many requests at once as it has slots, each for a
//! drawn [`ServiceTime`]. Its [`Refusal`] says what becomes of the others, and its
//! [`Story`] what else goes wrong, and when.
//!
//! Over HTTP it takes any request, stores the ids of the records in its JSON
//! body (`{"records": [{"id": "a", "vector": [..]}, ..]}`, a bare array, or one
//! record) and answers `{"accepted": 1}`. `GET /healthz` and `GET /stats` are
//! answered at once and are no attempts. Over gRPC a call takes a slot once,
//! when it begins; what it streams afterwards takes none.
//!
//! The slots are an [`AdmissionLayer`](tower_weir::server::AdmissionLayer), which
//! lets requests have them in their turn and rejects those it has no room for.
//! What it says to them is cut down to what the [`Refusal`] says, unless that is
//! [`measured`](Refusal::measured). Troubles are apart from it.
//!
//! A request's body is read while it waits, and that of a rejected gRPC call not
//! at all. A slot is taken for the time of the service, and until the body is here
//! where that takes longer. A caller that goes away, or is cut off, frees its slot
//! and has stored nothing.
//!
//! ```
//! use tower_weir_testkit::upstream::{RefuseMode, Story, Upstream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let upstream = Upstream::builder()
//!     .slots(8)
//!     .refusal(RefuseMode::Queue.refusal(8))
//!     .story(Story::default_for(8))
//!     .start()
//!     .await?;
//! println!("POST to {}", upstream.url());
//! assert_eq!(upstream.stats().attempts, 0);
//! upstream.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod cut;
mod engine;
mod front;
mod grpc;
mod http;
mod ids;
mod phase;
mod record;
mod schedule;
mod service_time;
mod story;
#[cfg(test)]
mod tests;
mod throttle;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{self, Instant},
};

use self::{
    engine::Engine,
    schedule::{Rules, Schedule},
};
pub use self::{
    phase::{Answer, InvalidPhase, Phase, Refusal, RefuseMode, Trouble, TroubleKind},
    record::{Point, Stats, TimeLine},
    service_time::{InvalidServiceTime, ServiceTime},
    story::{Story, StoryError},
};
use crate::net::{self, Port};

const LARGEST_BODY: usize = 64 << 20;
const RELISTEN_PAUSE: Duration = Duration::from_millis(10);

/// A throttling server. Dropping it stops it and cuts its connections.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    engine: Arc<Engine>,
    tasks: JoinSet<()>,
}

impl Upstream {
    /// An upstream of 8 slots, 20 ms of service, refusals that say nothing, no
    /// story, seed 0, and any free port of 127.0.0.1.
    pub fn builder() -> Builder {
        Builder {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            slots: 8,
            service: ServiceTime::constant(Duration::from_millis(20)),
            refusal: Refusal::default(),
            story: Story::none(),
            seed: 0,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as an `http` URL without a path: for HTTP clients, and for
    /// tonic's `Endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address as a `grpc` URL, by which programs that speak both protocols
    /// are told to use gRPC.
    pub fn grpc_url(&self) -> String {
        format!("grpc://{}", self.addr)
    }

    /// What it has counted so far.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Its in-flight count and its capacity over time.
    pub fn time_line(&self) -> TimeLine {
        self.engine.time_line()
    }

    /// The shortest time in which the work done so far could have been done
    /// with the capacity there was: [`TimeLine::ideal_time`] of
    /// [`Stats::slot_time`].
    pub fn ideal_time(&self) -> Option<Duration> {
        self.time_line().ideal_time(self.stats().slot_time)
    }

    /// How often this id was stored.
    pub fn stored(&self, id: &str) -> u64 {
        self.engine.stored(id)
    }

    /// Changes the number of slots until the next phase. Requests in slots that
    /// are taken away are served to their end.
    pub fn set_slots(&self, slots: usize) {
        self.engine.set_slots(slots);
    }

    /// Ends the story with this phase, which begins now; after it the upstream
    /// is as its builder has it.
    ///
    /// # Errors
    /// When the phase cannot be played, as in [`Story::new`].
    pub fn set_phase(&self, phase: Phase) -> Result<(), InvalidPhase> {
        self.engine.play(phase)
    }

    /// Stops it, and waits until its listener and connections are closed.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Sets up an [`Upstream`].
#[derive(Clone, Debug)]
pub struct Builder {
    addr: SocketAddr,
    slots: usize,
    service: ServiceTime,
    refusal: Refusal,
    story: Story,
    seed: u64,
}

impl Builder {
    /// How many requests are served at once, where the story does not say.
    /// Default: 8.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// How long a request keeps its slot. Default: 20 ms.
    #[must_use]
    pub fn service_time(mut self, service: ServiceTime) -> Self {
        self.service = service;
        self
    }

    /// What becomes of a request that finds no free slot, where the story does
    /// not say. Default: refused at once, without a hint.
    #[must_use]
    pub fn refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = refusal;
        self
    }

    /// What happens to it. Default: nothing.
    #[must_use]
    pub fn story(mut self, story: Story) -> Self {
        self.story = story;
        self
    }

    /// The seed of service times and troubles. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Where to listen; port 0 is any free port. Default: 127.0.0.1, port 0.
    #[must_use]
    pub fn addr(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the address cannot be had.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn start(self) -> io::Result<Upstream> {
        let rules = Rules::plain(self.slots, self.refusal);
        let schedule = Schedule::new(rules, self.story, Instant::now());
        let engine = Arc::new(Engine::new(schedule, self.service, self.seed));

        let port = Port::reserve(self.addr)?;
        let addr = port.addr();
        let outage = *engine.outage.borrow();
        let listener = if outage { None } else { Some(port.listen()?) };

        let mut tasks = JoinSet::new();
        tasks.spawn(listen(port, listener, Arc::clone(&engine)));
        let director = Arc::clone(&engine);
        tasks.spawn(async move { director.direct().await });
        Ok(Upstream {
            addr,
            engine,
            tasks,
        })
    }
}

/// Serves except in outages, whose beginning cuts all connections.
async fn listen(port: Port, mut listener: Option<TcpListener>, engine: Arc<Engine>) {
    let mut outage = engine.outage.subscribe();
    loop {
        // the engine holds the sender, so waiting cannot fail
        let _ = outage.wait_for(|outage| !outage).await;
        match listener.take().map_or_else(|| port.listen(), Ok) {
            Ok(listener) => tokio::select! {
                () = serve(listener, &engine) => {}
                _ = outage.wait_for(|outage| *outage) => {}
            },
            Err(_) => time::sleep(RELISTEN_PAUSE).await,
        }
    }
}

async fn serve(listener: TcpListener, engine: &Arc<Engine>) {
    net::serve(listener, |stream| {
        let engine = Arc::clone(engine);
        async move {
            if stream.set_nodelay(true).is_ok() {
                front::connection(stream, engine).await;
            }
        }
    })
    .await;
}
